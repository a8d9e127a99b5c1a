// The Lovász-Softmax with errors counted in bins: two walks over the pixels cell by cell (see upsample_cells.h),
// neither of which stores anything of full resolution.
//
// The first counts errors by class and bin. Nearly all errors are in bin 0, so that one is not counted: it is the total
// less all others. A few blocks a multiprocessor walk all cells and keep 16-bit counts in shared memory, which they
// add to all before one can overflow (a pixel counts once in a class); where bins do not fit, they are counted in
// global memory. Then a block a class scans its bins from the largest errors down for what an error in each counts for,
// and the second walk computes the errors again and reads that from the table. Counts are whole numbers and all other
// sums have their own order: the same bits for every launch.
//
// Launches: five, with a gradient six. Scratch: 12 bytes a class and bin (16 with sums in double), and with a gradient
// two to three times it at 8-fold upsampling.
#pragma once

#include "cuda/block_scan.h"
#include "cuda/lovasz_softmax_rows.h"

namespace fastuda::cuda {

constexpr int kLovaszChunks = 65535 / (kCellThreads * kCellRows);  // whose pixels 16 bits can count

template <class T>
struct LovaszBins : LovaszPixels<T> {
  using Acc = Accumulate<T>;
  int bins;
  bool in_shared;  // whether a block keeps counts to itself
  Pointer<int> pixels, own;  // (classes, bins): errors, and those of the class's own pixels; none of bin 0
  Pointer<int> totals;       // (classes): the class's own pixels
  Pointer<Acc> table;        // (classes, bins): what an error counts for
  Pointer<Acc> partials;
  Pointer<double> sums;  // (blocks)
};

template <class T>
__device__ __forceinline__ int bin_of(const LovaszBins<T>& p, Accumulate<T> error) {
  const Accumulate<T> at = error * static_cast<Accumulate<T>>(p.bins), last = static_cast<Accumulate<T>>(p.bins - 1);
  return at > 0 ? static_cast<int>(at < last ? at : last) : 0;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) lovasz_clear(
    Pointer<int> pixels, Pointer<int> own, Pointer<int> totals, i64 size, int classes) {
  const i64 step = static_cast<i64>(gridDim.x) * kThreads;
  for (i64 i = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x; i < size; i += step) {
    pixels[i] = own[i] = 0;
    if (i < classes) totals[i] = 0;
  }
}

// Adds a block's 16-bit counts, two a word, to all, and leaves 0.
template <class T>
__device__ __forceinline__ void add_counts(const LovaszBins<T>& p, const Pointer<u32>& counts, int words) {
  __syncthreads();
  const i64 size = static_cast<i64>(p.cells.classes) * p.bins;
  for (int i = threadIdx.x; i < words; i += kCellThreads) {
    const u32 two = counts[i];
    if (two == 0) continue;
    counts[i] = 0;
    const i64 at = 2 * static_cast<i64>(i);
    if (two & 0xffffu) atomicAdd(p.pixels + at, static_cast<int>(two & 0xffffu));
    if (two >> 16 && at + 1 < size) atomicAdd(p.pixels + (at + 1), static_cast<int>(two >> 16));
  }
  __syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kCellThreads, kCellBlocks<Accumulate<T>>) lovasz_count(LovaszBins<T> p) {
  using Acc = Accumulate<T>;
  const int classes = p.cells.classes, words = p.in_shared ? (classes * p.bins + 1) / 2 : 0;
  const Pointer<int> totals = shared<int>(CellShared<Acc>::table_at);  // no node gathers here
  const Pointer<u32> counts = shared<u32>(CellShared<Acc>::table_at + (classes + 3) / 4 * 16);
  for (int i = threadIdx.x; i < classes; i += kCellThreads) totals[i] = 0;
  for (int i = threadIdx.x; i < words; i += kCellThreads) counts[i] = 0;
  LovaszRows<T> rows;
  int counted = 0;  // chunks
  walk_cells(p, rows, [&](const CellBlock<T>& block) {
#pragma unroll
    for (int r = 0; r < kCellRows; ++r)
      if (rows.label[r] >= 0) atomicAdd(totals + rows.label[r], 1);
    for (int k = 0; k < classes; ++k) {
      Acc a, d;
      block.ends(k, a, d);
#pragma unroll
      for (int r = 0; r < kCellRows; ++r) {
        if (rows.label[r] < 0) continue;
        const bool own = rows.label[r] == k;
        const Acc probability = rows.probability(p, r, a + block.weight[r] * d);
        const int bin = bin_of(p, own ? 1 - probability : probability);
        if (bin == 0) continue;
        const i64 to = static_cast<i64>(k) * p.bins + bin;
        if (p.in_shared) atomicAdd(counts + to / 2, to % 2 ? 0x10000u : 1u);
        else atomicAdd(p.pixels + to, 1);
        if (own) atomicAdd(p.own + to, 1);
      }
    }
    if (p.in_shared && ++counted % kLovaszChunks == 0) add_counts(p, counts, words);
  });
  add_counts(p, counts, words);
  for (int i = threadIdx.x; i < classes; i += kCellThreads) {
    const int total = totals[i];
    if (total) atomicAdd(p.totals + i, total);
  }
}

// What an error in each bin of a class counts for, a block a class: the step of the class's Jaccard loss over the bin,
// from the largest errors down, by the bin's pixels and by the number of classes that occur.
template <class Acc>
__global__ void __launch_bounds__(kScanThreads) lovasz_table(
    Pointer<int> pixels, Pointer<int> own, Pointer<int> totals, int classes, int bins, Pointer<Acc> table) {
  const Pointer<int> room = shared<int>(0);
  const int k = blockIdx.x, total = totals[k];
  const i64 first = static_cast<i64>(k) * bins;
  int all = 0, present = 0;
  for (int i = 0; i < classes; ++i) {
    const int count = totals[i];
    all += count;
    present += count > 0;
  }
  int rank = 0, seen = 0;  // of the bins above
  for (int start = 0; start < bins; start += kScanThreads) {
    const int bin = bins - 1 - start - static_cast<int>(threadIdx.x);
    int mine = bin > 0 ? static_cast<int>(pixels[first + bin]) : 0;
    const int mine_own = bin > 0 ? static_cast<int>(own[first + bin]) : 0;
    int tile, tile_own;
    int upto = rank + block_scan(room, mine, tile), upto_own = seen + block_scan(room, mine_own, tile_own);
    rank += tile;
    seen += tile_own;
    const double before =
        1 - static_cast<double>(total - (upto_own - mine_own)) / (total + (upto - mine) - (upto_own - mine_own));
    if (bin == 0) {
      mine = all - upto;
      upto = all;
      upto_own = total;
    }
    if (bin < 0) continue;
    const double after = 1 - static_cast<double>(total - upto_own) / (total + upto - upto_own);
    const double each = static_cast<double>(mine > 0 ? mine : 1) * present;
    table[first + bin] = total > 0 ? static_cast<Acc>((after - before) / each) : Acc(0);
  }
}

// The rows' class k as the second walk needs it.
template <class T>
struct LovaszWeight {
  using Acc = Accumulate<T>;
  Acc probability, error, toward;  // toward: dL/dp

  __device__ __forceinline__ LovaszWeight(const LovaszBins<T>& p, const LovaszRows<T>& rows, int k, int r, Acc z) {
    const bool own = rows.label[r] == k;
    probability = rows.probability(p, r, z);
    error = own ? 1 - probability : probability;
    const Acc weight = p.table[static_cast<i64>(k) * p.bins + bin_of(p, error)];
    toward = own ? -weight : weight;
  }
};

// Brings the gradient of the rows to the nodes. mean: of dL/dp under each pixel's softmax.
template <class T>
__device__ __forceinline__ void lovasz_slopes(
    const LovaszBins<T>& p, const CellBlock<T>& block, const LovaszRows<T>& rows,
    const Accumulate<T> (&mean)[kCellRows], int columns, bool first_chunk) {
  using Acc = Accumulate<T>;
  const auto slope = [&](int k, int r, Acc z, Acc& part) {
    if (rows.label[r] < 0) return false;
    const LovaszWeight<T> w(p, rows, k, r, z);
    part = p.probabilities ? w.toward : w.probability * (w.toward - mean[r]);
    return true;
  };
  block.bring(p.partials, 0, p.cells.classes, columns, first_chunk, slope, [](int, Acc&, Acc&) {});
}

template <class T, bool kSlope>
__global__ void __launch_bounds__(kCellThreads, kCellBlocks<Accumulate<T>>) lovasz_weigh(LovaszBins<T> p) {
  using Acc = Accumulate<T>;
  CellBlock<T> block(p.cells, p.scores, blockIdx.x, score_unit<T>(p.probabilities));
  double loss = 0;
  LovaszRows<T> rows;
  for (int columns = 0; columns < block.column_chunks(); ++columns) {
    for (int chunk = 0; chunk < block.row_chunks(); ++chunk) {
      block.place(columns, chunk);
      rows.read(p, block);
      Acc mean[kCellRows] = {}, losses = 0;
      for (int k = 0; k < p.cells.classes; ++k) {
        if (p.totals[k] == 0) continue;
        Acc a, d;
        block.ends(k, a, d);
#pragma unroll
        for (int r = 0; r < kCellRows; ++r) {
          if (rows.label[r] < 0) continue;
          const LovaszWeight<T> w(p, rows, k, r, a + block.weight[r] * d);
          losses += w.error * (rows.label[r] == k ? -w.toward : w.toward);
          mean[r] += w.probability * w.toward;
        }
      }
      loss += losses;
      if constexpr (kSlope) lovasz_slopes(p, block, rows, mean, columns, columns == 0 && chunk == 0);
    }
  }
  loss = block_sum<kCellThreads>(shared<double>(CellShared<Acc>::own_at), loss);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = loss;
}

#define FASTUDA_LOVASZ(T)                                             \
  template __global__ void lovasz_count<T>(LovaszBins<T>);            \
  template __global__ void lovasz_weigh<T, true>(LovaszBins<T>);      \
  template __global__ void lovasz_weigh<T, false>(LovaszBins<T>);
#define FASTUDA_LOVASZ_TABLE(Acc)              \
  template __global__ void lovasz_table<Acc>(Pointer<int>, Pointer<int>, Pointer<int>, int, int, Pointer<Acc>);
FASTUDA_LOVASZ(float)
FASTUDA_LOVASZ(Half)
FASTUDA_LOVASZ(BFloat16)
FASTUDA_LOVASZ(double)
FASTUDA_LOVASZ_TABLE(float)
FASTUDA_LOVASZ_TABLE(double)
template __global__ void lovasz_clear<kScanThreads>(Pointer<int>, Pointer<int>, Pointer<int>, i64, int);

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr i64 kLovaszShared = 48 * 1024;  // bytes of a block that counts, at most

struct LovaszBinParts {
  i64 entries;
  Buffer pixels, own, totals, table, sums, partials;
  i64 bytes;

  LovaszBinParts(const LovaszProblem& p, const Buffer& whole) : entries(static_cast<i64>(p.scores.classes) * p.bins) {
    const Cells c = p.cells();
    Scratch scratch{whole};
    pixels = scratch.take(entries, 4);
    own = scratch.take(entries, 4);
    totals = scratch.take(p.scores.classes, 4);
    table = scratch.take(entries, p.sum_size());
    sums = scratch.take(c.blocks(), 8);
    partials = scratch.take(p.with_slope ? c.partials() : 0, p.sum_size());
    bytes = scratch.used;
  }
};

// A scalar, and with_slope the gradient (N, K, h, w).
inline void run_lovasz_bins(
    const LovaszProblem& p, const Card& card, const Buffer& scratch, Buffer loss, Buffer slope, Stream stream) {
  const LovaszBinParts part(p, scratch);
  with_type(p.scores.type, [&](auto kind) {
    using T = decltype(kind);
    using Acc = Accumulate<T>;
    const i64 count_bytes = (part.entries + 1) / 2 * 4;
    const i64 bytes = CellShared<Acc>::table_at + (p.scores.classes + 3) / 4 * 16;
    const LovaszBins<T> s{
        p.pixels_of<T>(), p.bins, bytes + count_bytes <= kLovaszShared, global<int>(part.pixels),
        global<int>(part.own), global<int>(part.totals), global<Acc>(part.table), global<Acc>(part.partials),
        global<double>(part.sums)};
    const i64 blocks = s.cells.blocks(), entries = part.entries;
    const dim3 cell_threads(kCellThreads), scan_threads(kScanThreads), one_each(static_cast<u32>(p.scores.classes));
    launch(
        lovasz_clear<kScanThreads>, dim3(static_cast<u32>(std::min<i64>(ceil_div<i64>(entries, kScanThreads), 1024))),
        scan_threads, 0, stream, s.pixels, s.own, s.totals, entries, p.scores.classes);
    if (blocks) {
      const i64 most = 4 * std::max(1, card.multiprocessors);
      launch(
          lovasz_count<T>, dim3(static_cast<u32>(std::min(blocks, most))), cell_threads,
          static_cast<int>(bytes + (s.in_shared ? count_bytes : 0)), stream, s);
    }
    launch(
        lovasz_table<Acc>, one_each, scan_threads, kScanBytes, stream, s.pixels, s.own, s.totals, p.scores.classes,
        p.bins, s.table);
    const auto kernel = p.with_slope ? lovasz_weigh<T, true> : lovasz_weigh<T, false>;
    const int room = kCellThreads / kWarp * static_cast<int>(sizeof(double));
    if (blocks)
      launch(kernel, dim3(static_cast<u32>(blocks)), cell_threads, CellShared<Acc>::own_at + room, stream, s);
    run_totals<Acc>(s.sums, blocks, 1, loss, stream);
    if (p.with_slope) run_gather<Acc>(s.cells, s.partials, slope, stream);
  });
}

#endif
}  // namespace fastuda::cuda
