#include "cuda/contrastive_bound.cu"

#include "entry.h"

namespace {

fastuda::cuda::BoundProblem problem(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance) {
  const auto statistic = [&](const entry::Array& a) {
    return fastuda::cuda::StatisticBuffer{a.buffer(), o.wide_statistics != 0, a.stride[0], a.stride[1]};
  };
  return {
      static_cast<fastuda::cuda::Type>(o.type), features.pixels(), labels.pixels(), features.stride[1], o.ignore_index,
      static_cast<int>(o.label_bytes), static_cast<int>(o.channels), static_cast<int>(o.classes),
      static_cast<fastuda::cuda::u32>(o.pixels), statistic(mean), statistic(covariance), covariance.data != nullptr,
      o.normalize != 0, o.temperature};
}

}  // namespace

extern "C" const char* contrastive_bound_forward(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance, const entry::Array& loss, const entry::Array& posterior) {
  return entry::guarded(o, [&] {
    const auto p = problem(o, features, labels, mean, covariance);
    const entry::Scratch scratch(p.scratch());
    fastuda::cuda::run_bound_forward(p, scratch.buffer(), loss.buffer(), posterior.buffer(), nullptr);
  });
}

extern "C" const char* contrastive_bound_backward(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& mean,
    const entry::Array& covariance, const entry::Array& grad, const entry::Array& posterior, const entry::Array& slope) {
  return entry::guarded(o, [&] {
    const auto p = problem(o, features, labels, mean, covariance);
    const entry::Scratch scratch(p.scratch());
    fastuda::cuda::run_bound_backward(
        p, scratch.buffer(), grad.pixels(), posterior.buffer(), slope.pixels(), slope.stride[1], nullptr);
  });
}
