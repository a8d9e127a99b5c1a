#include "cuda/pseudo_labels.cu"

#include "dense_entry.h"

extern "C" const char* pseudo_labels(
    const entry::DenseOptions& o, const entry::Array& scores, const entry::Array& threshold, const entry::Array& label,
    const entry::Array& confidence) {
  return entry::guarded_dense(o, [&] {
    const fastuda::cuda::PseudoLabelsProblem p{
        o.scores(scores, o.type), o.down(scores), o.along(scores), o.probabilities != 0, o.balanced != 0,
        threshold.buffer(), o.double_threshold != 0, threshold.stride[0]};
    fastuda::cuda::run_pseudo_labels(p, label.buffer(), confidence.buffer(), nullptr);
  });
}
