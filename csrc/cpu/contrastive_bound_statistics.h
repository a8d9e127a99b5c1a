// What the contrastive bound's passes share: its arguments, the statistics as they are multiplied, pixels of a chunk.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "cpu/pixels.h"
#include "cpu/products.h"
#include "cpu/tile.h"

namespace fastuda {

constexpr int64_t kDepth = 256;  // channels summed in one run: bounds rounding, and a tile's run fits the L1 cache
constexpr int64_t kChunkPixels = 512;  // pixels of one work item
constexpr int64_t kGroupBytes = 1 << 18;  // a group of tiles that stays in the L2 cache for a full covariance

enum class Covariance { none, diagonal, full };

struct Bound {
  FeatureView features, result;
  LabelView labels;
  PixelGrid grads;
  const void* data;
  torch::headeronly::ScalarType type;  // of the features and their gradient
  const void* grad = nullptr;
  void* slope = nullptr;
  void* loss = nullptr;
  void* posterior = nullptr;
  torch::stable::Tensor mean, covariance;  // contiguous
  Covariance kind;
  bool normalize;
  double temperature;
  std::vector<double> mean_scale, covariance_scale;  // (K)

  int64_t classes() const { return labels.num_classes; }
  int64_t channels() const { return features.channels; }
};

// Calls run(pointer) with the statistic's own type.
template <class Run>
void with_numbers(const torch::stable::Tensor& t, const Run& run) {
  const void* data = t.const_data_ptr();
  if (t.scalar_type() == torch::headeronly::ScalarType::Double) run(static_cast<const double*>(data));
  else run(static_cast<const float*>(data));
}

// 1 / length of each row, 0 for a row of length 0.
inline std::vector<double> inverse_lengths(const torch::stable::Tensor& t, int64_t rows, int64_t columns) {
  constexpr int parts = 16;  // independent sums: one alone would wait for each addition
  std::vector<double> out(rows);
  with_numbers(t, [&](const auto* from) {
    for (int64_t k = 0; k < rows; ++k, from += columns) {
      double part[parts] = {}, sum = 0;
      int64_t c = 0;
      for (; c + parts <= columns; c += parts)
        for (int i = 0; i < parts; ++i) part[i] += double(from[c + i]) * double(from[c + i]);
      for (; c < columns; ++c) sum += double(from[c]) * double(from[c]);
      for (double x : part) sum += x;
      out[k] = sum > 0 ? 1 / std::sqrt(sum) : sum;
    }
  });
  return out;
}

inline Bound make_bound(
    const torch::stable::Tensor& features, const torch::stable::Tensor& labels, const torch::stable::Tensor& mean,
    const std::optional<torch::stable::Tensor>& covariance, double temperature, bool normalize, int64_t ignore_index) {
  using torch::headeronly::ScalarType;
  const ScalarType type = features.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      "features must be float32, float16, bfloat16 or float64");
  STD_TORCH_CHECK(features.dim() == 4 && labels.dim() == 3, "features must be (N, A, H, W) and labels (N, H, W)");
  STD_TORCH_CHECK(mean.dim() == 2 && mean.size(1) == features.size(1), "mean must be (K, A)");
  const int64_t classes = mean.size(0), channels = mean.size(1);
  Bound b{feature_view(features), {}, label_view(labels, classes, ignore_index), {}, features.const_data_ptr(), type};
  STD_TORCH_CHECK(b.labels.grid.pixels() == b.features.grid.pixels(), "labels must match the pixels of features");
  b.kind = !covariance ? Covariance::none : covariance->dim() == 2 ? Covariance::diagonal : Covariance::full;
  b.mean = torch::stable::contiguous(mean);
  b.covariance = covariance ? torch::stable::contiguous(*covariance) : b.mean;
  for (const auto& t : {b.mean, b.covariance})
    STD_TORCH_CHECK(
        (t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double) && t.size(0) == classes &&
            t.size(1) == channels && (t.dim() == 2 || t.size(2) == channels),
        "mean and covariance must be float32 or float64 and agree in shape");
  b.normalize = normalize;
  b.temperature = temperature;
  b.mean_scale.assign(classes, 1);
  b.covariance_scale.assign(classes, 1);
  if (normalize) {
    b.mean_scale = inverse_lengths(b.mean, classes, channels);
    const int64_t size = b.kind == Covariance::full ? channels * channels : channels;
    b.covariance_scale = inverse_lengths(b.covariance, classes, size);
  }
  return b;
}

// The pixels of a work item in the order in which tiles take them.
struct Chunk {
  int32_t label[kChunkPixels];
  int64_t offset[kChunkPixels];
  int32_t order[kChunkPixels];
  int64_t begin, size, count;

  void read(const Bound& b, int64_t index) {
    begin = index * kChunkPixels;
    size = std::min(kChunkPixels, b.features.grid.pixels() - begin);
    b.labels.read(begin, begin + size, label);
    place(b.features.grid, offset);
    // Rows of channels can be taken from anywhere; planes are read along the pixels, without gaps.
    const bool rows = b.features.channel_stride == 1;
    int64_t valid = 0;
    for (int64_t i = 0; i < size; ++i) valid += label[i] < b.classes();
    count = 0;
    for (int64_t i = 0; i < size; ++i)
      if (rows ? label[i] < b.classes() : valid > 0) order[count++] = static_cast<int32_t>(i);
  }

  void place(const PixelGrid& grid, int64_t* to) const {
    grid.runs(begin, begin + size, [&](int64_t pixel, int64_t at, int64_t length) {
      for (int64_t i = 0; i < length; ++i) to[pixel - begin + i] = at + i * grid.column_stride;
    });
  }
};

}  // namespace fastuda
