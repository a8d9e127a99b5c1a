// The arguments of the class moments as the host code of their kernels takes them.
#pragma once

#include "cuda/kernel.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#if !defined(FASTUDA_EMULATION)
#include <vector>

#include "cuda/tensor.h"
#endif

namespace fastuda::cuda {

struct MomentsProblem {
  Type type;
  PixelBuffer features, labels;
  i64 channel_stride, ignore_index;
  int label_bytes, channels, classes;
  u32 pixels;
};

#if !defined(FASTUDA_EMULATION)
inline MomentsProblem moments_problem(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  return {
      feature_type(features), pixel_buffer(features, true), pixel_buffer(labels, false), features.stride(1),
      ignore_index, label_bytes(labels), small(features.size(1)), small(num_classes), pixel_count(features, labels)};
}

// count (K), mean (K, A) and m2: (K, A), or (K, A, A) of the full form.
inline std::tuple<Tensor, Tensor, Tensor> new_moments(const MomentsProblem& p, const Tensor& features, bool full) {
  const ScalarType type = statistic_type(p.type);
  std::vector<int64_t> size{p.classes, p.channels};
  Tensor mean = torch::stable::new_empty(features, size, type);
  if (full) size.push_back(p.channels);
  return {
      torch::stable::new_empty(features, {p.classes}, ScalarType::Long), mean,
      torch::stable::new_empty(features, size, type)};
}
#endif

}  // namespace fastuda::cuda
#endif
