// y += w (x A^T) B for the adapters of a batch, weights read where they lie in the rank pool.
//
// A cell is an adapter that is active for a run of tokens. Several layers that share x and lie side by
// side in y (q, k and v) are segments of one call. First every z = w (x A^T), then every z B.
#include "step.h"
#include "tiles.h"

// Tokens that share a thread's reading of A: 64 of 1,536 numbers fill most of a second-level cache.
static constexpr long BLOCK = 64;

// Rows [from, to) of the cell's A, at most ROWS of them, times its tokens [begin, end).
template <class W>
static void shrink(const Adapt &op, const Cell &cell, long from, long to, long begin, long end, float *z) {
    const W *a = (const W *)op.segments[cell.segment].a + (cell.first + from) * op.k;
    Place out{z + cell.z + (begin - cell.begin) * cell.rank + from, 1, cell.rank};
    dots(Rows<W>{a, op.k}, to - from, {op.x + begin * op.k, op.k}, end - begin, op.k, out);
    for (long t = 0; t < end - begin; t++)
        for (long r = 0; r < to - from; r++) out(r, t) *= (float)cell.weight;
}

static long units_of(const Cell &cell) {
    return (cell.rank + ROWS - 1) / ROWS * ((cell.end - cell.begin + BLOCK - 1) / BLOCK);
}

// Units [from, to) of a cell: ROWS rows of A by BLOCK tokens each.
template <class W> static void shrink_units(const Adapt &op, const Cell &cell, long from, long to, float *z) {
    long groups = (cell.rank + ROWS - 1) / ROWS;
    for (long unit = from; unit < to; unit++) {
        long row = unit % groups * ROWS, begin = cell.begin + unit / groups * BLOCK;
        shrink<W>(op, cell, row, row + ROWS < cell.rank ? row + ROWS : cell.rank, begin,
                  begin + BLOCK < cell.end ? begin + BLOCK : cell.end, z);
    }
}

// Columns of a segment that belong to one thread: cells and touches of one token meet in no other.
template <class W> static void expand(const Adapt &op, const Cell &cell, const Team &team, const float *z) {
    const Segment &segment = op.segments[cell.segment];
    Share columns(segment.columns, team, LANES);
    const W *b = (const W *)segment.b + cell.first * segment.columns + columns.begin;
    Place weights{(float *)z + cell.z, 1, cell.rank};
    mix(Rows<W>{b, segment.columns}, cell.rank, weights, op.y + cell.begin * op.ldy + segment.column + columns.begin,
        op.ldy, cell.end - cell.begin, columns.end - columns.begin);
}

static void touch(const Adapt &op, const Touch &touch, const Team &team) {
    const Segment &segment = op.segments[touch.segment];
    Share columns(segment.columns, team, LANES);
    for (long t = touch.begin; t < touch.end; t++) {
        float *y = op.y + t * op.ldy + segment.column;
        for (long i = columns.begin; i < columns.end; i++) {
            float value = touch.gain ? y[i] * touch.gain[i] : y[i];
            y[i] = touch.shift ? value + (float)touch.weight * touch.shift[i] : value;
        }
    }
}

template <class W> static void adapt(const Adapt &op, const Added &added, const Team &team, float *z) {
    long units = 0, unit = 0;
    for (long i = 0; i < added.cell_count; i++) units += units_of(added.cells[i]);
    Share mine(units, team);
    for (long i = 0; i < added.cell_count; unit += units_of(added.cells[i++])) {
        long from = mine.begin - unit, to = mine.end - unit, all = units_of(added.cells[i]);
        shrink_units<W>(op, added.cells[i], from < 0 ? 0 : from, to < all ? to : all, z);
    }
#pragma omp barrier
    for (long i = 0; i < added.cell_count; i++) expand<W>(op, added.cells[i], team, z);
    for (long i = 0; i < added.touch_count; i++) touch(op, added.touches[i], team);
}

void work(const Adapt &op, const Step &step, const Team &team) {
    const Added &added = step.added[op.product];
    if (!added.cell_count && !added.touch_count) return;
    if (op.narrow)
        adapt<bfloat16>(op, added, team, step.z);
    else
        adapt<float>(op, added, team, step.z);
}
