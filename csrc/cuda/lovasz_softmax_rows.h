// What both forms of the Lovász-Softmax share: a problem's scores and labels, and the rows of a thread.
#pragma once

#include "cuda/upsample_cells.h"

namespace fastuda::cuda {

template <class T>
struct LovaszPixels {
  Cells cells;
  Scores<T> scores;
  Labels labels;
  bool probabilities;
};

// The rows of a thread: labels, and what the scores of a class become.
template <class T>
struct LovaszRows {
  using Acc = Accumulate<T>;
  int label[kCellRows];  // -1 where ignored
  Acc most[kCellRows], unit[kCellRows];

  __device__ __forceinline__ void read_labels(const LovaszPixels<T>& p, const CellBlock<T>& block) {
#pragma unroll
    for (int r = 0; r < kCellRows; ++r) {
      const bool inside = block.inside && block.row + r < block.row_end;
      const PixelGrid& g = p.labels.grid;
      label[r] = inside ? class_at(p.labels, block.image * g.image_stride + (block.row + r) * g.row_stride +
                                                 block.column * g.column_stride)
                        : -1;
    }
  }

  // Labels and, of logits, the softmax.
  __device__ __forceinline__ void read(const LovaszPixels<T>& p, const CellBlock<T>& block) {
    read_labels(p, block);
    if (p.probabilities) return;
    block.softmax(most, unit);
#pragma unroll
    for (int r = 0; r < kCellRows; ++r) unit[r] = 1 / unit[r];
  }

  // Of the score z of row r.
  __device__ __forceinline__ Acc probability(const LovaszPixels<T>& p, int r, Acc z) const {
    return p.probabilities ? z : power_of_two(z - most[r]) * unit[r];
  }
};

template <class T>
__device__ __forceinline__ Accumulate<T> score_unit(bool probabilities) {
  return static_cast<Accumulate<T>>(probabilities ? 1 : 1.44269504088896340736);  // powers of 2 instead of e
}

// Calls run(block) for the pixels of every cell, chunk by chunk, with their labels and softmax in `rows`: a few blocks
// walk over all cells.
template <class T, class Run>
__device__ __forceinline__ void walk_cells(const LovaszPixels<T>& p, LovaszRows<T>& rows, const Run& run) {
  for (i64 at = blockIdx.x; at < p.cells.blocks(); at += gridDim.x) {
    CellBlock<T> block(p.cells, p.scores, static_cast<u32>(at), score_unit<T>(p.probabilities));
    const int chunks = block.row_chunks() * block.column_chunks();
    for (int chunk = 0; chunk < chunks; ++chunk) {
      block.place(chunk / block.row_chunks(), chunk % block.row_chunks());
      rows.read(p, block);
      run(block);
    }
  }
}

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr i64 kErrorsAtOnce = 1 << 24;  // what a card is filled with; 280 MB
constexpr int kSharedTotals = 2048;     // 24 KB of a block (float64)

struct LovaszProblem {
  ScoreBuffer scores;
  Axis down, along;
  PixelBuffer labels;
  int label_bytes;
  i64 ignore_index;
  int bins;  // 0: exact
  bool probabilities, with_slope;
  i64 errors_at_once = kErrorsAtOnce;  // of the exact form, sorted together: a class's at least
  int shared_totals = kSharedTotals;   // classes whose own pixels a block counts by itself

  Cells cells() const { return cut_cells(down, along, scores.images, scores.classes); }
  u32 pixels() const { return static_cast<u32>(scores.images) * static_cast<u32>(down.size) * along.size; }
  i64 sum_size() const { return scores.type == Type::float64 ? 8 : 4; }

  template <class T>
  LovaszPixels<T> pixels_of() const {
    return {
        cells(), make_scores<T>(scores), make_labels(labels, label_bytes, scores.classes, ignore_index), probabilities};
  }
};

#endif
}  // namespace fastuda::cuda
