// y = x W^T + b, and the index of the largest y without y; packing and unpacking of W.
#include <limits>
#include <vector>

#include "panels.h"
#include "step.h"

// What a product reads: rows of x, `k` numbers or pairs each.
template <class X> struct Given {
    const X *x;
    long k;
};

// Bytes of x that pass by every panel before the next ones do: half of a second-level cache of 512 KB.
static constexpr long BLOCK_BYTES = 262144;
// Units of work for each thread: the last one to finish is late by half a unit, 6 % of its share.
static constexpr long UNITS = 8;

// How a product is cut: tokens, of so many bytes each, into blocks, panels into units.
struct Cut {
    long block, blocks, unit, units, panels;
    Cut(long tokens, long n, long bytes, int threads) {
        long most = BLOCK_BYTES / bytes / TOKENS * TOKENS;
        most = most < TOKENS ? TOKENS : most;
        blocks = (tokens + most - 1) / most;
        block = blocks ? (tokens + blocks - 1) / blocks : 0;
        panels = (n + PANEL - 1) / PANEL;
        long wide = panels_of(block);
        unit = panels / (threads * UNITS) / wide * wide;
        unit = unit < wide ? wide : unit;
        units = (panels + unit - 1) / unit;
    }
};

// Calls each(first token, tokens, first panel, panels) for what this thread takes: panels that one tile spans.
template <class F> static void taking(const Cut &cut, long tokens, const Team &team, F each) {
    for (long i = team.take(); i < cut.units * cut.blocks; i = team.take()) {
        long first = i / cut.units * cut.block, begin = i % cut.units * cut.unit;
        long some = tokens - first < cut.block ? tokens - first : cut.block;
        long end = begin + cut.unit < cut.panels ? begin + cut.unit : cut.panels;
        for (long count; begin < end; begin += count) {
            count = end - begin < panels_of(some) ? 1 : panels_of(some);
            each(first, some, begin, count);
        }
    }
}

static void add_bias(float *y, long ldy, const float *bias, long tokens, long columns) {
    for (long t = 0; t < tokens; t++)
        for (long i = 0; i < columns; i++) y[t * ldy + i] += bias[i];
}

// Columns of y that `count` panels from `panel` on have.
static long columns_of(long n, long panel, long count) {
    return (panel + count) * PANEL < n ? count * PANEL : n - panel * PANEL;
}

template <class W> static void linear(const Linear &op, const Given<Times<W>> &in, long tokens, const Team &team) {
    Cut cut(tokens, op.n, in.k * (long)sizeof *in.x, team.threads);
    std::vector<float> edge(cut.block * PANEL * 4);  // for a last panel that is not full
    // A single tile waits for memory itself.
    if (tokens > TOKENS) team.errand->spread(cut.panels * cut.blocks * steps_of(cut.block, in.k) / team.threads);
    taking(cut, tokens, team, [&](long first, long some, long panel, long count) {
        const W *w = (const W *)op.panels + panel * PANEL * in.k;
        const Times<W> *x = in.x + first * in.k;
        float *y = op.y + first * op.n + panel * PANEL;
        long columns = columns_of(op.n, panel, count), width = count * PANEL;
        if (columns == width) {
            multiply(w, count, some, {x, in.k, in.k, y, op.n, false}, team.errand);
        } else {
            multiply(w, count, some, {x, in.k, in.k, edge.data(), width, false}, team.errand);
            for (long t = 0; t < some; t++) memcpy(y + t * op.n, edge.data() + t * width, columns * sizeof(float));
        }
        if (op.bias) add_bias(y, op.n, op.bias + panel * PANEL, some, columns);
    });
}

// What a thread has seen: the largest, and where; the first of equal ones.
struct Largest {
    float value = -std::numeric_limits<float>::infinity();
    int64_t row = 0;
};

template <class W> static void argmax(const Argmax &op, const Given<Times<W>> &in, long tokens, const Team &team) {
    Cut cut(tokens, op.n, in.k * (long)sizeof *in.x, team.threads);
    std::vector<float> scores(cut.block * PANEL * 4);
    std::vector<Largest> mine(tokens);
    taking(cut, tokens, team, [&](long first, long some, long panel, long count) {
        const W *w = (const W *)op.panels + panel * PANEL * in.k;
        long columns = columns_of(op.n, panel, count), width = count * PANEL;
        multiply(w, count, some, {in.x + first * in.k, in.k, in.k, scores.data(), width, false});
        if (op.bias) add_bias(scores.data(), width, op.bias + panel * PANEL, some, columns);
        for (long t = 0; t < some; t++) {
            Largest &largest = mine[first + t];
            for (long i = 0; i < columns; i++)
                if (scores[t * width + i] > largest.value) largest = {scores[t * width + i], panel * PANEL + i};
        }
    });
#pragma omp critical
    for (long t = 0; t < tokens; t++)
        if (mine[t].value > op.values[t] || (mine[t].value == op.values[t] && mine[t].row < op.best[t])) {
            op.values[t] = mine[t].value;
            op.best[t] = mine[t].row;
        }
}

// The step's x in pairs, once each thread has rounded its share.
static Given<Pair> rounded(const float *x, long k, const Step &step, const Team &team, bool ready = false) {
    Given<Pair> in{(const Pair *)step.rounded, (k + 1) / 2};
    if (ready) return in;
    Share mine(step.tokens, team);
    for (long t = mine.begin; t < mine.end; t++) pair(x + t * k, k, (Pair *)step.rounded + t * in.k);
#pragma omp barrier
    return in;
}

void work(const Linear &op, const Step &step, const Team &team) {
    switch (op.stored) {
        case WIDE: return linear<float>(op, {op.x, op.k}, step.tokens, team);
        case NARROW: return linear<bfloat16>(op, {op.x, op.k}, step.tokens, team);
        case PAIRS: return linear<Pair>(op, rounded(op.x, op.k, step, team, op.ready), step.tokens, team);
    }
}

void work(const Argmax &op, const Step &step, const Team &team) {
#pragma omp single
    for (long t = 0; t < step.tokens; t++) {
        op.values[t] = Largest().value;
        op.best[t] = 0;
    }
    switch (op.stored) {
        case WIDE: return argmax<float>(op, {op.x, op.k}, step.tokens, team);
        case NARROW: return argmax<bfloat16>(op, {op.x, op.k}, step.tokens, team);
        case PAIRS: return argmax<Pair>(op, rounded(op.x, op.k, step, team), step.tokens, team);
    }
}

// Where number j of output i lies in a panel: that of output i and that of number j, added up.
template <class W> static long seat(long i, long j) {
    if (std::is_same_v<W, Pair>) return (j / 2 * PANEL + i) * 2 + j % 2;
    if (std::is_same_v<W, bfloat16>) return j * PANEL + (i < LANES ? 2 * i : 2 * (i - LANES) + 1);
    return j * PANEL + i;
}
// Numbers of one output in a panel: pairs are filled up with a zero.
template <class W> static long depth(long k) { return std::is_same_v<W, Pair> ? k + k % 2 : k; }

template <class W> static void pack(const float *w, void *panels, long n, long k, int threads) {
    long deep = depth<W>(k);
#pragma omp parallel for num_threads(threads)
    for (long first = 0; first < n; first += PANEL) {
        Number<W> *panel = (Number<W> *)panels + first * deep;
        for (long j = 0; j < deep; j++)
            for (long i = 0; i < PANEL; i++)
                put(panel + seat<W>(i, j), first + i < n && j < k ? w[(first + i) * k + j] : 0);
    }
}

// Rows that it takes longer to wake a thread for than to read.
constexpr long FEW_ROWS = 8;

template <class W>
static void unpack(const void *panels, const int64_t *ids, float *w, long count, long k, int threads) {
#pragma omp parallel for num_threads(threads) if (count > FEW_ROWS)
    for (long at = 0; at < count; at++) {
        const Number<W> *panel = (const Number<W> *)panels + ids[at] / PANEL * PANEL * depth<W>(k);
        const Number<W> *first = panel + seat<W>(ids[at] % PANEL, 0);
        for (long j = 0; j < k; j++) w[at * k + j] = scalar(first[seat<W>(0, j)]);
    }
}

extern "C" {
int64_t lorry_panel() { return PANEL; }
int64_t lorry_tokens() { return TOKENS; }

// w: [n, k], float32. panels: of all rows, the last one filled up with zeros.
void lorry_pack(const float *w, void *panels, int stored, int64_t n, int64_t k, int threads) {
    switch (stored) {
        case WIDE: return pack<float>(w, panels, n, k, threads);
        case NARROW: return pack<bfloat16>(w, panels, n, k, threads);
        case PAIRS: return pack<Pair>(w, panels, n, k, threads);
    }
}

// w: [count, k], float32, of the rows `ids` in panels of k columns.
void lorry_unpack(const void *panels, const int64_t *ids, float *w, int stored, int64_t count, int64_t k, int threads) {
    switch (stored) {
        case WIDE: return unpack<float>(panels, ids, w, count, k, threads);
        case NARROW: return unpack<bfloat16>(panels, ids, w, count, k, threads);
        case PAIRS: return unpack<Pair>(panels, ids, w, count, k, threads);
    }
}
}
