// What attention over a request's blocks needs, for one token and for many: where keys and values lie, what is seen.
#pragma once
#include "step.h"
#include "tiles.h"

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

// The largest of `most` and scores [length].
static inline float largest_of(const float *scores, long length, float most) {
    Vec best = all(most);
    long i = 0;
    for (; i + LANES <= length; i += LANES) best = larger(load(scores + i), best);
    most = largest(best);
    for (; i < length; i++) most = scores[i] > most ? scores[i] : most;
    return most;
}

static inline long first_seen(const Attend &op, long position) {
    return op.window && position + 1 > op.window ? position + 1 - op.window : 0;
}
