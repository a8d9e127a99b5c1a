#include "cuda/confidence_histogram.cu"

#include "dense_entry.h"

// facts: launches, blocks of the last one, bytes of shared memory of a block.
extern "C" const char* confidence_histogram(
    const entry::DenseOptions& o, const entry::Array& scores, const entry::Array& result, int* facts) {
  return entry::guarded_dense(o, [&] {
    const fastuda::cuda::ConfidenceProblem p{
        o.scores(scores, o.type), o.down(scores), o.along(scores), o.probabilities != 0, static_cast<int>(o.bins)};
    fastuda::cuda::run_confidence_histogram(p, o.card(), result.buffer(), nullptr);
    facts[0] = emulation::machine.launches;
    facts[1] = static_cast<int>(emulation::machine.grid.count());
    facts[2] = emulation::machine.largest_shared;
  });
}
