#include "cuda/contrastive_bound.cu"

#include "bound_entry.h"

extern "C" const char* contrastive_bound_forward(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance, const entry::Array& loss, const entry::Array& posterior) {
  return entry::guarded(o, [&] {
    const auto p = entry::bound_problem(o, features, labels, mean, &covariance);
    const entry::Scratch scratch(p.scratch());
    fastuda::cuda::run_bound_forward(p, scratch.buffer(), false, loss.buffer(), posterior.buffer(), nullptr);
  });
}

extern "C" const char* contrastive_bound_backward(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance, const entry::Array& grad, const entry::Array& posterior, const entry::Array& slope) {
  return entry::guarded(o, [&] {
    const auto p = entry::bound_problem(o, features, labels, mean, &covariance);
    const entry::Scratch scratch(p.scratch());
    fastuda::cuda::run_bound_backward(
        p, scratch.buffer(), {}, grad.pixels(), posterior.buffer(), slope.pixels(), slope.stride[1], nullptr);
  });
}
