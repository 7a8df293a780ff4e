// Rotary embedding, writing of keys and values, and attention over the blocks where they lie.
//
// Heads that share keys are answered together, so that keys and values are read once for them. A token by itself
// (decode) reads its keys and values in place; the tokens of a prompt's chunk take them from panels.
#include <utility>
#include <vector>

#include "panels.h"
#include "step.h"
#include "tiles.h"

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

// Key heads [first, end), which are answered together.
struct KeyHeads {
    long first, end;
};

// One layer's attention over one request's blocks.
template <class W> struct Memory {
    const Attend &op;
    const int64_t *table;

    long slot(long position) const { return table[position / op.block] * op.block + position % op.block; }
    // Calls each(keys or values of a head, head, count, first position) for what lies side by side of [begin, end):
    // some heads of a block before the next block, which is asked for meanwhile. then: what is read behind it.
    template <class F>
    void blocks(const void *memory, KeyHeads heads, long begin, long end, F each, const void *then = nullptr) const {
        for (long p = begin, count; p < end; p += count) {
            count = count_at(p, end);
            bool last = p + count == end;
            const W *at = row(memory, p);
            for (long h = heads.first; h < heads.end; h++) {
                if (!last)
                    ask(row(memory, p + count), heads, count_at(p + count, end), h);
                else if (then)
                    ask(row(then, begin), heads, count_at(begin, end), h);
                each(Rows<W>{at + h * op.size, width()}, h, count, p);
            }
        }
    }

   private:
    long width() const { return op.kv_heads * op.size; }
    const W *row(const void *memory, long position) const { return (const W *)memory + slot(position) * width(); }
    // Of [position, end), what lies in one block.
    long count_at(long position, long end) const {
        long rest = op.block - position % op.block;
        return rest < end - position ? rest : end - position;
    }
    // Asks for some of what these heads have of `count` rows: for all of it by the time each head was at work.
    [[gnu::always_inline]] void ask(const W *at, KeyHeads heads, long count, long h) const {
        long some = heads.end - heads.first, part = h - heads.first, bytes = some * op.size * (long)sizeof(W);
        if (some == op.kv_heads) return Ahead{(const char *)at, count * bytes}.part(part, some);
        for (long i = count * part / some; i < count * (part + 1) / some; i++)
            Ahead{(const char *)(at + i * width() + heads.first * op.size), bytes}.part(0, 1);
    }
};

// Norms and rotates the queries of a chunk's tokens in place and their keys, and stores keys and values.
template <class W> static void take_in(const Attend &op, const Step &step, const Chunk &chunk) {
    long width = op.kv_heads * op.size;
    Memory<W> memory{op, step.tables + chunk.row.first_block};
    for (long t = chunk.begin; t < chunk.end; t++) {
        const float *cos = op.rotary ? step.cos + t * op.size : nullptr;
        const float *sin = op.rotary ? step.sin + t * op.size : nullptr;
        float *q = op.qkv + t * (op.heads + 2 * op.kv_heads) * op.size, *k = q + op.heads * op.size, *v = k + width;
        for (long h = 0; h < op.heads; h++) prepare(q + h * op.size, op.q_norm, op.eps, cos, sin, op.size);
        for (long h = 0; h < op.kv_heads; h++) prepare(k + h * op.size, op.k_norm, op.eps, cos, sin, op.size);
        long at = memory.slot(chunk.row.position + t - chunk.row.begin) * width;
        for (long i = 0; i < width; i++) put((W *)op.keys + at + i, k[i]);
        for (long i = 0; i < width; i++) put((W *)op.values + at + i, v[i]);
    }
}

// The largest of `most` and scores [length].
static float largest_of(const float *scores, long length, float most) {
    Vec best = all(most);
    long i = 0;
    for (; i + LANES <= length; i += LANES) best = load(scores + i) > best ? load(scores + i) : best;
    for (; i < length; i++) most = scores[i] > most ? scores[i] : most;
    for (int lane = 0; lane < LANES; lane++) most = best[lane] > most ? best[lane] : most;
    return most;
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

static long first_seen(const Attend &op, long position) {
    return op.window && position + 1 > op.window ? position + 1 - op.window : 0;
}

// The heads of one token that share some key heads. room: for their scores, and the sum of each one's weights.
template <class W>
static void answer(const Attend &op, const Memory<W> &memory, const Chunk &chunk, KeyHeads keys,
                   std::vector<float> &room) {
    long group = op.heads / op.kv_heads, first = keys.first * group, heads = keys.end * group - first;
    long position = chunk.row.position + chunk.begin - chunk.row.begin, t = chunk.begin;
    long begin = first_seen(op, position), end = position + 1, length = end - begin;
    room.resize(heads * (length + 1));
    const float *q = op.qkv + t * (op.heads + 2 * op.kv_heads) * op.size;
    float *out = op.out + t * op.heads * op.size, *scores = room.data(), *totals = scores + heads * length;
    auto score = [&](Rows<W> k, long h, long count, long p) {
        Rows<float> queries{q + h * group * op.size, op.size};
        dots(k, count, queries, group, op.size, {scores + (h * group - first) * length + p - begin, 1, length});
    };
    memory.blocks(op.keys, keys, begin, end, score, op.values);
    for (long i = 0; i < heads; i++) totals[i] = softmax(scores + i * length, length, op.scaling);
    memset(out + first * op.size, 0, sizeof(float) * heads * op.size);
    memory.blocks(op.values, keys, begin, end, [&](Rows<W> v, long h, long count, long p) {
        Place weights{scores + (h * group - first) * length + p - begin, 1, length};
        mix(v, count, weights, out + h * group * op.size, op.size, group, op.size);
    });
    for (long i = 0; i < heads; i++)
        for (long j = 0; j < op.size; j++) out[(first + i) * op.size + j] /= totals[i];
}

// Keys that a chunk looks at together: 128 of them for 96 queries of 64 numbers fill a third of a cache of 512 KB.
static constexpr long KEYS = 128;
static_assert(KEYS % PANEL == 0);

// 1 or 4 keys [size] side by side into a panel: number j of each goes to at[j * PANEL].
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
// the largest score so far, the sum of e^(score - largest), and the values so weighted.
template <class W> struct Passing {
    const Attend &op;
    Memory<W> memory;
    const Chunk &chunk;
    long h, group, queries, wide;
    float *q, *keys, *values, *scores, *out, *sums, *largest;

    Passing(const Attend &op, Memory<W> memory, const Chunk &chunk, long h, std::vector<float> &room)
        : op(op), memory(memory), chunk(chunk), h(h), group(op.heads / op.kv_heads),
          queries((chunk.end - chunk.begin) * group), wide((op.size + PANEL - 1) / PANEL * PANEL) {
        room.resize(queries * (op.size + KEYS + wide + 2) + (op.size + wide) * KEYS + LINE);
        float *at = (float *)(((uintptr_t)room.data() + LINE - 1) / LINE * LINE);
        for (auto [slice, size] : {std::pair{&keys, op.size * KEYS}, {&values, wide * KEYS}, {&scores, queries * KEYS},
                                   {&out, queries * wide}, {&q, queries * op.size}, {&sums, queries}, {&largest, queries}})
            *slice = at, at += size;
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
            const float *from = token(op.qkv, i, op.heads + 2 * op.kv_heads);
            for (long j = 0; j < op.size; j++) q[i * op.size + j] = from[j] * (float)op.scaling;
        }
    }
    // Keys [begin, end) turned into panels of float32, and values likewise; what is no key is zero.
    void turn(long begin, long end) {
        if (end - begin < KEYS) {
            std::fill(keys, keys + op.size * KEYS, 0.0f);
            std::fill(values, values + wide * KEYS, 0.0f);
        }
        memory.blocks(op.keys, {h, h + 1}, begin, end, [&](Rows<W> k, long, long count, long p) {
            long key = p - begin, i = 0;
            for (; key % 4 == 0 && i + 4 <= count; i += 4)
                transpose(Rows<W>{k[i], k.stride}, 4, keys + place(key + i, op.size), op.size);
            for (; i < count; i++) transpose(Rows<W>{k[i], k.stride}, 1, keys + place(key + i, op.size), op.size);
        });
        memory.blocks(op.values, {h, h + 1}, begin, end, [&](Rows<W> v, long, long count, long p) {
            for (long i = 0; i < count; i++) spread(v[i], values + (p - begin + i) * PANEL);
        });
    }
    // Where key number `key` begins among panels of `rows` numbers each.
    static long place(long key, long rows) { return key / PANEL * PANEL * rows + key % PANEL; }
    // One value over its panels.
    void spread(const W *v, float *at) const {
        long j = 0;
        for (; j + PANEL <= op.size; j += PANEL) {
            store(at + j * KEYS, load(v + j));
            store(at + j * KEYS + LANES, load(v + j + LANES));
        }
        for (long i = j; i < op.size; i++) at[j * KEYS + i - j] = scalar(v[i]);
    }
    // Scores of keys [begin, begin + count) become weights; what was summed up before is scaled to the new largest.
    void weigh(long begin, long count) {
        for (long i = 0; i < queries; i++) {
            float *mine = scores + i * KEYS;
            long first = first_seen(op, position(i)) - begin, last = position(i) + 1 - begin;
            first = first < 0 ? 0 : first < count ? first : count;
            last = last < first ? first : last < count ? last : count;
            std::fill(mine, mine + first, -INFINITY);
            std::fill(mine + last, mine + count, -INFINITY);
            float most = largest_of(mine, count, largest[i]);
            if (most != largest[i]) rescale(i, std::exp(largest[i] - most));
            largest[i] = most;
            if (most == -INFINITY) most = 0;  // nothing seen yet
            for (long j = 0; j < count; j += LANES) store(mine + j, exponential(load(mine + j) - most));
            std::fill(mine, mine + first, 0.0f);
            std::fill(mine + last, mine + count, 0.0f);
            Vec total{};
            for (long j = 0; j < count; j += LANES) total += load(mine + j);
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
            multiply(keys + panel * PANEL * op.size, 1, queries,
                     {q, op.size, op.size, scores + panel * PANEL, KEYS, false});
        weigh(begin, count);
        for (long panel = 0; panel < wide / PANEL; panel++)
            multiply(values + panel * PANEL * KEYS, 1, queries,
                     {scores, KEYS, count, out + panel * PANEL, wide, true});
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
        const Chunk &chunk = chunks[i / parts];
        Memory<W> memory{op, step.tables + chunk.row.first_block};
        KeyHeads heads{i % parts * each, (i % parts + 1) * each};
        if (chunk.end - chunk.begin == 1)
            answer(op, memory, chunk, heads, room);
        else
            for (long h = heads.first; h < heads.end; h++) Passing<W>(op, memory, chunk, h, room).run();
    }
}

void work(const Attend &op, const Step &step, const Team &team) {
    if (op.narrow)
        attend<bfloat16>(op, step, team);
    else
        attend<float>(op, step, team);
}
