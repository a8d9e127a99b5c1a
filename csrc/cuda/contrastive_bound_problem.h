// The arguments of the contrastive bound as the host code of its kernels takes them. contrastive_bound.cu computes
// everything but the quadratic term of a full covariance, which contrastive_bound_full.cu computes and passes on to it.
#pragma once

#include "cuda/contrastive_bound_forward_kernel.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif

namespace fastuda::cuda {

struct StatisticBuffer {
  Buffer buffer;
  bool wide;  // double
  i64 class_stride, channel_stride;

  Statistic view() const {
    return {global<const float>(buffer), global<const double>(buffer), wide, class_stride, channel_stride};
  }
};

struct BoundProblem {
  Type type;
  PixelBuffer features, labels;
  i64 channel_stride, ignore_index;
  int label_bytes, channels, classes;
  u32 pixels;
  StatisticBuffer mean, covariance;
  bool has_covariance, normalize;
  double temperature;

  i64 size_of_sum() const { return type == Type::float64 ? 8 : 4; }
  int padded() const {
    const int tile = type == Type::float64 ? kClassTile<double> : kClassTile<float>;
    return ceil_div(classes, tile) * tile;
  }
  // Bytes of scratch for M and S.
  i64 scratch() const { return i64(2) * channels * padded() * size_of_sum(); }
};

// sum_k p_k S_k q of pixels [begin, end), with S = Sigma / (2 tau^2): element (channel, pixel - begin), pitch elements
// a channel, room for whole quads of pixels and channels. Without data: of all pixels, 0.
struct GivenSlope {
  Buffer values;
  i64 pitch;
  u32 begin, end;
};

// given: posterior holds q^T S_k q of each pixel and class, to be added to the logits.
void run_bound_forward(
    const BoundProblem& p, Buffer scratch, bool given, Buffer loss, Buffer posterior, Stream stream);

void run_bound_backward(
    const BoundProblem& p, Buffer scratch, const GivenSlope& given, const PixelBuffer& grad, Buffer posterior,
    const PixelBuffer& slope, i64 slope_channel_stride, Stream stream);

#if !defined(FASTUDA_EMULATION)

// covariance: None or (K, A).
inline BoundProblem bound_problem(
    const Tensor& features, const Tensor& labels, const Tensor& mean, const std::optional<Tensor>& covariance,
    double temperature, bool normalize, int64_t ignore_index) {
  STD_TORCH_CHECK(
      !covariance || covariance->dim() == 2, "covariance must be None or (K, A): matrices have operators of their own");
  const auto statistic = [](const Tensor& t) {
    return StatisticBuffer{buffer(t), is_double(t, "a statistic"), t.stride(0), t.stride(1)};
  };
  return {
      feature_type(features), pixel_buffer(features, true), pixel_buffer(labels, false), features.stride(1),
      ignore_index, label_bytes(labels), small(features.size(1)), small(mean.size(0)), pixel_count(features, labels),
      statistic(mean), statistic(covariance ? *covariance : mean), covariance.has_value(), normalize, temperature};
}

inline std::tuple<Tensor, Tensor> new_loss(const BoundProblem& p, const Tensor& features, const Tensor& labels) {
  const int64_t n = labels.size(0), h = labels.size(1), w = labels.size(2);
  return {
      torch::stable::new_empty(features, {n, h, w}, statistic_type(p.type)),
      torch::stable::new_empty(features, {n, h, w, p.classes}, statistic_type(p.type))};
}

inline void check_gradient(const BoundProblem& p, const Tensor& grad, const Tensor& posterior) {
  const ScalarType type = statistic_type(p.type);
  STD_TORCH_CHECK(
      grad.scalar_type() == type && posterior.scalar_type() == type, "grad must have the dtype of the loss");
  STD_TORCH_CHECK(posterior.is_contiguous(), "posterior must be contiguous, as forward returns it");
}

#endif
}  // namespace fastuda::cuda
#endif
