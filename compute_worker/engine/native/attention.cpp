// Rotary embedding, writing of keys and values, and attention over the blocks where they lie.
//
// Heads that share keys are answered together, so that keys and values are read once for them. A token by itself
// (decode) reads its keys and values in place; the tokens of a prompt's chunk take them from panels.
#include "passing.h"

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

// Norms and rotates the queries of a chunk's tokens in place and their keys, and stores keys and values.
template <class W> static void take_in(const Attend &op, const Step &step, const Chunk &chunk) {
    using N = Number<W>;
    long width = op.kv_heads * op.size;
    Memory<N> memory{op, step.tables + chunk.row.first_block};
    for (long t = chunk.begin; t < chunk.end; t++) {
        const float *cos = op.rotary ? step.cos + t * op.size : nullptr;
        const float *sin = op.rotary ? step.sin + t * op.size : nullptr;
        float *q = op.qkv + t * (op.heads + 2 * op.kv_heads) * op.size, *k = q + op.heads * op.size, *v = k + width;
        for (long h = 0; h < op.heads; h++) prepare(q + h * op.size, op.q_norm, op.eps, cos, sin, op.size);
        for (long h = 0; h < op.kv_heads; h++) prepare(k + h * op.size, op.k_norm, op.eps, cos, sin, op.size);
        long at = memory.slot(chunk.row.position + t - chunk.row.begin) * width;
        for (long i = 0; i < width; i++) put((N *)op.keys + at + i, k[i]);
        for (long i = 0; i < width; i++) put((N *)op.values + at + i, v[i]);
    }
}

// scores [length] become weights, in parts of their sum, which is the answer.
static float softmax(float *scores, long length, float scaling) {
    float largest = largest_of(scores, length, -INFINITY);
    Vec sums{};
    long i = 0;
    for (; i + LANES <= length; i += LANES) {
        Vec e = exponential((load(scores + i) - largest) * scaling);
        store(scores + i, e);
        sums += e;
    }
    float total = sum(sums);
    for (; i < length; i++) total += scores[i] = std::exp((scores[i] - largest) * scaling);
    return total;
}

// The heads of one token that share some key heads. room: for their scores, and the sum of each one's weights.
template <class N>
static void answer(const Attend &op, const Memory<N> &memory, const Chunk &chunk, KeyHeads keys,
                   std::vector<float> &room) {
    long group = op.heads / op.kv_heads, first = keys.first * group, heads = keys.end * group - first;
    long position = chunk.row.position + chunk.begin - chunk.row.begin, t = chunk.begin;
    long begin = first_seen(op, position), end = position + 1, length = end - begin;
    room.resize(heads * (length + 1));
    const float *q = op.qkv + t * (op.heads + 2 * op.kv_heads) * op.size;
    float *out = op.out + t * op.heads * op.size, *scores = room.data(), *totals = scores + heads * length;
    auto score = [&](Rows<N> k, long h, long count, long p) {
        Rows<float> queries{q + h * group * op.size, op.size};
        dots(k, count, queries, group, op.size, {scores + (h * group - first) * length + p - begin, 1, length});
    };
    memory.blocks(op.keys, keys, begin, end, score, op.values);
    for (long i = 0; i < heads; i++) totals[i] = softmax(scores + i * length, length, op.scaling);
    memset(out + first * op.size, 0, sizeof(float) * heads * op.size);
    memory.blocks(op.values, keys, begin, end, [&](Rows<N> v, long h, long count, long p) {
        Place weights{scores + (h * group - first) * length + p - begin, 1, length};
        mix(v, count, weights, out + h * group * op.size, op.size, group, op.size);
    });
    for (long i = 0; i < heads; i++)
        for (long j = 0; j < op.size; j++) out[(first + i) * op.size + j] /= totals[i];
}

// For each thread, so that the last one to finish is late by an eighth of its share at most.
static constexpr long CHUNKS = 8;

template <class W> static void attend(const Attend &op, const Step &step, const Team &team) {
    const std::vector<Chunk> &chunks = *team.chunks;
    Share mine(chunks.size(), team);
    for (long i = mine.begin; i < mine.end; i++) take_in<W>(op, step, chunks[i]);
#pragma omp barrier
    // Where there are chunks enough for all threads, a block's heads are read together: they lie side by side.
    long parts = (long)chunks.size() < CHUNKS * team.threads ? op.kv_heads : 1, each = op.kv_heads / parts;
    std::vector<float> room;
    for (long i = team.take(); i < (long)chunks.size() * parts; i = team.take()) {
        const Chunk &chunk = chunks[chunks.size() - 1 - i / parts];  // a prompt's last ones take longest
        Memory<Number<W>> memory{op, step.tables + chunk.row.first_block};
        KeyHeads heads{i % parts * each, (i % parts + 1) * each};
        if (chunk.end - chunk.begin == 1)
            answer(op, memory, chunk, heads, room);
        else
            for (long h = heads.first; h < heads.end; h++) Passing<W>(op, memory, chunk, h, room).run();
    }
}

void work(const Attend &op, const Step &step, const Team &team) {
    if (op.stored == WIDE) return attend<float>(op, step, team);
    // No pair lies in two heads.
    if (op.stored == PAIRS && op.size % 2 == 0) return attend<Pair>(op, step, team);
    attend<bfloat16>(op, step, team);
}
