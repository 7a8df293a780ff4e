// y = x W^T + b, and the index of the largest y without y; packing and unpacking of W.
#include <limits>
#include <vector>

#include "panels.h"
#include "step.h"

// Bytes of x that pass by every panel before the next ones do: half of a second-level cache of 512 KB.
static constexpr long BLOCK_BYTES = 262144;
// Units of work for each thread: the last one to finish is late by half a unit, 6 % of its share.
static constexpr long UNITS = 8;

// How a product is cut: tokens into blocks, panels into units.
struct Cut {
    long block, blocks, unit, units, panels;
    Cut(long tokens, long n, long k, int threads) {
        long most = BLOCK_BYTES / ((long)sizeof(float) * k) / TOKENS * TOKENS;
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

template <class W> static void linear(const Linear &op, long tokens, const Team &team) {
    Cut cut(tokens, op.n, op.k, team.threads);
    std::vector<float> edge(cut.block * PANEL * 4);  // for a last panel that is not full
    taking(cut, tokens, team, [&](long first, long some, long panel, long count) {
        const W *w = (const W *)op.panels + panel * PANEL * op.k;
        const float *x = op.x + first * op.k;
        float *y = op.y + first * op.n + panel * PANEL;
        long columns = columns_of(op.n, panel, count), width = count * PANEL;
        if (columns == width) {
            multiply(w, count, some, {x, op.k, op.k, y, op.n, false});
        } else {
            multiply(w, count, some, {x, op.k, op.k, edge.data(), width, false});
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

template <class W> static void argmax(const Argmax &op, long tokens, const Team &team) {
    Cut cut(tokens, op.n, op.k, team.threads);
    std::vector<float> scores(cut.block * PANEL * 4);
    std::vector<Largest> mine(tokens);
    taking(cut, tokens, team, [&](long first, long some, long panel, long count) {
        const W *w = (const W *)op.panels + panel * PANEL * op.k;
        long columns = columns_of(op.n, panel, count), width = count * PANEL;
        multiply(w, count, some, {op.x + first * op.k, op.k, op.k, scores.data(), width, false});
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

void work(const Linear &op, const Step &step, const Team &team) {
    if (op.narrow)
        linear<bfloat16>(op, step.tokens, team);
    else
        linear<float>(op, step.tokens, team);
}

void work(const Argmax &op, const Step &step, const Team &team) {
#pragma omp single
    for (long t = 0; t < step.tokens; t++) {
        op.values[t] = Largest().value;
        op.best[t] = 0;
    }
    if (op.narrow)
        argmax<bfloat16>(op, step.tokens, team);
    else
        argmax<float>(op, step.tokens, team);
}

template <class W> static void pack(const float *w, W *panels, long n, long k, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long first = 0; first < n; first += PANEL)
        for (long j = 0; j < k; j++)
            for (long i = 0; i < PANEL; i++)
                put(panels + first * k + j * PANEL + seat(panels, i), first + i < n ? w[(first + i) * k + j] : 0);
}

template <class W> static void unpack(const W *panels, float *w, long n, long k, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < n; row++) {
        const W *at = panels + row / PANEL * PANEL * k + seat(panels, row % PANEL);
        for (long j = 0; j < k; j++) w[row * k + j] = scalar(at[j * PANEL]);
    }
}

extern "C" {
int64_t lorry_panel() { return PANEL; }
int64_t lorry_tokens() { return TOKENS; }

// w: [n, k], float32. panels: of all rows, the last one filled up with zeros.
void lorry_pack(const float *w, void *panels, int narrow, int64_t n, int64_t k, int threads) {
    if (narrow)
        pack(w, (bfloat16 *)panels, n, k, threads);
    else
        pack(w, (float *)panels, n, k, threads);
}

void lorry_unpack(const void *panels, float *w, int narrow, int64_t n, int64_t k, int threads) {
    if (narrow)
        unpack((const bfloat16 *)panels, w, n, k, threads);
    else
        unpack((const float *)panels, w, n, k, threads);
}
}
