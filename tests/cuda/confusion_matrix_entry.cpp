#include "cuda/confusion_matrix.cu"

#include "dense_entry.h"

// type, other_type: bytes of a truth and of a prediction; images x height x width pixels. facts: launches, blocks of
// the second one, whether a block counts in shared memory.
extern "C" const char* confusion_matrix(
    const entry::DenseOptions& o, const entry::Array& truth, const entry::Array& prediction,
    const entry::Array& result, int* facts) {
  return entry::guarded_dense(o, [&] {
    const fastuda::cuda::PairsProblem p{
        truth.pixels(), prediction.pixels(), static_cast<int>(o.type), static_cast<int>(o.other_type),
        static_cast<fastuda::cuda::u32>(o.images * o.height * o.width), static_cast<int>(o.classes)};
    fastuda::cuda::run_confusion_matrix(p, o.card(), result.buffer(), nullptr);
    facts[0] = emulation::machine.launches;
    facts[1] = static_cast<int>(emulation::machine.grid.count());
    facts[2] = emulation::machine.largest_shared > 0;
  });
}
