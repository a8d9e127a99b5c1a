// What the contrastive bound's passes share: its arguments, the statistics as they are multiplied, pixels of a chunk.
#pragma once

#include <algorithm>
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
  constexpr int parts = 16;  // independent sums: in a single one each addition would wait for the one before
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
  check_numbers(features, "features");
  STD_TORCH_CHECK(features.dim() == 4 && labels.dim() == 3, "features must be (N, A, H, W) and labels (N, H, W)");
  STD_TORCH_CHECK(mean.dim() == 2 && mean.size(1) == features.size(1), "mean must be (K, A)");
  const int64_t classes = mean.size(0), channels = mean.size(1);
  Bound b{feature_view(features), {}, label_view(labels, classes, ignore_index), {}, features.const_data_ptr(),
          features.scalar_type()};
  STD_TORCH_CHECK(b.labels.grid.pixels() == b.features.grid.pixels(), "labels must match the pixels of features");
  b.kind = !covariance ? Covariance::none : covariance->dim() == 2 ? Covariance::diagonal : Covariance::full;
  b.mean = torch::stable::contiguous(mean);
  b.covariance = covariance ? torch::stable::contiguous(*covariance) : b.mean;
  for (const auto& t : {b.mean, b.covariance}) {
    is_double(t, "a statistic");
    STD_TORCH_CHECK(
        t.size(0) == classes && t.size(1) == channels && (t.dim() == 2 || t.size(2) == channels),
        "mean and covariance must agree in shape");
  }
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

using Chunk = PixelChunk<kChunkPixels>;

inline void read_chunk(const Bound& b, int64_t index, Chunk& chunk) {
  const int64_t first = index * kChunkPixels;
  chunk.read(b.features, b.labels, first, std::min(first + kChunkPixels, b.features.grid.pixels()));
}

// The lines of the features that `pixels` pixels from `next` of a chunk's order on will read.
inline Ahead following(const Bound& b, const Chunk& chunk, int64_t next, int64_t pixels) {
  return chunk.following(b.features, b.data, b.type, next, pixels);
}

// The statistics as the contrastive bound's products read them, packed once a call.
//
// A full covariance is packed from its lower triangle, whole entries below the diagonal and half of those on it: then
// q^T Sigma q / 2 is the sum of q_a t_ab q_b over the triangle, and Sigma q is what each t_ab adds to row a (times q_b)
// and to row b (times q_a). Both directions multiply the triangle once instead of the square.

// What Sigma_k is multiplied by in the gradient; half of that in the score.
inline double second_factor(const Bound& b, int64_t k) {
  return b.covariance_scale[k] / (b.temperature * b.temperature);
}

// Calls put(class, channel, mean / tau, diagonal / tau^2).
template <class Put>
void each_number(const Bound& b, const Put& put) {
  const int64_t channels = b.channels();
  with_numbers(b.mean, [&](const auto* mean) {
    with_numbers(b.covariance, [&](const auto* diagonal) {
      for (int64_t k = 0; k < b.classes(); ++k) {
        const double first = b.mean_scale[k] / b.temperature, second = second_factor(b, k);
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at = k * channels + c;
          put(k, c, mean[at] * first, b.kind == Covariance::diagonal ? diagonal[at] * second : 0);
        }
      }
    });
  });
}

// [block of classes][channel][class]: all of the mean, then half of the diagonal.
template <class Acc>
void pack_scores(const Bound& b, int64_t most, Buffer<Acc>& out) {
  const Blocks blocks(b.classes(), most);
  const int64_t channels = b.channels(), half = b.classes() * channels;
  out.resize(2 * half);
  std::vector<int64_t> at(b.classes()), pitch(b.classes());
  for (int64_t i = 0; i < blocks.count; ++i)
    for (int64_t k = blocks.first(i); k < blocks.first(i) + blocks.size(i); ++k) {
      pitch[k] = blocks.size(i);
      at[k] = blocks.first(i) * channels + k - blocks.first(i);
    }
  each_number(b, [&](int64_t k, int64_t c, double first, double second) {
    Acc* to = out.data() + at[k] + c * pitch[k];
    to[0] = static_cast<Acc>(first);
    to[half] = static_cast<Acc>(second / 2);
  });
}

// [block of channels][class][mean of the block, diagonal of the block], zero beyond the channels.
template <class Acc>
void pack_slopes(const Bound& b, int64_t width, Buffer<Acc>& out) {
  const bool both = b.kind == Covariance::diagonal;
  const int64_t blocks = (b.channels() + width - 1) / width, pitch = width * (both ? 2 : 1);
  out.resize(blocks * b.classes() * pitch);
  each_number(b, [&](int64_t k, int64_t c, double first, double second) {
    Acc* to = out.data() + (c / width * b.classes() + k) * pitch + c % width;
    to[0] = static_cast<Acc>(first);
    if (both) to[width] = static_cast<Acc>(second);
  });
}

// [block of channel vectors][class][mean of the block, diagonal of the block], zero beyond the channels.
template <class Acc>
void pack_row_slopes(const Bound& b, const Blocks& blocks, Buffer<Acc>& out) {
  constexpr int64_t step = kLanes<Acc>;
  const int64_t forms = b.kind == Covariance::diagonal ? 2 : 1;
  out.resize(blocks.items * step * b.classes() * forms);
  std::vector<int64_t> block(blocks.items);
  for (int64_t i = 0; i < blocks.count; ++i)
    std::fill(block.begin() + blocks.first(i), block.begin() + blocks.first(i) + blocks.size(i), i);
  each_number(b, [&](int64_t k, int64_t c, double first, double second) {
    const int64_t i = block[c / step], from = blocks.first(i) * step, width = blocks.size(i) * step;
    Acc* to = out.data() + (from * b.classes() + k * width) * forms + c - from;
    to[0] = static_cast<Acc>(first);
    if (forms == 2) to[width] = static_cast<Acc>(second);
  });
}

// The triangle in blocks of rows, and a block's columns, in whole blocks of columns, up to its last row.
struct Triangle {
  int64_t channels, classes, rows, columns;

  int64_t blocks() const { return (channels + rows - 1) / rows; }
  int64_t width(int64_t block) const {
    return (std::min(channels, (block + 1) * rows) + columns - 1) / columns * columns;
  }
  // Where a block of rows begins in the packed numbers.
  int64_t begin(int64_t block) const {
    int64_t at = 0;
    for (int64_t i = 0; i < block; ++i) at += rows * width(i) * classes;
    return at;
  }
};

// to[column][row] = t_ab of one class, rows a from `first` on and columns b from `column` on.
template <class Acc, class S>
void pack_block(const S* sigma, const Triangle& t, int64_t first, int64_t column, double factor, Acc* to) {
  for (int64_t i = 0; i < t.rows; ++i)
    for (int64_t j = 0; j < t.columns; ++j) {
      const int64_t a = first + i, c = column + j;
      const double share = c == a ? factor / 2 : factor;
      const bool inside = a < t.channels && c <= a;
      to[j * t.rows + i] = inside ? static_cast<Acc>(sigma[a * t.channels + c] * share) : Acc(0);
    }
}

// Forward: [block of rows][class][block of columns]. Backward: [block of rows][block of columns][class].
template <class Acc>
void pack_triangle(const Bound& b, const Triangle& t, bool by_class, Buffer<Acc>& out) {
  const int64_t size = t.rows * t.columns;
  out.resize(t.begin(t.blocks()));
  torch::stable::parallel_for(0, t.blocks(), 1, [&](int64_t begin, int64_t end) {
    with_numbers(b.covariance, [&](const auto* sigma) {
      for (int64_t r = begin; r < end; ++r) {
        const int64_t width = t.width(r) / t.columns;
        Acc* to = out.data() + t.begin(r);
        for (int64_t k = 0; k < t.classes; ++k)
          for (int64_t c = 0; c < width; ++c)
            pack_block(
                sigma + k * t.channels * t.channels, t, r * t.rows, c * t.columns, second_factor(b, k),
                to + size * (by_class ? k * width + c : c * t.classes + k));
      }
    });
  });
}

}  // namespace fastuda
