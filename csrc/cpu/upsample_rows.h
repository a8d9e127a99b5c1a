// Bilinear upsampling of low-resolution scores: the taps in exact integers, and rows at hand as [class][column].
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cpu/widen.h"
#include "tensors.h"
#include "upsample_position.h"

namespace fastuda {

// Lower source position and the upper one's weight of each of `size` positions, as fastuda/reference/_upsample.py
// defines them; where the upper one would lie outside, the weight is 0. `lower` and `weight` go on beyond the end with
// the last position, a whole tile long.
template <class Acc>
struct Taps {
  static constexpr int64_t kBeyond = 64;
  int64_t size, source;
  std::vector<int32_t> lower;
  std::vector<Acc> weight;
  // Positions from first[i] to first[i + 1] lie between source positions i and i + 1.
  std::vector<int32_t> first;

  Taps(int64_t size, int64_t source, bool align_corners)
      : size(size), source(source), lower(size + kBeyond), weight(size + kBeyond), first(source + 1) {
    for (int64_t i = 0; i < size + kBeyond; ++i) {
      const int64_t position = std::min(i, std::max<int64_t>(size - 1, 0));
      const auto p = upsample_position<int64_t>(position, std::max<int64_t>(size, 1), source, align_corners);
      const double share = static_cast<double>(p.numerator) / static_cast<double>(p.denominator);
      lower[i] = static_cast<int32_t>(p.lower);
      weight[i] = p.lower + 1 < source ? static_cast<Acc>(share) : Acc(0);
      if (i < size) ++first[p.lower + 1];
    }
    for (int64_t i = 0; i < source; ++i) first[i + 1] += first[i];
  }

  // Whether the lower positions of a vector of positions lie within a vector of source positions.
  bool dense() const { return size >= source; }
};

// (N, K, h, w) of any strides.
struct ScoreView {
  const void* data;
  torch::headeronly::ScalarType type;
  int64_t images, classes, height, width;
  int64_t image_stride, class_stride, row_stride, column_stride;
};

inline ScoreView score_view(const torch::stable::Tensor& t) {
  check_scores(t, "scores");
  return {t.const_data_ptr(), t.scalar_type(), t.size(0), t.size(1), t.size(2), t.size(3), t.stride(0), t.stride(1),
          t.stride(2), t.stride(3)};
}

// Columns of a row buffer [class][pitch]: a vector can be read from every column, and from the one after it.
template <class Acc>
FASTUDA_INLINE int64_t row_pitch(int64_t width) {
  return (width + 1 + 2 * kLanes<Acc> - 1) / kLanes<Acc> * kLanes<Acc>;
}

// Row `row` of an image as to[class][pitch], in the type of the sums; beyond the last column that one is repeated.
template <class Acc, Isa isa>
FASTUDA_INLINE void read_scores(const ScoreView& s, int64_t image, int64_t row, Acc* to, int64_t pitch) {
  constexpr int lanes = kLanes<Acc>;
  const int64_t first = image * s.image_stride + row * s.row_stride;
  if (s.class_stride == 1 && s.column_stride != 1 && s.classes >= lanes && s.width >= lanes) {
    int64_t offsets[lanes];
    for (int64_t x = 0; x < s.width; x += lanes) {
      x = std::min(x, s.width - lanes);  // the last block overlaps the one before
      for (int j = 0; j < lanes; ++j) offsets[j] = first + (x + j) * s.column_stride;
      for (int64_t k = 0; k < s.classes; k += lanes) {
        k = std::min(k, s.classes - lanes);
        Vec<Acc> block[lanes];
        load_square<isa, Acc>(s.data, s.type, offsets, k, block);
#pragma GCC unroll 16
        for (int j = 0; j < lanes; ++j) store(block[j], to + (k + j) * pitch + x);
      }
    }
  } else {
    const Rows planes{first, nullptr, s.class_stride, s.column_stride};
    read_rows<Acc, isa>(s.data, s.type, planes, s.classes, s.width, to, pitch);
  }
  for (int64_t k = 0; k < s.classes; ++k)
    for (int64_t x = s.width; x < pitch; ++x) to[k * pitch + x] = to[k * pitch + s.width - 1];
}

// A vector of upsampled positions along a row: where they read, and the upper one's weight; one for all classes.
template <class Acc, Isa isa>
struct Along {
  typename VecOf<Acc>::mask index;
  Vec<Acc> weight;
  int64_t base;
  bool dense;

  FASTUDA_INLINE void set(const Taps<Acc>& taps, int64_t position) {
    base = taps.lower[position];
    dense = taps.dense();
    typename VecOf<Acc>::mask from{};
    for (int i = 0; i < kLanes<Acc>; ++i) from[i] = taps.lower[position + i] - taps.lower[position];
    index = from;
    load(taps.weight.data() + position, weight);
  }

  FASTUDA_INLINE void operator()(const Acc* row, Vec<Acc>& out) const {
    Vec<Acc> lower, upper;
    const Acc* from = row + base;
    if (isa == Isa::avx512 && dense) {
      load(from, lower);
      load(from + 1, upper);
      lower = __builtin_shuffle(lower, index);
      upper = __builtin_shuffle(upper, index);
    } else {
      for (int i = 0; i < kLanes<Acc>; ++i) {
        lower[i] = from[index[i]];
        upper[i] = from[index[i] + 1];
      }
    }
    out = lower + weight * (upper - lower);
  }
};

}  // namespace fastuda
