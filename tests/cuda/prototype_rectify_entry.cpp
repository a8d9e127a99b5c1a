#include "cuda/prototype_rectify.cu"

#include "dense_entry.h"

extern "C" const char* prototype_rectify(
    const entry::DenseOptions& o, const entry::Array& scores, const entry::Array& soft, const entry::Array& label) {
  return entry::guarded_dense(o, [&] {
    const fastuda::cuda::RectifyProblem p{
        o.scores(scores, o.type), o.scores(soft, o.other_type), o.down(scores), o.along(scores), o.down(soft),
        o.along(soft), o.temperature};
    fastuda::cuda::run_prototype_rectify(p, label.buffer(), nullptr);
  });
}
