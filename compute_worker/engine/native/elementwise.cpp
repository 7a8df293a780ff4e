// The passes between products: residual add with RMS norm, and activation times gate.
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

// x += y where there is a y; out = x / rms(x) * weight. x, y, out: [tokens, size].
void work(const AddNorm &op, const Step &step, const Team &team) {
    for (long begin = SOME * team.take(); begin < step.tokens; begin = SOME * team.take())
        for (long t = begin; t < begin + SOME && t < step.tokens; t++) {
            float *row = op.x + t * op.size;
            if (op.y)
                for (long i = 0; i < op.size; i++) row[i] += op.y[t * op.size + i];
            normalise(row, op.weight, op.eps, op.out + t * op.size, op.size);
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
    for (long t = team.take(); t < step.tokens; t = team.take()) {
        const float *gate = op.both + t * 2 * op.size;
        gate_row(gate, gate + op.size, op.out + t * op.size, op.size);
    }
}
