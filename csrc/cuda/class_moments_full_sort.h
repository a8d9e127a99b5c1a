// A counting sort of pixels by class: stable, so that the same labels give the same order in every run.
//
// A warp walks over one chunk of pixels, twice: it counts its pixels of each class, and when the counts before it have
// been summed it writes the addresses of its pixels to their places. Lane 0 alone owns the chunk's row of counts.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

constexpr int kSortThreads = 256, kSortWarps = kSortThreads / kWarp;

struct Sort {
  Labels labels;
  PixelGrid grid;  // of the features
  u32 pixels, chunk_pixels;
  int chunks, panel_rows;
  Pointer<int> table;           // (chunks, classes): pixels of the chunk, then those of the chunks before it
  Pointer<int> totals;          // (classes)
  Pointer<int> starts, panels;  // (classes + 1): first pixel, first panel of panel_rows pixels of one class
  Pointer<i64> order;           // addresses of the pixels' features
  Pointer<i64> count;           // (classes)
};

template <bool kScatter>
__global__ void __launch_bounds__(kSortThreads) sort_walk(Sort s) {
  const int lane = threadIdx.x % kWarp, chunk = blockIdx.x * kSortWarps + threadIdx.x / kWarp;
  if (chunk >= s.chunks) return;
  const int classes = s.labels.classes;
  const Pointer<int> row = s.table + static_cast<i64>(chunk) * classes;
  if constexpr (!kScatter) {
    for (int k = lane; k < classes; k += kWarp) row[k] = 0;
    __syncwarp();
  }
  const u32 begin = static_cast<u32>(chunk) * s.chunk_pixels;
  const u32 end = s.pixels - begin < s.chunk_pixels ? s.pixels : begin + s.chunk_pixels;
  int current = -1, next = 0;  // the class at hand, and how many pixels of it came before
  for (u32 at = begin; at < end; at += kWarp) {
    const u32 pixel = at + lane;
    const int mine = pixel < end ? read_class(s.labels, pixel) : -1;
    u32 todo = __ballot_sync(kFullWarp, mine >= 0);
    while (todo) {  // one class of these pixels after the other: nearly always there is one
      const int label = __shfl_sync(kFullWarp, mine, __ffs(todo) - 1);
      const u32 same = __ballot_sync(kFullWarp, mine == label);
      if (label != current) {
        if (lane == 0) {
          if (current >= 0) row[current] = next;
          next = row[label];
        }
        next = __shfl_sync(kFullWarp, next, 0);
        current = label;
      }
      if constexpr (kScatter) {
        if (mine == label) s.order[s.starts[label] + next + __popc(same & ((1u << lane) - 1))] = locate(s.grid, pixel);
      }
      next += __popc(same);
      todo &= ~same;
    }
  }
  if (lane == 0 && current >= 0) row[current] = next;
}

// The sum of the values of all threads up to this one. sums: shared memory, one element a thread.
__device__ __forceinline__ int sum_up_to_here(const Pointer<int>& sums, int value) {
  const int t = threadIdx.x;
  sums[t] = value;
  __syncthreads();
  for (int step = 1; step < kSortThreads; step *= 2) {
    const int before = t >= step ? static_cast<int>(sums[t - step]) : 0;
    __syncthreads();
    value += before;
    sums[t] = value;
    __syncthreads();
  }
  return value;
}

// One class a block: counts of chunks become those of the chunks before.
__global__ void __launch_bounds__(kSortThreads) sort_chunks(Sort s) {
  const Pointer<int> sums = shared<int>(0);
  const int k = blockIdx.x, classes = s.labels.classes;
  int before = 0;
  for (int first = 0; first < s.chunks; first += kSortThreads) {
    const int chunk = first + threadIdx.x;
    const i64 at = static_cast<i64>(chunk) * classes + k;
    const int mine = chunk < s.chunks ? static_cast<int>(s.table[at]) : 0;
    const int upto = sum_up_to_here(sums, mine);
    if (chunk < s.chunks) s.table[at] = before + upto - mine;
    before += sums[kSortThreads - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    s.totals[k] = before;
    s.count[k] = before;
  }
}

// One block: where classes and their panels begin.
__global__ void __launch_bounds__(kSortThreads) sort_classes(Sort s) {
  const Pointer<int> sums = shared<int>(0);
  const int classes = s.labels.classes;
  for (int part = 0; part < 2; ++part) {
    const Pointer<int> to = part ? s.panels : s.starts;
    int before = 0;
    for (int first = 0; first < classes; first += kSortThreads) {
      const int k = first + threadIdx.x;
      const int total = k < classes ? static_cast<int>(s.totals[k]) : 0;
      const int mine = part ? total / s.panel_rows + (total % s.panel_rows != 0) : total;
      const int upto = sum_up_to_here(sums, mine);
      if (k < classes) to[k] = before + upto - mine;
      before += sums[kSortThreads - 1];
      __syncthreads();
    }
    if (threadIdx.x == 0) to[classes] = before;
  }
}

#if !defined(__CUDACC_RTC__)

inline void sort_by_class(const Sort& s, Stream stream) {
  const int classes = s.labels.classes, bytes = kSortThreads * static_cast<int>(sizeof(int));
  const dim3 blocks(ceil_div(s.chunks, kSortWarps)), block(kSortThreads);
  if (s.chunks) launch(sort_walk<false>, blocks, block, 0, stream, s);
  if (classes) launch(sort_chunks, dim3(classes), block, bytes, stream, s);
  launch(sort_classes, dim3(1), block, bytes, stream, s);
  if (s.chunks) launch(sort_walk<true>, blocks, block, 0, stream, s);
}

#endif
}  // namespace fastuda::cuda
