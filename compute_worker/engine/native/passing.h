// Attention of a prompt's chunk: many queries, past which blocks of keys and values go in panels.
#pragma once
#include <utility>
#include <vector>

#include "attending.h"
#include "panels.h"

// Keys that a chunk looks at together: 128 of them for 96 queries of 64 numbers fill a third of a cache of 512 KB.
static constexpr long KEYS = 128;
static_assert(KEYS % PANEL == 0);
// How much larger than the score that weights refer to another may be: e^4 times some thousands is far from too large a sum.
static constexpr float FAR = 4;

// 1 or 4 keys [size] side by side into a panel: number j of each, or pair j as it is, goes to at[j * PANEL].
template <class W> static void transpose(Rows<W> k, long count, float *at, long size) {
    long j = 0;
    if (count == 4)
        for (; j + 4 <= size; j += 4) {
            Four a = four(k[0] + j), b = four(k[1] + j), c = four(k[2] + j), d = four(k[3] + j);
            Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
            Four ef = __builtin_shufflevector(a, b, 2, 6, 3, 7), gh = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            put(at + j * PANEL, __builtin_shufflevector(ab, cd, 0, 1, 4, 5));
            put(at + (j + 1) * PANEL, __builtin_shufflevector(ab, cd, 2, 3, 6, 7));
            put(at + (j + 2) * PANEL, __builtin_shufflevector(ef, gh, 0, 1, 4, 5));
            put(at + (j + 3) * PANEL, __builtin_shufflevector(ef, gh, 2, 3, 6, 7));
        }
    for (; j < size; j++)
        for (long i = 0; i < count; i++) at[j * PANEL + i] = scalar(k[i][j]);
}

// The softmax of many queries while their keys pass by (Milakov and Gimelshein, arXiv 1805.02867): of each query
// (nearly) the largest score so far, the sum of e^(score - largest), and the values so weighted.
//
// Keys and values, queries and weights are float32, or pairs of bfloat16: all that is summed up is float32.
template <class W> struct Passing {
    using X = Times<W>;
    // Numbers in one of the words that panels are made of.
    static constexpr long EACH = std::is_same_v<X, Pair> ? 2 : 1;
    const Attend &op;
    Memory<Number<W>> memory;
    const Chunk &chunk;
    // deep: words of a key. span: of a number of all values.
    long h, group, queries, wide, deep, span = KEYS / EACH;
    float *scores, *out, *sums, *largest;
    X *q, *keys, *values, *weights;

    Passing(const Attend &op, Memory<Number<W>> memory, const Chunk &chunk, long h, std::vector<float> &room)
        : op(op), memory(memory), chunk(chunk), h(h), group(op.heads / op.kv_heads),
          queries((chunk.end - chunk.begin) * group), wide((op.size + PANEL - 1) / PANEL * PANEL), deep(op.size / EACH) {
        room.resize(queries * (deep + KEYS + span + wide + 2) + deep * KEYS + wide * span + LINE);
        float *at = (float *)(((uintptr_t)room.data() + LINE - 1) / LINE * LINE);
        for (auto [slice, size] : {std::pair{(float **)&keys, deep * KEYS}, {(float **)&values, wide * span},
                                   {&scores, queries * KEYS}, {&out, queries * wide}, {(float **)&q, queries * deep},
                                   {(float **)&weights, queries * span}, {&sums, queries}, {&largest, queries}})
            *slice = at, at += size;
        if constexpr (EACH == 1) weights = scores;
        std::fill(out, out + queries * wide, 0.0f);
        std::fill(sums, sums + queries, 0.0f);
        std::fill(largest, largest + queries, -INFINITY);
    }

    long position(long query) const { return chunk.row.position + chunk.begin + query / group - chunk.row.begin; }
    float *token(float *all, long query, long heads) const {
        return all + ((chunk.begin + query / group) * heads + h * group + query % group) * op.size;
    }
    void gather() {
        for (long i = 0; i < queries; i++) {
            float *from = token(op.qkv, i, op.heads + 2 * op.kv_heads);
            for (long j = 0; j < op.size; j++) from[j] *= (float)op.scaling;
            if constexpr (EACH == 2)
                pair(from, op.size, q + i * deep);
            else
                memcpy(q + i * deep, from, sizeof(float) * op.size);
        }
    }
    // Keys [begin, end) turned into panels, and values likewise; what is no key is zero.
    void turn(long begin, long end) {
        if (end - begin < KEYS) {
            memset(keys, 0, sizeof(X) * deep * KEYS);
            memset(values, 0, sizeof(X) * wide * span);
        }
        memory.blocks(op.keys, {h, h + 1}, begin, end, [&](Rows<Number<W>> k, long, long count, long p) {
            for (long key = p - begin, i = 0, some; i < count; i += some) {
                some = key % 4 == 0 && i + 4 <= count ? 4 : 1;
                float *at = (float *)keys + place(key + i);
                if constexpr (EACH == 2)
                    transpose(Rows<float>{(const float *)k[i], k.stride / 2}, some, at, deep);
                else
                    transpose(Rows<Number<W>>{k[i], k.stride}, some, at, deep);
            }
        });
        memory.blocks(op.values, {h, h + 1}, begin, end, [&](Rows<Number<W>> v, long, long count, long p) {
            for (long n = p - begin, i = 0, some; i < count; i += some) {
                some = EACH == 2 && (n + i) % 2 == 0 && i + 2 <= count ? 2 : 1;
                if constexpr (EACH == 2) {
                    if (some == 2)
                        weave(v[i], v[i + 1], values + (n + i) / 2 * PANEL);
                    else
                        thread(v[i], (bfloat16 *)(values + (n + i) / 2 * PANEL) + (n + i) % 2);
                } else {
                    spread(v[i], values + (n + i) * PANEL);
                }
            }
        });
    }
    // Where a key begins among the panels.
    long place(long key) const { return key / PANEL * PANEL * deep + key % PANEL; }
    // Two values that follow each other, over their panels, and one of two.
    void weave(const bfloat16 *v, const bfloat16 *following, Pair *at) const {
        long j = 0;
        for (; j + LANES <= op.size; j += LANES) store((float *)at + seat(j), woven(v + j, following + j));
        for (; j < op.size; j++) at[seat(j)] = {(uint32_t)following[j].bits << 16 | v[j].bits};
    }
    void thread(const bfloat16 *v, bfloat16 *at) const {
        for (long j = 0; j < op.size; j++) at[2 * seat(j)] = v[j];
    }
    // Where number j of values lies behind their first.
    long seat(long j) const { return j / PANEL * PANEL * span + j % PANEL; }
    // One value over its panels.
    void spread(const Number<W> *v, float *at) const {
        long j = 0;
        for (; j + PANEL <= op.size; j += PANEL) {
            store(at + j * KEYS, load(v + j));
            store(at + j * KEYS + LANES, load(v + j + LANES));
        }
        for (long i = j; i < op.size; i++) at[j * KEYS + i - j] = scalar(v[i]);
    }
    // What a query does not see of keys [begin, begin + count).
    void hide(long query, long begin, long count) {
        float *mine = scores + query * KEYS;
        long first = first_seen(op, position(query)) - begin, last = position(query) + 1 - begin;
        first = first < 0 ? 0 : first < count ? first : count;
        last = last < first ? first : last < count ? last : count;
        if (first > 0) std::fill(mine, mine + first, -INFINITY);
        if (last < count) std::fill(mine + last, mine + count, -INFINITY);
    }
    // Scores of keys [begin, begin + count) become weights; what was summed up before is scaled to the new largest,
    // where that is too large by far to do without.
    void weigh(long begin, long count) {
        for (long i = 0; i < queries; i++) {
            float *mine = scores + i * KEYS;
            hide(i, begin, count);
            float most = largest_of(mine, count, largest[i]);
            if (most > largest[i] + FAR) {
                rescale(i, std::exp(largest[i] - most));
                largest[i] = most;
            }
            most = largest[i] == -INFINITY ? 0 : largest[i];  // nothing seen yet
            Vec total{};
            for (long j = 0; j < count; j += LANES) {
                Vec e = exponential(load(mine + j) - most);
                total += e;
                put(weights + i * span + j / EACH, e);
            }
            sums[i] += sum(total);
        }
    }
    void rescale(long query, float scale) {
        sums[query] *= scale;
        for (long j = 0; j < wide; j++) out[query * wide + j] *= scale;
    }
    void pass(long begin, long end) {
        turn(begin, end);
        long panels = (end - begin + PANEL - 1) / PANEL, count = panels * PANEL;
        for (long panel = 0; panel < panels; panel++)
            multiply(keys + panel * PANEL * deep, 1, queries, {q, deep, deep, scores + panel * PANEL, KEYS, false});
        weigh(begin, count);
        for (long panel = 0; panel < wide / PANEL; panel++)
            multiply(values + panel * PANEL * span, 1, queries,
                     {weights, span, count / EACH, out + panel * PANEL, wide, true});
    }
    void run() {
        gather();
        long end = position(queries - 1) + 1;
        for (long begin = first_seen(op, position(0)); begin < end; begin += KEYS)
            pass(begin, begin + KEYS < end ? begin + KEYS : end);
        for (long i = 0; i < queries; i++) {
            float *to = token(op.out, i, op.heads);
            for (long j = 0; j < op.size; j++) to[j] = out[i * wide + j] / sums[i];
        }
    }
};
