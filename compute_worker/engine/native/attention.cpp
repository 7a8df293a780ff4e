// Rotary embedding, writing of keys and values, and attention over the blocks where they lie.
//
// Every token is a row of its own with its own length: decode rows and prompt chunks are the same. All
// heads that share keys are answered together, so that keys and values are read once for them.
#include <omp.h>
#include <vector>

#include "tiles.h"

// As in kernels.py. qkv: [tokens, (heads + 2 * kv_heads) * size]. cos, sin: [tokens, size] or null.
// q_norm, k_norm: [size] or null. keys, values: [slots, kv_heads, size]. tables: block ids, those of
// token t from tables[first_block[t]] on. window: tokens that are seen, 0 for all.
struct Attention {
    const float *cos, *sin, *q_norm, *k_norm;
    void *keys, *values;
    const int64_t *slots, *positions, *first_block, *tables;
    long tokens, heads, kv_heads, size, block, window;
    float scaling, eps;
};

static void prepare(float *head, const float *weight, float eps, const float *cos, const float *sin, long size) {
    if (weight) {
        float total = 0;
        for (long i = 0; i < size; i++) total += head[i] * head[i];
        float scale = 1 / std::sqrt(total / size + eps);
        for (long i = 0; i < size; i++) head[i] = weight[i] * (head[i] * scale);
    }
    long half = size / 2;
    if (cos)
        for (long i = 0; i < half; i++) {
            float low = head[i], high = head[i + half];
            head[i] = low * cos[i] - high * sin[i];
            head[i + half] = high * cos[i + half] + low * sin[i + half];
        }
}

// Norms and rotates a token's queries in place and its keys, and stores keys and values.
template <class W> static void take(const Attention &a, float *qkv, long t) {
    const float *cos = a.cos ? a.cos + t * a.size : nullptr, *sin = a.sin ? a.sin + t * a.size : nullptr;
    float *q = qkv + t * (a.heads + 2 * a.kv_heads) * a.size, *k = q + a.heads * a.size, *v = k + a.kv_heads * a.size;
    for (long h = 0; h < a.heads; h++) prepare(q + h * a.size, a.q_norm, a.eps, cos, sin, a.size);
    for (long h = 0; h < a.kv_heads; h++) prepare(k + h * a.size, a.k_norm, a.eps, cos, sin, a.size);
    long width = a.kv_heads * a.size, at = a.slots[t] * width;
    for (long i = 0; i < width; i++) put((W *)a.keys + at + i, k[i]);
    for (long i = 0; i < width; i++) put((W *)a.values + at + i, v[i]);
}

// scores [length] become weights that sum to 1.
static void softmax(float *scores, long length, float scaling) {
    float largest = scores[0];
    for (long i = 1; i < length; i++) largest = scores[i] > largest ? scores[i] : largest;
    Vec sums{};
    long i = 0;
    for (; i + LANES <= length; i += LANES) {
        Vec e = exponential((load(scores + i) - largest) * scaling);
        store(scores + i, e);
        sums += e;
    }
    float total = sum(sums);
    for (; i < length; i++) total += scores[i] = std::exp((scores[i] - largest) * scaling);
    for (i = 0; i < length; i++) scores[i] /= total;
}

// The heads of token t that share key head h. scores: room for heads / kv_heads * (position + 1).
template <class W> static void attend(const Attention &a, const float *qkv, float *out, long t, long h, float *scores) {
    long group = a.heads / a.kv_heads, row = a.kv_heads * a.size, end = a.positions[t] + 1;
    long begin = a.window && end > a.window ? end - a.window : 0, length = end - begin;
    const int64_t *table = a.tables + a.first_block[t];
    Rows<float> q{qkv + t * (a.heads + 2 * a.kv_heads) * a.size + h * group * a.size, a.size};
    float *mine = out + (t * a.heads + h * group) * a.size;
    auto blocks = [&](const void *memory, auto work) {
        for (long p = begin; p < end;) {
            long in_block = p % a.block, count = a.block - in_block < end - p ? a.block - in_block : end - p;
            long slot = table[p / a.block] * a.block + in_block;
            work(Rows<W>{(const W *)memory + slot * row + h * a.size, row}, count, p - begin);
            p += count;
        }
    };
    blocks(a.keys, [&](Rows<W> k, long n, long p) { dots(k, n, q, group, a.size, {scores + p, 1, length}); });
    for (long g = 0; g < group; g++) softmax(scores + g * length, length, a.scaling);
    memset(mine, 0, sizeof(float) * group * a.size);
    blocks(a.values, [&](Rows<W> v, long n, long p) { mix(v, n, {scores + p, 1, length}, mine, a.size, group, a.size); });
}

template <class W> static void attention(const Attention &a, float *qkv, float *out, int threads) {
    long longest = 0;
    for (long t = 0; t < a.tokens; t++) longest = a.positions[t] >= longest ? a.positions[t] + 1 : longest;
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> scores(a.heads / a.kv_heads * longest);
#pragma omp for
        for (long t = 0; t < a.tokens; t++) take<W>(a, qkv, t);
#pragma omp for schedule(dynamic, 8)
        for (long i = 0; i < a.tokens * a.kv_heads; i++)
            attend<W>(a, qkv, out, i / a.kv_heads, i % a.kv_heads, scores.data());
    }
}

// out: [tokens, heads * size]. narrow: keys and values are bfloat16.
extern "C" void lorry_attend(const Attention *a, float *qkv, float *out, int narrow, int threads) {
    if (narrow)
        attention<bfloat16>(*a, qkv, out, threads);
    else
        attention<float>(*a, qkv, out, threads);
}
