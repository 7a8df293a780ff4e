// y += w (x A^T) B for the adapters of a batch, weights read where they lie in the rank pool.
//
// A cell is an adapter that is active for a run of tokens. Several layers that share x and lie side by
// side in y (q, k and v) are segments of one call. First z = w (x A^T), then z B.
#include <algorithm>

#include "step.h"
#include "tiles.h"

// Tokens of a cell that are so few that reading its weights takes longer than multiplying them.
static constexpr long FEW = 4;
// What reading a cell's weights takes, in tokens' time.
static constexpr long READING = 8;

// Tokens, or columns of y: [begin, end).
struct Range {
    long begin, end;
    long size() const { return end - begin; }
};

static Range common(Range a, Range b) {
    return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

// Rows of the cell's A times its tokens: z = w (x A^T).
template <class W> static void shrink(const Adapt &op, const Cell &cell, Range rows, Range tokens, float *z) {
    Rows<W> a{(const W *)op.segments[cell.segment].a + (cell.first + rows.begin) * op.k, op.k};
    Place out{z + cell.z + (tokens.begin - cell.begin) * cell.rank + rows.begin, 1, cell.rank};
    Rows<float> x{op.x + tokens.begin * op.k, op.k};
    if (tokens.size() <= FEW)
        dots<Reading::AHEAD>(a, rows.size(), x, tokens.size(), op.k, out);
    else
        dots(a, rows.size(), x, tokens.size(), op.k, out);
    for (long t = 0; t < tokens.size(); t++)
        for (long r = 0; r < rows.size(); r++) out(r, t) *= (float)cell.weight;
}

// y += z B, in some of the columns.
template <class W>
static void expand(const Adapt &op, const Cell &cell, Range tokens, Range columns, const float *z) {
    const Segment &segment = op.segments[cell.segment];
    Rows<W> b{(const W *)segment.b + cell.first * segment.columns + columns.begin, segment.columns};
    Place weights{(float *)z + cell.z + (tokens.begin - cell.begin) * cell.rank, 1, cell.rank};
    float *y = op.y + tokens.begin * op.ldy + segment.column + columns.begin;
    long few = tokens.size() <= FEW ? tokens.size() : 0, t = 0;
    for (; t + 2 <= few; t += 2) mix_few<2>(b, cell.rank, weights.from(0, t), y + t * op.ldy, op.ldy, columns.size());
    for (; t < few; t++) mix_few<1>(b, cell.rank, weights.from(0, t), y + t * op.ldy, op.ldy, columns.size());
    if (!few) mix(b, cell.rank, weights, y, op.ldy, tokens.size(), columns.size());
}

static void touch(const Adapt &op, const Touch &touch, Range tokens, Range columns) {
    for (long t = tokens.begin; t < tokens.end; t++) {
        float *y = op.y + t * op.ldy + op.segments[touch.segment].column;
        for (long i = columns.begin; i < columns.end; i++) {
            float value = touch.gain ? y[i] * touch.gain[i] : y[i];
            y[i] = touch.shift ? value + (float)touch.weight * touch.shift[i] : value;
        }
    }
}

static long units_of(const Cell &cell) { return (cell.rank + ROWS - 1) / ROWS; }

// Few tokens: threads share the rows of A, then the columns of y; cells and touches of one token meet in no other.
template <class W> static void by_columns(const Adapt &op, const Added &added, const Team &team, float *z) {
    long units = 0, unit = 0;
    for (long i = 0; i < added.cell_count; i++) units += units_of(added.cells[i]);
    Share mine(units, team);
    for (long i = 0; i < added.cell_count; unit += units_of(added.cells[i++])) {
        const Cell &cell = added.cells[i];
        Range rows = common({(mine.begin - unit) * ROWS, (mine.end - unit) * ROWS}, {0, cell.rank});
        if (rows.size() > 0) shrink<W>(op, cell, rows, {cell.begin, cell.end}, z);
    }
#pragma omp barrier
    auto columns = [&](long segment) {
        Share share(op.segments[segment].columns, team, LANES);
        return Range{share.begin, share.end};
    };
    for (long i = 0; i < added.cell_count; i++) {
        const Cell &cell = added.cells[i];
        expand<W>(op, cell, {cell.begin, cell.end}, columns(cell.segment), z);
    }
    for (long i = 0; i < added.touch_count; i++) {
        const Touch &each = added.touches[i];
        touch(op, each, {each.begin, each.end}, columns(each.segment));
    }
}

// The token at which `thread` of all parts of the work are done, as the cells of the first segment tell, whose runs of
// tokens follow each other. Adapters that are active together have cells of the same tokens, one behind another.
static long cut_at(const Added &added, int thread, int threads, long tokens) {
    if (thread == 0 || thread == threads) return thread ? tokens : 0;
    auto work = [&](long i) { return READING + added.cells[i].end - added.cells[i].begin; };
    long count = 0, all = 0, done = 0;
    for (; count < added.cell_count && added.cells[count].segment == added.cells[0].segment; count++) all += work(count);
    long wanted = all * thread / threads;
    for (long i = 0, next; i < count; i = next) {
        long begin = added.cells[i].begin, size = added.cells[i].end - begin, run = 0;
        for (next = i; next < count && added.cells[next].begin == begin; next++) run += work(next);
        if (done + run > wanted) return begin + (wanted - done) * size / run;
        done += run;
    }
    return tokens;
}

// Many tokens: threads share them, and wait for nobody. What a thread reads of a cell lies side by side, and in the
// pool one cell's behind another's.
template <class W> static void by_tokens(const Adapt &op, const Added &added, Range mine, float *z) {
    for (long i = 0; i < added.cell_count; i++) {
        const Cell &cell = added.cells[i];
        Range tokens = common(mine, {cell.begin, cell.end});
        if (tokens.size() > 0) shrink<W>(op, cell, {0, cell.rank}, tokens, z);
    }
    for (long i = 0; i < added.cell_count; i++) {
        const Cell &cell = added.cells[i];
        Range tokens = common(mine, {cell.begin, cell.end});
        if (tokens.size() > 0) expand<W>(op, cell, tokens, {0, op.segments[cell.segment].columns}, z);
    }
    for (long i = 0; i < added.touch_count; i++) {
        const Touch &each = added.touches[i];
        touch(op, each, common(mine, {each.begin, each.end}), {0, op.segments[each.segment].columns});
    }
}

// Tokens with adapters, for each thread, from which on they are what is shared.
static constexpr long MANY = 4;

// Cells of the first segment, and their tokens.
static long cells_of(const Added &added) {
    long cells = 0;
    while (cells < added.cell_count && added.cells[cells].segment == added.cells[0].segment) cells++;
    return cells;
}
static long tokens_of(const Added &added) {
    long tokens = 0;
    for (long i = 0, cells = cells_of(added); i < cells; i++) tokens += added.cells[i].end - added.cells[i].begin;
    return tokens;
}

// A thread's share of many tokens.
static Range share_of(const Added &added, const Step &step, const Team &team) {
    long begin = 0;  // no token is two threads', however runs lie
    for (int i = 1; i <= team.thread; i++) begin = std::max(begin, cut_at(added, i, team.threads, step.tokens));
    return {begin, std::max(begin, cut_at(added, team.thread + 1, team.threads, step.tokens))};
}

template <class W> static void adapt(const Adapt &op, const Added &added, const Step &step, const Team &team) {
    if (tokens_of(added) < MANY * team.threads) return by_columns<W>(op, added, team, step.z);
    by_tokens<W>(op, added, share_of(added, step, team), step.z);
}

// Of few tokens nothing is foreseen, since the product before them leaves memory no rest, nor of cells of many, where to
// multiply takes longer than to read.
void foresee(const Adapt &op, const Step &step, const Team &team) {
    const Added &added = step.added[op.product];
    long tokens = tokens_of(added);
    if (tokens < MANY * team.threads || tokens > READING * cells_of(added)) return;
    Range mine = share_of(added, step, team);
    long size = op.narrow ? sizeof(bfloat16) : sizeof(float);
    for (bool behind : {false, true})
        for (long i = 0; i < added.cell_count; i++) {
            const Cell &cell = added.cells[i];
            if (common(mine, {cell.begin, cell.end}).size() <= 0) continue;
            const Segment &segment = op.segments[cell.segment];
            long width = (behind ? segment.columns : op.k) * size;
            team.errand->add((const char *)(behind ? segment.b : segment.a) + cell.first * width, cell.rank * width);
        }
}

void work(const Adapt &op, const Step &step, const Team &team) {
    const Added &added = step.added[op.product];
    if (!added.cell_count && !added.touch_count) return;
    if (op.narrow)
        adapt<bfloat16>(op, added, step, team);
    else
        adapt<float>(op, added, step, team);
}
