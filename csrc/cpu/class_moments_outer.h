// Sums of outer products of packed rows: the symmetric product X^T X of a panel, lower triangle, blocked in registers.
//
// A panel holds rows of one class with the channels in groups of one vector: [group][row][lane]. A block is kRows
// channels by kGroups vectors of channels; its sums stay in registers over all rows of the panel.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/simd.h"

namespace fastuda {

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

}  // namespace fastuda
