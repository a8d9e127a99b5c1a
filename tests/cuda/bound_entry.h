// Test only: what the entries of the contrastive bound share; included after the .cu file.
#pragma once

#include "entry.h"

namespace entry {

// covariance: (K, A), null or not of this shape (then not used).
inline fastuda::cuda::BoundProblem bound_problem(
    const Options& o, const Array& features, const Array& labels, const Array& mean, const Array* covariance) {
  const auto statistic = [&](const Array& a) {
    return fastuda::cuda::StatisticBuffer{a.buffer(), o.wide_statistics != 0, a.stride[0], a.stride[1]};
  };
  const bool has_covariance = covariance && covariance->data;
  return {
      static_cast<fastuda::cuda::Type>(o.type), features.pixels(), labels.pixels(), features.stride[1], o.ignore_index,
      static_cast<int>(o.label_bytes), static_cast<int>(o.channels), static_cast<int>(o.classes),
      static_cast<u32>(o.pixels), statistic(mean), statistic(has_covariance ? *covariance : mean), has_covariance,
      o.normalize != 0, o.temperature};
}

}  // namespace entry
