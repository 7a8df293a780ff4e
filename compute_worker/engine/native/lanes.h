// Vectors of floats, as wide as the machine's registers, and the types that weights are stored in.
//
// Everything is summed up in float32: a bfloat16 is widened when it is read, a pair of them multiplied by another
// pair. The width comes from the compiler's target; -DLANES=16 on a narrower machine gives the same results from
// two registers each, which is how the wide variant is tested where it cannot run.
#pragma once
#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifndef LANES
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#endif

// Stored anywhere: loads and stores through these types assume no alignment.
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

struct bfloat16 {
    uint16_t bits;
};

// Two that follow each other along a sum, the first in the low half.
struct Pair {
    uint32_t bits;
};

// What memory holds of a stored type.
template <class W> using Number = std::conditional_t<std::is_same_v<W, float>, float, bfloat16>;

static inline Vec load(const float *p) { return *(const Vec *)p; }
// Each half to a word of its own: GCC 12 makes four instructions of a conversion that is one, and warns of its own _mm512_cvtepu16_epi32.
static inline Bits widened(const bfloat16 *p) {
#if LANES == 8 && defined(__AVX2__)
    return (Bits)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
#elif LANES == 16 && defined(__AVX512F__)
    return (Bits)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_loadu_si256((const __m256i *)p));
#else
    return __builtin_convertvector(*(const Halves *)p, Bits);
#endif
}
static inline Vec load(const bfloat16 *p) { return (Vec)(widened(p) << 16); }
// Of two rows, each number beside the other's.
static inline Vec woven(const bfloat16 *first, const bfloat16 *second) {
    return (Vec)(widened(first) | widened(second) << 16);
}
static inline float scalar(float x) { return x; }
static inline float scalar(bfloat16 x) {
    uint32_t bits = (uint32_t)x.bits << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

static inline void store(float *p, Vec x) { *(Vec *)p = x; }
static inline void put(float *p, float x) { *p = x; }
// Rounded to nearest, ties to even; a NaN stays one.
static inline void put(bfloat16 *p, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    p->bits = x != x ? 0x7fc0 : (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline Vec all(float x) { return x - Vec{}; }

// sums + w * x, where x is read from memory: a register for it would be one of those that many sums need, and GCC would
// rather take it and put sums aside.
static inline Vec added(Vec sums, Vec w, const float &x) {
#if LANES == 16 && defined(__AVX512F__)
    asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(x));
    return sums;
#else
    return sums + w * x;
#endif
}
// Of pairs, both products of each word. Without the instruction for it they are widened, so that tests can compare.
static inline Vec added(Vec sums, Vec w, const Pair &x) {
#ifdef __AVX512BF16__
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sums) : "v"(w), "m"(x));
    return sums;
#else
    Vec first = (Vec)((Bits)w << 16), second = (Vec)((Bits)w & 0xffff0000);
    sums += first * scalar(bfloat16{(uint16_t)x.bits});
    return sums + second * scalar(bfloat16{(uint16_t)(x.bits >> 16)});
#endif
}

// A vector as it is, or rounded, in half as many pairs.
static inline void put(float *p, Vec x) { store(p, x); }
static inline void put(Pair *p, Vec x) {
#ifdef __AVX512BF16__
    _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)x));
#else
    for (int i = 0; i < LANES; i++) put((bfloat16 *)p + i, x[i]);
#endif
}

// x [size] in pairs, rounded; behind an odd size comes a zero.
static inline void pair(const float *x, long size, Pair *pairs) {
    bfloat16 *to = (bfloat16 *)pairs;
    long i = 0;
    for (; i + LANES <= size; i += LANES) put(pairs + i / 2, load(x + i));
    for (; i < size; i++) put(to + i, x[i]);
    if (size % 2) to[size] = {0};
}

typedef float Four __attribute__((vector_size(16)));

static inline Four four(const float *p) {
    Four x;
    memcpy(&x, p, sizeof x);
    return x;
}
static inline Four four(const bfloat16 *p) { return Four{scalar(p[0]), scalar(p[1]), scalar(p[2]), scalar(p[3])}; }
static inline void put(float *p, Four x) { memcpy(p, &x, sizeof x); }

// A vector's fourths joined: what lies at i, i + 4, i + 8 ...
template <class F> static inline Four fold(Vec x, F join) {
#if LANES == 16
    auto e = join(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),
                  __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15));
#else
    Vec e = x;
#endif
    return join(__builtin_shufflevector(e, e, 0, 1, 2, 3), __builtin_shufflevector(e, e, 4, 5, 6, 7));
}
static inline Four fold(Vec x) {
    return fold(x, [](auto a, auto b) { return a + b; });
}

static inline float sum(Vec x) {
    Four f = fold(x);
    f += __builtin_shufflevector(f, f, 2, 3, 0, 1);
    return f[0] + f[1];
}

// The larger and the smaller ones; b where either is NaN. Masked by nothing: GCC 12 warns of its own _mm512_max_ps.
static inline Vec larger(Vec a, Vec b) {
#if LANES == 16 && defined(__AVX512F__)
    return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}
static inline Vec smaller(Vec a, Vec b) {
#if LANES == 16 && defined(__AVX512F__)
    return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#else
    return a < b ? a : b;
#endif
}
static inline float largest(Vec x) {
    Four f = fold(x, [](auto a, auto b) { return a > b ? a : b; });
    float low = f[0] > f[1] ? f[0] : f[1], high = f[2] > f[3] ? f[2] : f[3];
    return low > high ? low : high;
}

// Four sums at once take hardly longer than one.
static inline void sums(Vec a, Vec b, Vec c, Vec d, float *out) {
    Four fa = fold(a), fb = fold(b), fc = fold(c), fd = fold(d);
    Four ab = __builtin_shufflevector(fa, fb, 0, 4, 1, 5) + __builtin_shufflevector(fa, fb, 2, 6, 3, 7);
    Four cd = __builtin_shufflevector(fc, fd, 0, 4, 1, 5) + __builtin_shufflevector(fc, fd, 2, 6, 3, 7);
    Four each = __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
    memcpy(out, &each, sizeof each);
}

// e^x to 2 ulp: 2^n * p(f) with x = (n + f) ln 2, |f| <= 1/2, p the polynomial of degree 5 that is nearest to 2^f (9e-8,
// by Remez' exchange) among those that are 1 at 0. Below -87 it is 0 but for rounding, above 88 it is as for 88; NaN stays NaN.
static inline Vec exponential(Vec x) {
    x = smaller(all(88.0f), larger(all(-87.0f), x));
    Vec magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
    Vec shifted = x * 1.44269504f + magic;
    Vec f = x * 1.44269504f - (shifted - magic) + x * 1.92596299e-8f;  // log2 e in two parts, each product in one rounding
    Vec p = all(1.32647261e-3f);
    p = p * f + 9.67151299e-3f;
    p = p * f + 5.55073359e-2f;
    p = p * f + 2.40222424e-1f;
    p = p * f + 6.93147004e-1f;
    p = p * f + 1.0f;
    return (Vec)((Bits)p + ((Bits)shifted << 23));
}
