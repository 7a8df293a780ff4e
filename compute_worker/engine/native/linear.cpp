// y = x W^T + b, and the index of the largest y without y: weights row by row as the model stores them.
//
// A few rows of W stay in the nearest cache while all tokens pass by them, so W is read from memory once.
#include <limits>
#include <omp.h>
#include <vector>

#include "tiles.h"

// From so many tokens on it pays to widen ROWS rows of bfloat16 once instead of in every tile.
static constexpr long WIDEN_FROM = 2 * TOKENS;
// Tokens that pass by before the rows are read again: 64 of 1,536 numbers fill most of a second-level cache.
static constexpr long BLOCK = 64;

// Rows [r, r + count) of W times all tokens, count <= ROWS. `wide` has room for ROWS rows.
template <class W> static void some_rows(Rows<W> w, long count, Rows<float> x, long tokens, long k, float *wide, Place out) {
    Ahead next{(const char *)w[ROWS], (long)sizeof(W) * ROWS * k};
    if (sizeof(W) == sizeof(float) || tokens < WIDEN_FROM) {
        dots(w, count, x, tokens, k, out, next);
        return;
    }
    for (long r = 0; r < count; r++) {
        long i = 0;
        for (; i + LANES <= k; i += LANES) store(wide + r * k + i, load(w[r] + i));
        for (; i < k; i++) wide[r * k + i] = scalar(w[r][i]);
    }
    dots(Rows<float>{wide, k}, count, x, tokens, k, out, next);
}

template <class W>
static void linear(const float *x, const W *w, const float *bias, float *y, long tokens, long n, long k, int threads) {
#pragma omp parallel num_threads(threads)
    {
        Share rows(n, omp_get_thread_num(), omp_get_num_threads(), ROWS);
        std::vector<float> wide(ROWS * k);
        for (long first = 0; first < tokens; first += BLOCK) {
            long block = tokens - first < BLOCK ? tokens - first : BLOCK;
            for (long r = rows.begin; r < rows.end; r += ROWS) {
                long count = rows.end - r < ROWS ? rows.end - r : ROWS;
                Place out{y + first * n + r, 1, n};
                some_rows(Rows<W>{w + r * k, k}, count, {x + first * k, k}, block, k, wide.data(), out);
                if (bias)
                    for (long t = 0; t < block; t++)
                        for (long i = 0; i < count; i++) out(i, t) += bias[r + i];
            }
        }
    }
}

struct Best {
    float value = -std::numeric_limits<float>::infinity();
    int64_t row = 0;
    void see(float candidate, int64_t at) {
        if (candidate > value) {
            value = candidate;
            row = at;
        }
    }
};

// best[t] = argmax over rows of W x_t + b; the first of equal ones, as torch answers on a CPU.
template <class W>
static void argmax(const float *x, const W *w, const float *bias, int64_t *best, long tokens, long n, long k, int threads) {
    std::vector<Best> seen(threads * tokens);
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        Share rows(n, thread, omp_get_num_threads(), ROWS);
        std::vector<float> wide(ROWS * k), scores(ROWS * tokens);
        Best *mine = seen.data() + thread * tokens;
        for (long r = rows.begin; r < rows.end; r += ROWS) {
            long count = rows.end - r < ROWS ? rows.end - r : ROWS;
            some_rows(Rows<W>{w + r * k, k}, count, {x, k}, tokens, k, wide.data(), {scores.data(), 1, ROWS});
            for (long t = 0; t < tokens; t++)
                for (long i = 0; i < count; i++) mine[t].see(scores[t * ROWS + i] + (bias ? bias[r + i] : 0), r + i);
        }
    }
    for (long t = 0; t < tokens; t++) {
        Best of_all;
        for (int thread = 0; thread < threads; thread++)
            of_all.see(seen[thread * tokens + t].value, seen[thread * tokens + t].row);
        best[t] = of_all.row;
    }
}

extern "C" {
void lorry_linear(const float *x, const void *w, int narrow, const float *bias, float *y, long tokens, long n, long k,
                  int threads) {
    if (narrow)
        linear(x, (const bfloat16 *)w, bias, y, tokens, n, k, threads);
    else
        linear(x, (const float *)w, bias, y, tokens, n, k, threads);
}

void lorry_argmax(const float *x, const void *w, int narrow, const float *bias, int64_t *best, long tokens, long n,
                  long k, int threads) {
    if (narrow)
        argmax(x, (const bfloat16 *)w, bias, best, tokens, n, k, threads);
    else
        argmax(x, (const float *)w, bias, best, tokens, n, k, threads);
}
}
