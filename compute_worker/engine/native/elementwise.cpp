// The passes between products: residual add with RMS norm, and activation times gate.
#include <vector>

#include "lanes.h"
#include "step.h"

// Tokens of a unit of work.
static constexpr long SOME = 4;

static inline void normalise(const float *x, const float *weight, float eps, float *out, long size) {
    Vec squares{};
    long i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < size; i++) total += x[i] * x[i];
    float scale = 1 / std::sqrt(total / size + eps);
    for (i = 0; i < size; i++) out[i] = weight[i] * (x[i] * scale);
}

// Where an activation goes, a token at a time: to its place, or where its floats are not read into a row that stays near.
class Outlet {
    const Activation &out;
    bool floats;
    Pair *pairs;
    std::vector<float> near;

   public:
    Outlet(const Activation &out, const Step &step)
        : out(out), floats(!out.paired || (out.product >= 0 && step.added[out.product].cell_count)),
          pairs(out.paired ? (Pair *)step.rounded : nullptr), near(floats ? 0 : out.size) {}
    float *row(long t) { return floats ? out.at + t * out.size : near.data(); }
    void done(long t) {
        if (pairs) pair(row(t), out.size, pairs + t * ((out.size + 1) / 2));
    }
};

// x += y where there is a y; out = x / rms(x) * weight. x, y, out: [tokens, size].
void work(const AddNorm &op, const Step &step, const Team &team) {
    Outlet out(op.out, step);
    long size = op.out.size;
    for (long begin = SOME * team.take(); begin < step.tokens; begin = SOME * team.take())
        for (long t = begin; t < begin + SOME && t < step.tokens; t++) {
            float *row = op.x + t * size;
            if (op.y)
                for (long i = 0; i < size; i++) row[i] += op.y[t * size + i];
            normalise(row, op.weight, op.eps, out.row(t), size);
            out.done(t);
        }
}

static void gate_row(const float *gate, const float *up, float *out, long size) {
    long i = 0;
    for (; i + LANES <= size; i += LANES) {
        Vec g = load(gate + i);
        store(out + i, g / (1.0f + exponential(-g)) * load(up + i));
    }
    for (; i < size; i++) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

// out = silu(gate) * up; both: [tokens, 2 * size], gate first. out: [tokens, size].
void work(const SiluMul &op, const Step &step, const Team &team) {
    Outlet out(op.out, step);
    long size = op.out.size;
    for (long t = team.take(); t < step.tokens; t = team.take()) {
        const float *gate = op.both + t * 2 * size;
        gate_row(gate, gate + size, out.row(t), size);
        out.done(t);
    }
}
