// The statistics as the contrastive bound's products read them, packed once a call.
//
// A full covariance is packed from its lower triangle, whole entries below the diagonal and half of those on it: then
// q^T Sigma q / 2 is the sum of q_a t_ab q_b over the triangle, and Sigma q is what each t_ab adds to row a (times q_b)
// and to row b (times q_a). Both directions multiply the triangle once instead of the square.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "cpu/contrastive_bound_statistics.h"
#include "cpu/products.h"

namespace fastuda {

// Items (classes, or vectors of channels) in blocks of nearly equal size, at most `most` in one.
struct Blocks {
  int64_t items, blocks;

  Blocks(int64_t all, int64_t most) : items(all), blocks((all + most - 1) / most) {}
  int64_t first(int64_t block) const { return block * items / blocks; }
  int64_t size(int64_t block) const { return first(block + 1) - first(block); }
};

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
  for (int64_t i = 0; i < blocks.blocks; ++i)
    for (int64_t k = blocks.first(i); k < blocks.first(i + 1); ++k) {
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
  for (int64_t i = 0; i < blocks.blocks; ++i)
    std::fill(block.begin() + blocks.first(i), block.begin() + blocks.first(i + 1), i);
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
