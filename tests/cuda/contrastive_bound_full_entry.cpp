// The full form takes means and softmax from the other file, as the linker lets it.
#include "cuda/contrastive_bound.cu"
#include "cuda/contrastive_bound_full.cu"

#include "bound_entry.h"

namespace {

fastuda::cuda::i64 group_bytes(const entry::Options& o) { return o.budget ? o.budget : fastuda::cuda::kGroupBytes; }

fastuda::cuda::MatrixBuffer matrices(const entry::Options& o, const entry::Array& a) {
  return {a.buffer(), o.wide_statistics != 0, a.stride[0], a.stride[1], a.stride[2]};
}

}  // namespace

extern "C" const char* contrastive_bound_full_forward(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance, const entry::Array& loss, const entry::Array& posterior) {
  return entry::guarded(o, [&] {
    const auto p = entry::bound_problem(o, features, labels, mean, nullptr);
    const entry::Scratch scratch(fastuda::cuda::full_scratch(p, false, group_bytes(o)));
    fastuda::cuda::run_bound_full_forward(
        p, matrices(o, covariance), scratch.buffer(), loss.buffer(), posterior.buffer(), nullptr, group_bytes(o));
  });
}

extern "C" const char* contrastive_bound_full_backward(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance, const entry::Array& grad, const entry::Array& posterior, const entry::Array& slope) {
  return entry::guarded(o, [&] {
    const auto p = entry::bound_problem(o, features, labels, mean, nullptr);
    const entry::Scratch scratch(fastuda::cuda::full_scratch(p, true, group_bytes(o)));
    fastuda::cuda::run_bound_full_backward(
        p, matrices(o, covariance), scratch.buffer(), grad.pixels(), posterior.buffer(), slope.pixels(),
        slope.stride[1], nullptr, group_bytes(o));
  });
}
