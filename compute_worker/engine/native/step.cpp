// Runs a list of operations, one after the other, in one parallel region: threads are woken once a step.
#include "step.h"

#include <omp.h>

// Query tokens whose attention is one unit: enough that to turn a block of keys once for all of them is little.
static constexpr long CHUNK = 32;

// As in structs.py.
enum Kind { LINEAR, ARGMAX, ADD_NORM, SILU_MUL, ADAPT, ATTEND };

struct Operation {
    int64_t kind;
    const void *what;
};

static void perform(const Operation &operation, const Step &step, const Team &team) {
    switch (operation.kind) {
        case LINEAR: return work(*(const Linear *)operation.what, step, team);
        case ARGMAX: return work(*(const Argmax *)operation.what, step, team);
        case ADD_NORM: return work(*(const AddNorm *)operation.what, step, team);
        case SILU_MUL: return work(*(const SiluMul *)operation.what, step, team);
        case ADAPT: return work(*(const Adapt *)operation.what, step, team);
        case ATTEND: return work(*(const Attend *)operation.what, step, team);
    }
}

static std::vector<Chunk> chunks_of(const Step &step) {
    std::vector<Chunk> chunks;
    for (long i = 0; i < step.row_count; i++)
        for (long begin = step.rows[i].begin, last = step.rows[i].end; begin < last; begin += CHUNK)
            chunks.push_back({step.rows[i], begin, begin + CHUNK < last ? begin + CHUNK : last});
    return chunks;
}

extern "C" void lorry_run(const Operation *operations, int64_t count, const Step *step, int threads) {
    std::vector<std::atomic<long>> next(count);
    for (auto &each : next) each = 0;
    std::vector<Chunk> chunks = chunks_of(*step);
#pragma omp parallel num_threads(threads)
    {
        Errand errand;
        for (long i = 0; i < count; i++) {
            Team team{omp_get_thread_num(), omp_get_num_threads(), &next[i], &chunks, &errand};
            errand.clear();
            if (i + 1 < count && operations[i].kind == LINEAR && operations[i + 1].kind == ADAPT)
                foresee(*(const Adapt *)operations[i + 1].what, *step, team);
            perform(operations[i], *step, team);
#pragma omp barrier
        }
    }
}
