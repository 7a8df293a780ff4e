// y += w (x A^T) B for the adapters of a batch, weights read where they lie in the rank pool.
//
// A cell is an adapter that is active for a run of tokens. Several layers that share x and lie side by
// side in y (q, k and v) are segments of one call. First every z = w (x A^T), then every z B.
#include <omp.h>

#include "tiles.h"

// As in kernels.py. A layer's rows of the pool and its columns of y.
struct Segment {
    const void *a, *b;
    long column, columns;
};

// Tokens [begin, end) use pool rows [first, first + rank) of segment `segment` times `weight`; z lies at `z`.
struct Cell {
    long segment, begin, end, first, rank, z;
    double weight;
};

// Pool rows of a unit of work: what one strip of tiles takes.
template <class W>
static void shrink(const Segment *segments, const Cell &cell, long from, long to, const float *x, long k, float *z) {
    const W *a = (const W *)segments[cell.segment].a + (cell.first + from) * k;
    long tokens = cell.end - cell.begin;
    Place out{z + cell.z + from, 1, cell.rank};
    dots(Rows<W>{a, k}, to - from, {x + cell.begin * k, k}, tokens, k, out);
    for (long t = 0; t < tokens; t++)
        for (long r = 0; r < to - from; r++) out(r, t) *= (float)cell.weight;
}

template <class W>
static void adapt(const float *x, float *y, const Segment *segments, const Cell *cells, long count, float *z, long k,
                  long ldy, int threads) {
    long units = 0;
    for (long i = 0; i < count; i++) units += (cells[i].rank + ROWS - 1) / ROWS;
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num(), team = omp_get_num_threads();
        Share mine(units, thread, team);
        long unit = 0;
        for (long i = 0; i < count; i++)
            for (long r = 0; r < cells[i].rank; r += ROWS, unit++)
                if (unit >= mine.begin && unit < mine.end)
                    shrink<W>(segments, cells[i], r, r + ROWS < cells[i].rank ? r + ROWS : cells[i].rank, x, k, z);
#pragma omp barrier
        for (long i = 0; i < count; i++) {
            const Cell &cell = cells[i];
            const Segment &segment = segments[cell.segment];
            Share columns(segment.columns, thread, team, LANES);
            const W *b = (const W *)segment.b + cell.first * segment.columns + columns.begin;
            mix(Rows<W>{b, segment.columns}, cell.rank, {z + cell.z, 1, cell.rank},
                y + cell.begin * ldy + segment.column + columns.begin, ldy, cell.end - cell.begin,
                columns.end - columns.begin);
        }
    }
}

// x: [tokens, k]; y: [tokens, ldy]; z: room for rank * tokens of every cell. narrow: A and B are bfloat16.
extern "C" void lorry_adapt(const float *x, float *y, const Segment *segments, const Cell *cells, long count, float *z,
                            int narrow, long k, long ldy, int threads) {
    if (narrow)
        adapt<bfloat16>(x, y, segments, cells, count, z, k, ldy, threads);
    else
        adapt<float>(x, y, segments, cells, count, z, k, ldy, threads);
}
