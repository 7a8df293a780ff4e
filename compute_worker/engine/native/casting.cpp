// A matrix out of an adapter's file into the type of the pool's rows: widened, scaled in float32, rounded once.
#include "lanes.h"

struct float16 {
    uint16_t bits;
};

// Normal numbers get 112 more in their exponent, by a product, so that infinities and NaN stay what they are; the
// others come out of a subtraction, exactly.
static inline float scalar(float16 x) {
    uint32_t word = (uint32_t)x.bits << 16, twice = word + word;
    uint32_t large = (twice >> 4) + (0xe0u << 23), small = (twice >> 17) | (126u << 23);
    float normal, rest;
    memcpy(&normal, &large, 4);
    memcpy(&rest, &small, 4);
    float size = twice < 1u << 27 ? rest - 0.5f : normal * 0x1.0p-112f;
    uint32_t bits;
    memcpy(&bits, &size, 4);
    bits |= word & 0x80000000;
    memcpy(&size, &bits, 4);
    return size;
}

// All bits of the exponent are set.
static inline uint32_t endless(const float *p) {
    uint32_t bits;
    memcpy(&bits, p, 4);
    return (bits & 0x7f800000) == 0x7f800000;
}
static inline uint32_t endless(const bfloat16 *p) { return (p->bits & 0x7f80) == 0x7f80; }

// One row of the result: `count` numbers that lie `apart` in the file.
template <class From, class To> static inline uint32_t row(const From *from, long apart, long count, float scale, To *to) {
    uint32_t found = 0;
    for (long i = 0; i < count; i++) {
        put(to + i, scalar(from[i * apart]) * scale);
        found |= endless(to + i);
    }
    return found;
}

// from: [rows, columns]. to: the same, or [columns, rows] where it is turned. Whether a result is NaN or infinite.
template <class From, class To>
static int64_t cast(const From *from, long rows, long columns, bool turned, float scale, To *to) {
    uint32_t found = 0;
    if (!turned) return row(from, 1, rows * columns, scale, to);
    for (long i = 0; i < columns; i++) found |= row(from + i, columns, rows, scale, to + i * rows);
    return found;
}

template <class To>
static int64_t any(const void *from, int kind, long rows, long columns, bool turned, float scale, To *to) {
    switch (kind) {
        case 0: return cast((const float *)from, rows, columns, turned, scale, to);
        case 1: return cast((const float16 *)from, rows, columns, turned, scale, to);
        default: return cast((const bfloat16 *)from, rows, columns, turned, scale, to);
    }
}

// kind: 0 float32, 1 float16, 2 bfloat16. narrow: whether the result is bfloat16 and not float32.
extern "C" int64_t lorry_cast(
    const void *from, int kind, int64_t rows, int64_t columns, int turned, float scale, void *to, int narrow) {
    return narrow ? any(from, kind, rows, columns, turned, scale, (bfloat16 *)to)
                  : any(from, kind, rows, columns, turned, scale, (float *)to);
}
