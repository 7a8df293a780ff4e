// How fast this machine reads and multiplies: the bounds that benchmarks/profile.py holds a step against.
#include <cstdint>

#include "lanes.h"

// Sums that are under way at once: two units that take 4 cycles each want 8 or more.
static constexpr int CHAINS = 12;

// Reads `bytes` (a multiple of 256 for each thread is what counts) and answers something made of all of them.
extern "C" int64_t lorry_probe_read(const void *memory, int64_t bytes, int threads) {
    int64_t seen = 0;
#pragma omp parallel for num_threads(threads) reduction(^ : seen)
    for (long part = 0; part < threads; part++) {
        long begin = bytes / 256 * part / threads * 256, end = bytes / 256 * (part + 1) / threads * 256;
        Bits sums[8] = {};
        for (long at = begin; at < end; at += 8 * (long)sizeof(Bits))
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) sums[i] ^= *(const Bits *)((const char *)memory + at + i * sizeof(Bits));
        for (auto &each : sums)
            for (int i = 0; i < LANES; i++) seen ^= each[i];
    }
    return seen;
}

// Multiplies and adds in registers, `rounds` times CHAINS vectors on each thread. The sum of all, so that nothing is left out.
template <class X> static float multiplied(int64_t rounds, int threads, X x) {
    float seen = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : seen)
    for (long part = 0; part < threads; part++) {
        Vec sums[CHAINS], factor = all(0.999999f);
        for (int i = 0; i < CHAINS; i++) sums[i] = all(1.0f + i + part);
        for (long round = 0; round < rounds; round++)
#pragma GCC unroll 12
            for (int i = 0; i < CHAINS; i++) sums[i] = added(sums[i], factor, x);
        for (auto &each : sums) seen += sum(each);
    }
    return seen;
}

// Multiplications and additions that were done. pairs: of bfloat16, two of each for each of float32.
extern "C" int64_t lorry_probe_multiply(int64_t rounds, int pairs, int threads) {
    float seen = pairs ? multiplied(rounds, threads, Pair{0x3f803f80}) : multiplied(rounds, threads, 0.999999f);
    return seen == 0 ? 0 : (pairs ? 4 : 2) * rounds * threads * CHAINS * LANES;
}
