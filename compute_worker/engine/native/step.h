// What a step is: a list of operations, the values that change from step to step, and the team that works on it.
//
// The structures are those of structs.py. All tensors are contiguous; activations are float32, [tokens, ...].
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "ahead.h"

// Tokens [begin, end) use pool rows [first, first + rank) of segment `segment` times `weight`; z lies at `z`.
struct Cell {
    int64_t segment, begin, end, first, rank, z;
    double weight;
};

// Behind the cells: tokens [begin, end) of a segment become y * gain + weight * shift; either may be null.
struct Touch {
    int64_t segment, begin, end;
    const float *gain, *shift;
    double weight;
};

// What is added to one product.
struct Added {
    const Cell *cells;
    int64_t cell_count;
    const Touch *touches;
    int64_t touch_count;
};

// Tokens [begin, end) of one request, the first at `position`; its block ids begin at tables[first_block].
struct Row {
    int64_t begin, end, position, first_block;
};

// How a matrix is stored: in float32; in bfloat16, widened where it is read; in pairs of bfloat16, which are multiplied by
// activations that are rounded like them.
enum Stored { WIDE, NARROW, PAIRS };

// cos, sin: [tokens, head size]. z: room for the rank * tokens of all cells of a product. rounded: for a product's x in pairs.
struct Step {
    int64_t tokens, row_count;
    const Row *rows;
    const int64_t *tables;
    const float *cos, *sin;
    const Added *added;
    float *z;
    void *rounded;
};

// ready: of a product in pairs, whether what made x left it in pairs.
struct Linear {
    const float *x;
    const void *panels;
    const float *bias;
    float *y;
    int64_t n, k, stored, ready;
};

// values: [tokens], of the best.
struct Argmax {
    const float *x;
    const void *panels;
    const float *bias;
    int64_t *best;
    float *values;
    int64_t n, k, stored;
};

// An activation [tokens, size]. paired: whether the product behind it reads pairs; then, adapters of product number
// `product` alone read its floats, or nobody where that is negative, and where nobody does there are none.
struct Activation {
    float *at;
    int64_t size, paired, product;
};

struct AddNorm {
    float *x;
    const float *y, *weight;
    Activation out;
    double eps;
};

struct SiluMul {
    const float *both;
    Activation out;
};

// A layer's rows of the pool and its columns of y.
struct Segment {
    const void *a, *b;
    int64_t column, columns;
};

struct Adapt {
    const float *x;
    float *y;
    const Segment *segments;
    int64_t product, narrow, k, ldy;
};

// q_norm, k_norm: [size] or null. keys, values: [slots, kv_heads, size]. window: tokens that are seen, 0 for all.
struct Attend {
    float *qkv, *out;
    void *keys, *values;
    const float *q_norm, *k_norm;
    int64_t heads, kv_heads, size, block, window, rotary, stored;
    double scaling, eps;
};

// Tokens [begin, end) of one row, whose attention is one unit of work.
struct Chunk {
    Row row;
    long begin, end;
};

// One thread of those that run a list together. Every operation is called by all of them, and ends for all of
// them before the next one begins.
struct Team {
    int thread, threads;
    std::atomic<long> *next;
    const std::vector<Chunk> *chunks;
    Errand *errand;
    // The next unit of work that nobody has taken: who is held up by others' work takes fewer.
    long take() const { return next->fetch_add(1, std::memory_order_relaxed); }
};

// A thread's share of n things: [begin, end), in units of `unit`.
struct Share {
    long begin, end;
    Share(long n, const Team &team, long unit = 1) {
        long units = (n + unit - 1) / unit;
        begin = units * team.thread / team.threads * unit;
        end = units * (team.thread + 1) / team.threads * unit;
        if (end > n) end = n;
    }
};

void work(const Linear &, const Step &, const Team &);
void work(const Argmax &, const Step &, const Team &);
void work(const AddNorm &, const Step &, const Team &);
void work(const SiluMul &, const Step &, const Team &);
void work(const Adapt &, const Step &, const Team &);
void work(const Attend &, const Step &, const Team &);

// Adds what this thread will read of the weights of adapters.
void foresee(const Adapt &, const Step &, const Team &);
