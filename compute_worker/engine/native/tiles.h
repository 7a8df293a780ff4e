// Products over matrices that lie row by row: those of adapters, and the keys and values of one token.
//
// `dots`: rows of a matrix times tokens, out(r, t) = row_r . token_t, both contiguous along the sum.
// `mix`: a weighted sum of rows, y_t += sum_r z(r, t) * row_r. Neither knows what it is used for.
#pragma once
#include "lanes.h"

// Bytes of a cache line.
constexpr long LINE = 64;
// Sums of a tile: as many as leave the registers of AVX2 (16) and AVX-512 (32) room for what is multiplied.
constexpr int SUMS = LANES == 16 ? 24 : 12;
// Of so many rows and tokens, or half the rows: a bfloat16 that was widened should meet many tokens.
constexpr int ROWS = 4;
constexpr int ABREAST = 6;

template <class W> struct Rows {
    const W *at;
    long stride;
    const W *operator[](long row) const { return at + row * stride; }
};

// Memory that is read next, asked for bit by bit while the processor multiplies what it has: into the second-level
// cache, since the nearest has no room for it.
struct Ahead {
    const char *at;
    long bytes;
    [[gnu::always_inline]] void part(long index, long of) const {
        for (long i = bytes * index / of & ~63L; i < bytes * (index + 1) / of; i += 64)
            __builtin_prefetch(at + i, 0, 2);
    }
};

// What of a matrix is asked for before it is needed: the rows behind those that pass by. Worth it where memory is what
// takes time, since few tokens share a row.
enum class Reading { NEAR, AHEAD };

// Where a result goes: value (r, t) lies at at[r * row + t * token].
struct Place {
    float *at;
    long row, token;
    float &operator()(long r, long t) const { return at[r * row + t * token]; }
    Place from(long r, long t) const { return {at + r * row + t * token, row, token}; }
};

// The rows behind those of a tile, asked for one after the other, as much with each step as passes by: memory answers a
// fourth more of them a second than of as many side by side, and more again into the second-level cache.
template <class W> struct Behind {
    Rows<W> rows;
    long columns;
    const W *next = rows.at;
    [[gnu::always_inline]] void ask(long numbers) {
        for (long i = 0; i < numbers; i += LINE / (long)sizeof(W)) __builtin_prefetch(next + i, 0, 2);
        next += numbers;
        if (next >= rows.at + columns) next = rows.at += rows.stride;
    }
};

template <int R, int T, Reading READ, class W>
[[gnu::noinline]] void tile(Rows<W> w, Rows<float> x, long k_end, Place out) {
    Vec acc[R][T];
#pragma GCC unroll 24
    for (int i = 0; i < R * T; i++) acc[i / T][i % T] = Vec{};  // = {} for all of them goes through memory
    Behind<W> behind{{w[R], w.stride}, k_end};
    long k = 0;
    for (; k + LANES <= k_end; k += LANES) {
        if constexpr (READ == Reading::AHEAD) behind.ask(R * LANES);
        // The fewer ones wait in registers for the others: all of both would not find room beside the sums.
        if constexpr (R < T) {
            Vec row[R];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) row[r] = load(w[r] + k);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                Vec token = load(x[t] + k);
#pragma GCC unroll 4
                for (int r = 0; r < R; r++) acc[r][t] += row[r] * token;
            }
        } else {
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
    }
    // Unrolled, else the sums above go through memory.
#pragma GCC unroll 8
    for (int t = 0; t < T; t++) {
        float totals[R];
        if constexpr (R == 4)
            sums(acc[0][t], acc[1][t], acc[2][t], acc[3][t], totals);
        else
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) totals[r] = sum(acc[r][t]);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) out(r, t) = totals[r];
    }
    if (k < k_end)
        for (int t = 0; t < T; t++)
            for (int r = 0; r < R; r++)
                for (long i = k; i < k_end; i++) out(r, t) += scalar(w[r][i]) * x[t][i];
}

// All rows by tokens [t, tokens): some tokens stay near while all rows pass by, then the next ones, then fewer.
template <int T, Reading READ, class W>
static inline void strip(Rows<W> w, long rows, Rows<float> x, long t, long tokens, long k_end, Place out) {
    constexpr int R = ROWS * T > SUMS ? ROWS / 2 : ROWS;
    for (; t + T <= tokens; t += T) {
        long r = 0;
        for (; r + R <= rows; r += R) tile<R, T, READ>(Rows<W>{w[r], w.stride}, {x[t], x.stride}, k_end, out.from(r, t));
        for (; r < rows; r++) tile<1, T, READ>(Rows<W>{w[r], w.stride}, {x[t], x.stride}, k_end, out.from(r, t));
    }
    if constexpr (T > 1)
        if (t < tokens) strip<T - 1, READ>(w, rows, x, t, tokens, k_end, out);
}

template <Reading READ = Reading::NEAR, class W>
static inline void dots(Rows<W> w, long rows, Rows<float> x, long tokens, long k_end, Place out) {
    strip<ABREAST, READ>(w, rows, x, 0, tokens, k_end, out);
}

// T tokens by C vectors of columns from c on: all of them stay in registers while the rows pass by.
template <int T, int C, class W> [[gnu::noinline]] void blend(Rows<W> w, long rows, Place z, float *y, long ldy, long c) {
    Vec acc[T][C];
#pragma GCC unroll 24
    for (int i = 0; i < T * C; i++) acc[i / C][i % C] = load(y + i / C * ldy + c + i % C * LANES);
    for (long r = 0; r < rows; r++) {
        __builtin_prefetch(w[r] + c + C * LANES + LINE / (long)sizeof(W), 0, 3);
        if constexpr (C < T) {  // as in `tile`
            Vec row[C];
#pragma GCC unroll 8
            for (int i = 0; i < C; i++) row[i] = load(w[r] + c + i * LANES);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) {
                Vec weight = all(z(r, t));
#pragma GCC unroll 8
                for (int i = 0; i < C; i++) acc[t][i] += row[i] * weight;
            }
        } else {
            float weight[T];
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) weight[t] = z(r, t);
#pragma GCC unroll 8
            for (int i = 0; i < C; i++) {
                Vec row = load(w[r] + c + i * LANES);
#pragma GCC unroll 8
                for (int t = 0; t < T; t++) acc[t][i] += row * weight[t];
            }
        }
    }
#pragma GCC unroll 24
    for (int i = 0; i < T * C; i++) store(y + i / C * ldy + c + i % C * LANES, acc[i / C][i % C]);
}

// Vectors of columns that T tokens take at once: eight sums or more hide what an addition takes.
static constexpr int vectors_of(int tokens) { return tokens == 1 ? 8 : tokens <= 3 ? SUMS / 3 : SUMS / 6; }

// Tokens from t on, T at a time, then fewer: all columns of some of them before the next.
template <int T, class W>
static inline void spread(Rows<W> w, long rows, Place z, float *y, long ldy, long t, long tokens, long columns) {
    constexpr int C = vectors_of(T);
    for (; t + T <= tokens; t += T) {
        long c = 0;
        for (; c + C * LANES <= columns; c += C * LANES) blend<T, C>(w, rows, z.from(0, t), y + t * ldy, ldy, c);
        for (; c + LANES <= columns; c += LANES) blend<T, 1>(w, rows, z.from(0, t), y + t * ldy, ldy, c);
    }
    if constexpr (T > 1)
        if (t < tokens) spread<T - 1>(w, rows, z, y, ldy, t, tokens, columns);
}

// What is left of columns behind the last whole vector.
template <class W>
static inline void mix_rest(Rows<W> w, long rows, Place z, float *y, long ldy, long tokens, long columns) {
    for (long c = columns / LANES * LANES; c < columns; c++)
        for (long t = 0; t < tokens; t++)
            for (long r = 0; r < rows; r++) y[t * ldy + c] += scalar(w[r][c]) * z(r, t);
}

template <class W>
static inline void mix(Rows<W> w, long rows, Place z, float *y, long ldy, long tokens, long columns) {
    spread<ABREAST>(w, rows, z, y, ldy, 0, tokens, columns);
    mix_rest(w, rows, z, y, ldy, tokens, columns);
}

// R rows into T tokens, read from their beginning to their end while those behind them are asked for.
template <int R, int T, class W>
[[gnu::noinline]] void pass(Rows<W> w, Place z, float *y, long ldy, long columns) {
    Vec weight[R][T];
#pragma GCC unroll 16
    for (int i = 0; i < R * T; i++) weight[i / T][i % T] = all(z(i / T, i % T));
    Behind<W> behind{{w[R], w.stride}, columns};
    for (long c = 0; c < columns; c += LANES) {
        behind.ask(R * LANES);
        Vec acc[T];
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) acc[t] = load(y + t * ldy + c);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            Vec row = load(w[r] + c);
#pragma GCC unroll 8
            for (int t = 0; t < T; t++) acc[t] += row * weight[r][t];
        }
#pragma GCC unroll 8
        for (int t = 0; t < T; t++) store(y + t * ldy + c, acc[t]);
    }
}

// As `mix`, where memory is what takes time: T tokens.
template <int T, class W> static inline void mix_few(Rows<W> w, long rows, Place z, float *y, long ldy, long columns) {
    long whole = columns / LANES * LANES, r = 0;
    for (; r + ROWS <= rows; r += ROWS) pass<ROWS, T>(Rows<W>{w[r], w.stride}, z.from(r, 0), y, ldy, whole);
    for (; r < rows; r++) pass<1, T>(Rows<W>{w[r], w.stride}, z.from(r, 0), y, ldy, whole);
    mix_rest(w, rows, z, y, ldy, T, columns);
}
