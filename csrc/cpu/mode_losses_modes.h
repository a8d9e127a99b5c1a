// What the passes of mode_losses share: arguments, modes, pixels of a work item.
//
// With c the mean of the modes, x = e - c and u = V - c, the squared distance is |x|^2 - 2 x.u + |u|^2: one product
// with every mode. Where the distance is much smaller than |x|^2 this loses digits: such distances are computed again
// from the differences e - V.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "cpu/pixels.h"
#include "cpu/products.h"
#include "cpu/row_tile.h"
#include "cpu/tile.h"
#include "cpu/widen.h"

namespace fastuda {

// block[j] = channel `column` + j of the pixels at `at`.
template <Isa isa, class Acc>
FASTUDA_INLINE void read_block(
    const void* data, torch::headeronly::ScalarType type, const int64_t* at, int64_t column,
    Vec<Acc> (&block)[kLanes<Acc>]) {
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512) if (type == torch::headeronly::ScalarType::Float) {
    const float* const from = static_cast<const float*>(data) + column;
    // Quads of four rows meet in a register as they are loaded: half of the shuffles.
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      Vec<float> r[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const auto quad = [&](int row) FASTUDA_INLINED {
          return reinterpret_cast<const char(*)[16]>(from + at[row] + 4 * q);
        };
        asm("vbroadcastf32x4 %1, %0" : "=v"(r[i]) : "m"(*quad(i)));
        asm("vbroadcastf32x4 %1, %0 %{%2%}" : "+v"(r[i]) : "m"(*quad(i + 4)), "Yk"(uint16_t(0x00f0)));
        asm("vbroadcastf32x4 %1, %0 %{%2%}" : "+v"(r[i]) : "m"(*quad(i + 8)), "Yk"(uint16_t(0x0f00)));
        asm("vbroadcastf32x4 %1, %0 %{%2%}" : "+v"(r[i]) : "m"(*quad(i + 12)), "Yk"(uint16_t(0xf000)));
      }
      transpose_quads(r);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) block[4 * q + i] = r[i];
    }
    return;
  }
#endif
  load_square<isa, Acc>(data, type, at, column, block);
}

// block[k] = channel `channel` + k of a vector of pixels at `at`, which follow one another where `dense`; zeros from
// `width` on.
template <Isa isa, class Acc>
FASTUDA_INLINE void load_planes(
    const void* data, torch::headeronly::ScalarType type, const int64_t* at, bool dense, int64_t channel,
    int64_t stride, int64_t width, Vec<Acc> (&block)[kLanes<Acc>]) {
  constexpr int step = kLanes<Acc>;
  alignas(64) Acc copy[step * step];
  const Acc* from = copy;
  int64_t pitch = step;
  if (!dense) {
    read_scattered(data, type, at, step, channel * stride, stride, width, copy, step);
  } else if (type != kTypeOf<Acc>) {
    read_rows<Acc, isa>(data, type, {at[0] + channel * stride, nullptr, stride}, width, step, copy, step);
  } else {
    from = static_cast<const Acc*>(data) + at[0] + channel * stride;
    pitch = stride;
  }
  for (int64_t k = 0; k < step; ++k) {
    block[k] = Vec<Acc>{};
    if (k < width) load(from + k * pitch, block[k]);
  }
}

// The reverse, of the first `lanes` pixels, rounded to `type`.
template <Isa isa, class Acc>
FASTUDA_INLINE void store_planes(
    const Vec<Acc> (&block)[kLanes<Acc>], const int64_t* at, int64_t lanes, bool dense, int64_t channel,
    int64_t stride, int64_t width, void* data, torch::headeronly::ScalarType type) {
  constexpr int step = kLanes<Acc>;
  if (dense && type == kTypeOf<Acc>) {
    for (int64_t k = 0; k < width; ++k) store(block[k], static_cast<Acc*>(data) + at[0] + (channel + k) * stride);
    return;
  }
  alignas(64) Acc copy[step * step];
  for (int k = 0; k < step; ++k) store(block[k], copy + k * step);
  if (dense) write_rows<Acc, isa>(copy, step, {at[0] + channel * stride, nullptr, stride}, width, lanes, data, type);
  else write_scattered(copy, step, at, lanes, channel * stride, stride, width, data, type);
}

// to = the products of `n` rows, 1 to kRows.
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void set_dot_of(int64_t n, const Acc* x, int64_t depth, const Acc* rows, Acc* to, Ahead& ahead) {
  if (n == kRows) {
    Vec<Acc> acc[kRows][kVectors];
    dot<kVectors, kRows>(x, depth, rows, false, acc, ahead);
#pragma GCC unroll 16
    for (int b = 0; b < kRows; ++b)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(acc[b][v], to + (b * kVectors + v) * kLanes<Acc>);
    return;
  }
  if constexpr (kRows > 1) set_dot_of<kVectors, kRows - 1>(n, x, depth, rows, to, ahead);
}

// Prefetches lines that will be written, 16 KB of them at most.
FASTUDA_INLINE void expect_writes(const void* first, int64_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(first);
  for (int64_t b = 0; b < std::min<int64_t>(bytes, 1 << 14); b += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(at + b), 1);
}

constexpr int64_t kModePixels = 1024;  // pixels of a work item
constexpr int64_t kModeDepth = 256;  // channels summed in one run: bounds rounding, and a tile's run fits the L1 cache

// Register blocks of each instruction set; panel: vectors of channels.
template <Isa isa>
struct ModeMachine : ProductBlock<isa> {
  static constexpr int panel = by_isa<isa>(8, 4, 2);
};

constexpr int64_t kModeBlock = 64;  // pixels of a block, bits of a word
constexpr int64_t kModeRows = kModeBlock + 1;  // a row of zeros makes pairs of any number of pixels
constexpr int64_t kModeSegments = 64;
constexpr int64_t kStreamedBytes = 1 << 25;

// Long segments keep their partial sums under a sixteenth of the features.
inline int64_t mode_segments(int64_t pixels, int64_t rows) {
  return std::clamp<int64_t>(pixels / std::max<int64_t>(kModePixels, 16 * rows), 1, kModeSegments);
}

// Calls run.operator()<vectors>(first vector) for the panels of a row: as wide as they may be, then powers of two.
template <int kWidth, class Run>
FASTUDA_INLINE void each_panel(int64_t first, int64_t vectors, const Run& run) {
  for (; first + kWidth <= vectors; first += kWidth) run.template operator()<kWidth>(first);
  if constexpr (kWidth > 1) each_panel<kWidth / 2>(first, vectors, run);
}

struct ModeProblem {
  FeatureView features, result;
  LabelView labels;
  const void* data;
  torch::headeronly::ScalarType type;  // of the features and their gradient
  int64_t per_class;
  torch::stable::Tensor modes;  // (K, M, d), contiguous
  double sigma2 = 0, margin = 0;
  bool square = false;
  // (pixels) and (pixels, K): written by the forward pass, read by the backward pass
  void *triplet = nullptr, *cross_entropy = nullptr, *weight = nullptr;
  int64_t *own_mode = nullptr, *rival = nullptr;
  uint8_t* nearest = nullptr;
  // backward
  PixelGrid triplet_grads, cross_entropy_grads;
  const void *grad_triplet = nullptr, *grad_cross_entropy = nullptr;
  void *slope = nullptr, *partials = nullptr, *modes_slope = nullptr;

  int64_t classes() const { return labels.num_classes; }
  int64_t channels() const { return features.channels; }
  int64_t rows() const { return classes() * per_class; }
};

using ModeChunk = PixelChunk<kModePixels>;

// The lines of the features that `pixels` pixels from `next` of a chunk's order on will read.
inline Ahead following(const ModeProblem& p, const ModeChunk& chunk, int64_t next, int64_t pixels) {
  return chunk.following(p.features, p.data, p.type, next, pixels);
}

inline ModeProblem make_modes(
    const torch::stable::Tensor& features, const torch::stable::Tensor& labels, const torch::stable::Tensor& modes,
    int64_t ignore_index) {
  check_numbers(features, "features");
  is_double(modes, "modes");
  STD_TORCH_CHECK(features.dim() == 4 && labels.dim() == 3, "features must be (N, d, H, W) and labels (N, H, W)");
  STD_TORCH_CHECK(
      modes.dim() == 3 && modes.size(2) == features.size(1) && modes.size(0) >= 1 && modes.size(1) >= 1 &&
          modes.size(1) <= 256,
      "modes must be (K, M, d) with K >= 1 and 1 <= M <= 256");
  ModeProblem p{
      feature_view(features), {}, label_view(labels, modes.size(0), ignore_index), features.const_data_ptr(),
      features.scalar_type()};
  STD_TORCH_CHECK(p.labels.grid.pixels() == p.features.grid.pixels(), "labels must match the pixels of features");
  p.per_class = modes.size(1);
  p.modes = torch::stable::contiguous(modes);
  return p;
}

// The modes in the type of the sums, rows padded to whole vectors with zeros.
template <class Acc>
struct ModeRows {
  int64_t count, channels, padded;
  Buffer<Acc> values;

  explicit ModeRows(const ModeProblem& p) : count(p.rows()), channels(p.channels()) {
    constexpr int64_t step = kLanes<Acc>;
    padded = (channels + step - 1) / step * step;
    values.resize(count * padded);
    if (p.modes.scalar_type() == torch::headeronly::ScalarType::Double) fill<double>(p);
    else fill<float>(p);
  }
  FASTUDA_INLINE const Acc* row(int64_t r) const { return values.data() + r * padded; }

 private:
  template <class S>
  void fill(const ModeProblem& p) {
    const S* from = static_cast<const S*>(p.modes.const_data_ptr());
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < channels; ++c) values.data()[r * padded + c] = static_cast<Acc>(from[r * channels + c]);
  }
};

}  // namespace fastuda
