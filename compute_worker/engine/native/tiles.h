// Products over matrices that lie row by row: those of adapters, and the keys and values of one token.
//
// `dots`: rows of a matrix times tokens, out(r, t) = row_r . token_t, both contiguous along the sum.
// `mix`: a weighted sum of rows, y_t += sum_r z(r, t) * row_r. Neither knows what it is used for.
#pragma once
#include "lanes.h"

// Accumulators of a tile: 4 rows by 3 tokens fill the 16 registers of AVX2, by 6 tokens the 32 of AVX-512.
constexpr int ROWS = 4;
constexpr int ABREAST = LANES == 16 ? 6 : 3;

template <class W> struct Rows {
    const W *at;
    long stride;
    const W *operator[](long row) const { return at + row * stride; }
};

// Where a result goes: value (r, t) lies at at[r * row + t * token].
struct Place {
    float *at;
    long row, token;
    float &operator()(long r, long t) const { return at[r * row + t * token]; }
    Place from(long r, long t) const { return {at + r * row + t * token, row, token}; }
};

template <int R, int T, class W>
[[gnu::noinline]] void tile(Rows<W> w, Rows<float> x, long k_end, Place out) {
    Vec acc[R][T];
#pragma GCC unroll 24
    for (int i = 0; i < R * T; i++) acc[i / T][i % T] = Vec{};  // = {} for all of them goes through memory
    long k = 0;
    for (; k + LANES <= k_end; k += LANES) {
        Vec token[T];
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) token[t] = load(x[t] + k);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            Vec row = load(w[r] + k);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) acc[r][t] += row * token[t];
        }
    }
    for (int t = 0; t < T; t++) {
        float totals[R];
        if constexpr (R == 4)
            sums(acc[0][t], acc[1][t], acc[2][t], acc[3][t], totals);
        else
            for (int r = 0; r < R; r++) totals[r] = sum(acc[r][t]);
        for (int r = 0; r < R; r++) {
            for (long i = k; i < k_end; i++) totals[r] += scalar(w[r][i]) * x[t][i];
            out(r, t) = totals[r];
        }
    }
}

// R rows by tokens [t, tokens): as many full tiles as fit, then smaller ones.
template <int R, int T, class W>
static inline void strip(Rows<W> w, Rows<float> x, long t, long tokens, long k_end, Place out) {
    for (; t + T <= tokens; t += T) tile<R, T>(w, {x[t], x.stride}, k_end, out.from(0, t));
    if constexpr (T > 1)
        if (t < tokens) strip<R, T - 1>(w, x, t, tokens, k_end, out);
}

template <class W>
static inline void dots(Rows<W> w, long rows, Rows<float> x, long tokens, long k_end, Place out) {
    long r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        strip<ROWS, ABREAST>(Rows<W>{w[r], w.stride}, x, 0, tokens, k_end, out.from(r, 0));
    for (; r < rows; r++) strip<1, ABREAST>(Rows<W>{w[r], w.stride}, x, 0, tokens, k_end, out.from(r, 0));
}

// T tokens by C vectors of columns from c on: all of them stay in registers while the rows pass by.
template <int T, int C, class W> [[gnu::noinline]] void blend(Rows<W> w, long rows, Place z, float *y, long ldy, long c) {
    Vec acc[T][C];
    for (int t = 0; t < T; t++)
        for (int i = 0; i < C; i++) acc[t][i] = load(y + t * ldy + c + i * LANES);
    for (long r = 0; r < rows; r++) {
        float weight[T];
        for (int t = 0; t < T; t++) weight[t] = z(r, t);
#pragma GCC unroll 8
        for (int i = 0; i < C; i++) {
            Vec row = load(w[r] + c + i * LANES);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) acc[t][i] += row * weight[t];
        }
    }
    for (int t = 0; t < T; t++)
        for (int i = 0; i < C; i++) store(y + t * ldy + c + i * LANES, acc[t][i]);
}

// Tokens in pairs by 4 vectors of columns, a last one by 8: eight sums at a time hide what an addition takes.
template <class W>
static inline void mix(Rows<W> w, long rows, Place z, float *y, long ldy, long tokens, long columns) {
    long pairs = tokens / 2 * 2, c = 0;
    for (; c + 4 * LANES <= columns; c += 4 * LANES)
        for (long t = 0; t < pairs; t += 2) blend<2, 4>(w, rows, z.from(0, t), y + t * ldy, ldy, c);
    for (long rest = c; rest + LANES <= columns; rest += LANES)
        for (long t = 0; t < pairs; t += 2) blend<2, 1>(w, rows, z.from(0, t), y + t * ldy, ldy, rest);
    if (pairs < tokens) {
        for (c = 0; c + 8 * LANES <= columns; c += 8 * LANES)
            blend<1, 8>(w, rows, z.from(0, pairs), y + pairs * ldy, ldy, c);
        for (; c + LANES <= columns; c += LANES) blend<1, 1>(w, rows, z.from(0, pairs), y + pairs * ldy, ldy, c);
    }
    for (c = columns / LANES * LANES; c < columns; c++)
        for (long t = 0; t < tokens; t++)
            for (long r = 0; r < rows; r++) y[t * ldy + c] += scalar(w[r][c]) * z(r, t);
}
