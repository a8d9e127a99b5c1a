// Full class moments on the CPU: pixels sorted by class, X^T X of centred panels.
//
// A counting sort lists the pixels of each class in order. Class by class, panels of kPanelRows of them are gathered,
// less a pivot (mean of the class's first few pixels), and their lower triangle is added to one square by strips of
// columns. A strip belongs to one work item and sees the panels in order: the number of threads changes nothing.
// Memory beyond inputs and outputs: the square (A x A), a panel, and 8 bytes a pixel.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "cpu/pixels.h"
#include "cpu/products.h"
#include "cpu/simd.h"

namespace fastuda {

// Sums of outer products of packed rows: the symmetric product X^T X of a panel, lower triangle, blocked in registers.
//
// A panel holds rows of one class with the channels in groups of one vector: [group][row][lane]. A block is kRows
// channels by kGroups vectors of channels; its sums stay in registers over all rows of the panel.

// Rows added in one run. A float32 sum of many squares of 16-bit features loses digits: they repeat their values, and
// with them the rounding errors; a short sum of them is nearly exact.
constexpr int64_t kOuterRun = 128;

// to[i][j] += sum over rows of a[row][i] * b[group of j][row][lane of j], i < kRows, j < kGroups vectors.
template <int kRows, int kGroups, class Acc>
FASTUDA_INLINE void add_outer(
    const Acc* a, const Acc* b, int64_t rows, int64_t group_pitch, Acc* to, int64_t pitch) {
  constexpr int step = kLanes<Acc>;
  for (int64_t begin = 0; begin < rows; begin += kOuterRun) {
    const int64_t end = std::min(begin + kOuterRun, rows);
    Vec<Acc> sum[kRows][kGroups], x[kGroups];
    for (int i = 0; i < kRows; ++i)
      for (int g = 0; g < kGroups; ++g) sum[i][g] = Vec<Acc>{};
    for (int64_t row = begin; row < end; ++row) {
      for (int g = 0; g < kGroups; ++g) load(b + g * group_pitch + row * step, x[g]);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) sum[i][g] += x[g] * a[row * step + i];
    }
    for (int i = 0; i < kRows; ++i)
      for (int g = 0; g < kGroups; ++g) {
        load(to + i * pitch + g * step, x[g]);
        store(x[g] += sum[i][g], to + i * pitch + g * step);
      }
  }
}

// `width` (at most kMost) groups of columns from `first` on, against all groups of rows from there on. `to` is the
// padded square; what a block holds above the diagonal is never read.
template <int kRows, int kMost, class Acc>
FASTUDA_INLINE void add_columns(
    const Acc* panel, int64_t rows, int64_t group_pitch, int64_t first, int64_t width, int64_t groups, Acc* to,
    int64_t pitch) {
  constexpr int step = kLanes<Acc>;
  if (width < kMost) {
    if constexpr (kMost > 1) add_columns<kRows, kMost - 1>(panel, rows, group_pitch, first, width, groups, to, pitch);
    return;
  }
  for (int64_t g = first; g < groups; ++g)
    for (int i = 0; i < step; i += kRows)
      add_outer<kRows, kMost>(
          panel + g * group_pitch + i, panel + first * group_pitch, rows, group_pitch,
          to + (g * step + i) * pitch + first * step, pitch);
}

constexpr int64_t kPanelRows = 512;
constexpr int64_t kFullPivotRows = 16;
constexpr int64_t kPackRows = 64;  // rows that one work item gathers
constexpr int kStripGroups = 3;

template <class Acc>
struct Panel {
  const void* data;
  torch::headeronly::ScalarType type;
  const int64_t* offsets;  // of the panel's pixels; their channels are contiguous
  int64_t rows, channels, groups;
  const Acc* pivot;  // (groups x lanes)
  Acc* packed;       // (groups, kPanelRows, lanes)
  Acc* square;       // (groups x lanes)^2
  double* sums;      // (groups x lanes)

  int64_t width() const { return groups * kLanes<Acc>; }
};

template <class Acc>
FASTUDA_INLINE void pack_rows(const Panel<Acc>& p, int64_t begin, int64_t end) {
  constexpr int step = kLanes<Acc>;
  const int64_t whole = p.channels / step;
  with_type<Acc>(p.type, [&]<class T>() FASTUDA_INLINED {
    const T* data = static_cast<const T*>(p.data);
    for (int64_t row = begin; row < end; ++row) {
      const T* from = data + p.offsets[row];
      if (row + 2 < p.rows)  // the hardware does not prefetch the rows of a class, which are scattered
        for (int64_t c = 0; c < p.channels; c += 64 / int64_t(sizeof(T)))
          __builtin_prefetch(data + p.offsets[row + 2] + c, 0, 2);
      for (int64_t g = 0; g < p.groups; ++g) {
        Vec<Acc> x, pivot;
        if (g < whole) load(from + g * step, x);
        else load_partial<T, Acc>(from + g * step, static_cast<int>(p.channels - g * step), x);
        load(p.pivot + g * step, pivot);
        store(x -= pivot, p.packed + (g * kPanelRows + row) * step);
      }
    }
  });
}

template <int kRows, int kGroups, class Acc>
FASTUDA_INLINE void add_strip(const Panel<Acc>& p, int64_t strip) {
  constexpr int step = kLanes<Acc>;
  const int64_t first = strip * kStripGroups, last = std::min<int64_t>(first + kStripGroups, p.groups);
  for (int64_t g = first; g < last; ++g) {
    Vec<Acc> sum{}, x;
    for (int64_t row = 0; row < p.rows; ++row) {
      load(p.packed + (g * kPanelRows + row) * step, x);
      sum += x;
    }
    for (int lane = 0; lane < step; ++lane) p.sums[g * step + lane] += sum[lane];
  }
  for (int64_t g = first; g < last; g += kGroups)
    add_columns<kRows, kGroups>(
        p.packed, p.rows, kPanelRows * step, g, std::min(last, g + kGroups) - g, p.groups, p.square, p.width());
}

// Blocks of 8 x 3 sums fill 24 of 32 registers of 64 bytes; 4 x 1 and 2 x 1 are 8 of 16 shorter ones.
template <Isa isa, class Acc>
FASTUDA_INLINE void add_strip_on(const Panel<Acc>& p, int64_t strip) {
  if constexpr (isa == Isa::avx512) add_strip<8, 3>(p, strip);
  else if constexpr (isa == Isa::avx2) add_strip<4, 1>(p, strip);
  else add_strip<2, 1>(p, strip);
}

// Offsets of the pixels of class k, in order, at [starts[k], starts[k + 1]).
inline std::vector<int64_t> sort_by_class(
    const FeatureView& view, const LabelView& labels, std::vector<int64_t>& starts) {
  constexpr int64_t chunk = 4096;
  const int64_t pixels = view.grid.pixels(), classes = labels.num_classes;
  std::vector<int32_t> label(pixels);
  std::vector<int64_t> next(classes + 2, 0), offsets(chunk);
  for (int64_t i = 0; i < pixels; i += chunk) labels.read(i, std::min(i + chunk, pixels), label.data() + i);
  for (int64_t i = 0; i < pixels; ++i) ++next[label[i] + 1];
  for (int64_t k = 1; k <= classes + 1; ++k) next[k] += next[k - 1];
  starts.assign(next.begin(), next.begin() + classes + 1);
  std::vector<int64_t> sorted(starts[classes]);
  view.grid.runs(0, pixels, [&](int64_t pixel, int64_t at, int64_t length) {
    for (int64_t i = 0; i < length; ++i)
      if (const int32_t k = label[pixel + i]; k < classes) sorted[next[k]++] = at + i * view.grid.column_stride;
  });
  return sorted;
}

// Mean and m2 of one class from its sums around the pivot, in double; the triangle is mirrored.
template <class Acc>
void finish_class(const Panel<Acc>& p, int64_t count, Acc* mean, Acc* m2) {
  const double each = count ? 1.0 / static_cast<double>(count) : 0.0;
  for (int64_t i = 0; i < p.channels; ++i) mean[i] = static_cast<Acc>(count ? p.pivot[i] + p.sums[i] * each : 0.0);
  torch::stable::parallel_for(0, p.channels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < p.channels; ++j) {
        const int64_t row = std::max(i, j), column = std::min(i, j);
        const double value = p.square[row * p.width() + column] - p.sums[row] * each * p.sums[column];
        m2[i * p.channels + j] = static_cast<Acc>(i == j && value < 0 ? 0.0 : value);
      }
  });
}

// The mean of some rows, rounded to the type of the features. All 16-bit features would differ from a finer pivot by
// the same low bits, and the rounding errors of these would add up instead of cancelling.
template <class Acc>
void mean_of_rows(
    const void* data, torch::headeronly::ScalarType type, const int64_t* offsets, int64_t count, int64_t channels,
    Acc* mean) {
  with_type<Acc>(type, [&]<class T>() {
    const T* from = static_cast<const T*>(data);
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t i = 0; i < count; ++i) total += static_cast<Acc>(from[offsets[i] + c]);
      mean[c] = static_cast<Acc>(static_cast<T>(static_cast<Acc>(total / std::max<int64_t>(count, 1))));
    }
  });
}

// features with contiguous channels; count (K), mean (K, A) and m2 (K, A, A) are written whole.
template <class Acc, Isa isa>
void full_moments(
    const FeatureView& view, const LabelView& labels, const void* data, torch::headeronly::ScalarType type,
    int64_t* count, void* mean, void* m2) {
  constexpr int step = kLanes<Acc>;
  std::vector<int64_t> starts;
  const std::vector<int64_t> sorted = sort_by_class(view, labels, starts);
  const int64_t channels = view.channels, groups = (channels + step - 1) / step, width = groups * step;
  const int64_t strips = (groups + kStripGroups - 1) / kStripGroups;
  Buffer<Acc> pivot(width), packed(groups * kPanelRows * step), square(width * width);
  std::vector<double> sums(width);
  for (int64_t k = 0; k < labels.num_classes; ++k) {
    count[k] = starts[k + 1] - starts[k];
    std::fill(sums.begin(), sums.end(), 0.0);
    std::fill(square.data(), square.data() + width * width, Acc(0));
    const int64_t some = std::min(count[k], kFullPivotRows);
    mean_of_rows(data, type, sorted.data() + starts[k], some, channels, pivot.data());
    Panel<Acc> p{data, type, nullptr, 0, channels, groups, pivot.data(), packed.data(), square.data(), sums.data()};
    for (int64_t begin = starts[k]; begin < starts[k + 1]; begin += kPanelRows) {
      p.offsets = sorted.data() + begin;
      p.rows = std::min(kPanelRows, starts[k + 1] - begin);
      torch::stable::parallel_for(0, (p.rows + kPackRows - 1) / kPackRows, 1, [&](int64_t a, int64_t b) {
        on_isa<Acc, isa>([&]() FASTUDA_INLINED { pack_rows(p, a * kPackRows, std::min(b * kPackRows, p.rows)); });
      });
      // The first strips are the longest. Taken in pairs from both ends, equal numbers of strips are equal work.
      torch::stable::parallel_for(0, strips, 1, [&](int64_t a, int64_t b) {
        on_isa<Acc, isa>([&]() FASTUDA_INLINED {
          for (int64_t i = a; i < b; ++i) add_strip_on<isa>(p, i % 2 ? strips - 1 - i / 2 : i / 2);
        });
      });
    }
    finish_class(p, count[k], static_cast<Acc*>(mean) + k * channels, static_cast<Acc*>(m2) + k * channels * channels);
  }
}

}  // namespace fastuda
