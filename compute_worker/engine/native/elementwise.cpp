// The passes between products: residual add with RMS norm, and activation times gate.
#include <omp.h>

#include "tiles.h"

// Below so many numbers a second thread costs more than it does: some 2 us to wake it, 4 numbers a ns.
static constexpr long ALONE = 8192;

static inline void normalise(const float *x, const float *weight, float eps, float *out, long size) {
    Vec squares{};
    long i = 0;
    for (; i + LANES <= size; i += LANES) squares += load(x + i) * load(x + i);
    float total = sum(squares);
    for (; i < size; i++) total += x[i] * x[i];
    float scale = 1 / std::sqrt(total / size + eps);
    for (i = 0; i < size; i++) out[i] = weight[i] * (x[i] * scale);
}

extern "C" {
// x += y where there is a y; out = x / rms(x) * weight. x, y, out: [tokens, size].
void lorry_add_norm(float *x, const float *y, const float *weight, float eps, float *out, long tokens, long size,
                    int threads) {
#pragma omp parallel for num_threads(tokens * size < ALONE ? 1 : threads)
    for (long t = 0; t < tokens; t++) {
        float *row = x + t * size;
        if (y)
            for (long i = 0; i < size; i++) row[i] += y[t * size + i];
        normalise(row, weight, eps, out + t * size, size);
    }
}

// out = silu(gate) * up; both: [tokens, 2 * size], gate first. out: [tokens, size].
void lorry_silu_mul(const float *both, float *out, long tokens, long size, int threads) {
#pragma omp parallel for num_threads(tokens * size < ALONE ? 1 : threads)
    for (long t = 0; t < tokens; t++) {
        const float *gate = both + t * 2 * size, *up = gate + size;
        long i = 0;
        for (; i + LANES <= size; i += LANES) {
            Vec g = load(gate + i);
            store(out + t * size + i, g / (1.0f + exponential(-g)) * load(up + i));
        }
        for (; i < size; i++) out[t * size + i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    }
}
}
