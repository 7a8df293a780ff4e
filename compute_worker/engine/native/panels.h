// Weights in panels, and the product that reads them: y = x W^T for PANEL outputs and a few tokens at once.
//
// A panel holds PANEL rows of W side by side: for each k, PANEL numbers. A vector of outputs is then one load,
// a token's number one broadcast, and nothing has to be summed across a vector at the end.
#pragma once
#include "ahead.h"
#include "lanes.h"

constexpr long PANEL = 2 * LANES;
// Tokens of a tile: 6 by 2 vectors of sums fill the 16 registers of AVX2, 12 by 2 most of the 32 of AVX-512.
constexpr int TOKENS = LANES == 16 ? 12 : 6;
// Of a panel's bytes, what stays in the nearest cache (32 KB) while all tokens pass by: beside it lie those of a tile,
// three quarters as many bytes where weights are bfloat16.
constexpr long NEAR = 12288;
// Bytes of a panel that are asked for before a tile comes to them: some 30 times what is multiplied while memory answers.
constexpr long SOON = 1024;

// PANEL numbers of one k. In bfloat16 two outputs share a word: number i in the low half of word i, number
// i + LANES in the high half, so that a shift and a mask widen all of them.
static inline void two(const float *p, Vec &low, Vec &high) {
    low = load(p);
    high = load(p + LANES);
}
static inline void two(const bfloat16 *p, Vec &low, Vec &high) {
    Bits words = *(const Bits *)p;
    low = (Vec)(words << 16);
    high = (Vec)(words & 0xffff0000);
}
// PANEL pairs of two k that follow each other.
static inline void two(const Pair *p, Vec &low, Vec &high) { two((const float *)p, low, high); }

// What a stored type is multiplied by.
template <class W> using Times = std::conditional_t<std::is_same_v<W, Pair>, Pair, float>;

// x: [T, k], rows ldx apart; y: [T, P * PANEL], rows ldy apart. add: to what y holds. Of pairs, k counts pairs.
// next: of W, near enough to be multiplied soon. later: of anything else.
template <class X> struct Sums {
    const X *x;
    long ldx, k;
    float *y;
    long ldy;
    bool add;
    Next next = {}, later = {};
};

// w: P panels, `panel` numbers apart.
template <int T, int P, bool LATER, class W>
[[gnu::noinline]] void tile(const W *w, long panel, const Sums<Times<W>> &of) {
    Vec acc[T][2 * P];
    const Times<W> *x = of.x;
    const long ldx = of.ldx, k = of.k;
    // Loops over all of them are unrolled, else they go through memory.
#pragma GCC unroll 24
    for (int i = 0; i < T * 2 * P; i++) acc[i / (2 * P)][i % (2 * P)] = Vec{};
    // Asking for what is nowhere would look it up each time.
    const char *next = of.next.at ? of.next.at : (const char *)w, *later = of.later.at;
#pragma GCC unroll 4
    for (long i = 0; i < k; i++, next += of.next.bytes, later += of.later.bytes) {
        __builtin_prefetch(next, 0, 3);
        if constexpr (LATER) __builtin_prefetch(later, 0, 2);
#pragma GCC unroll 8
        for (int p = 0; p < P; p++) {
            Vec low, high;
#pragma GCC unroll 4
            for (long line = 0; line < PANEL * (long)sizeof(W); line += 64)
                __builtin_prefetch((const char *)(w + p * panel + i * PANEL) + SOON + line, 0, 3);
            two(w + p * panel + i * PANEL, low, high);
#pragma GCC unroll 16
            for (int t = 0; t < T; t++) {
                acc[t][2 * p] = added(acc[t][2 * p], low, x[t * ldx + i]);
                acc[t][2 * p + 1] = added(acc[t][2 * p + 1], high, x[t * ldx + i]);
            }
        }
    }
    // What was there comes last: the sum of short sums is nearer to the true one than one long sum.
    auto y = [&](int i) { return of.y + i / (2 * P) * of.ldy + i % (2 * P) * LANES; };
    if (of.add)
#pragma GCC unroll 24
        for (int i = 0; i < T * 2 * P; i++) acc[i / (2 * P)][i % (2 * P)] += load(y(i));
#pragma GCC unroll 24
    for (int i = 0; i < T * 2 * P; i++) store(y(i), acc[i / (2 * P)][i % (2 * P)]);
}

// Panels that a tile of so many tokens takes at once: eight sums or more hide what an addition takes.
static constexpr long panels_of(long tokens) { return tokens == 1 ? 4 : tokens == 2 ? 3 : 1; }

// A tile of `tokens` <= TOKENS, over panels_of(tokens) panels where `several`, else over one.
template <int T = TOKENS, class W>
static inline void by_panels(long tokens, bool several, const W *w, long panel, const Sums<Times<W>> &of) {
    if (tokens < T) {
        if constexpr (T > 1) by_panels<T - 1>(tokens, several, w, panel, of);
        return;
    }
    if constexpr (T <= 2)
        if (several) return tile<T, (int)panels_of(T), false>(w, panel, of);
    if constexpr (2 * T > TOKENS)  // as all tiles of several are
        if (of.later.at) return tile<T, 1, true>(w, panel, of);
    tile<T, 1, false>(w, panel, of);
}

// Steps of the tiles of one panel.
static inline long steps_of(long tokens, long k) { return (tokens + TOKENS - 1) / TOKENS * k; }

// `count` panels from w on (1, or panels_of(tokens)) times all of x: y [tokens, count * PANEL].
template <class W>
static void multiply(const W *w, long count, long tokens, const Sums<Times<W>> &of, Errand *errand = nullptr) {
    long tiles = (tokens + TOKENS - 1) / TOKENS, panel = of.k * PANEL;
    long cuts = (panel * (long)sizeof(W) + NEAR - 1) / NEAR;
    for (long cut = 0; cut < cuts; cut++) {
        long from = of.k * cut / cuts, to = of.k * (cut + 1) / cuts;
        const char *behind = (const char *)(w + to * PANEL);
        long share = tiles == 1 ? 0 : PANEL * (long)sizeof(W) / tiles;  // one tile asks for itself alone
        for (long i = 0; i < tiles; i++) {
            long begin = tokens * i / tiles, end = tokens * (i + 1) / tiles;
            Next next{behind + i * share * (to - from), share};
            Sums<Times<W>> some{of.x + begin * of.ldx + from, of.ldx, to - from, of.y + begin * of.ldy, of.ldy,
                                of.add || cut > 0, next, errand ? errand->take(to - from) : Next{}};
            by_panels(end - begin, count > 1, w + from * PANEL, panel, some);
        }
    }
}
