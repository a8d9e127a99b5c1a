// Counts of cells, such as pairs of classes or bins of a histogram. Each block counts in shared memory, two cells in a
// word, and then adds its counts to the totals. Neighbouring pixels are mostly alike, so a warp adds all lanes that
// share the cell of its first lane at once. Sums of integers are the same in any order.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

struct CellCounts {
  Pointer<u64> total;
  int cells;
  bool in_shared;  // else the totals are counted up at once
  int offset;      // of the block's counts in its shared memory

  // Before the first add and after the last one; all threads of the block.
  __device__ __forceinline__ void begin() const {
    if (!in_shared) return;
    const Pointer<u32> own = shared<u32>(offset);
    for (int i = threadIdx.x; i < (cells + 1) / 2; i += blockDim.x) own[i] = 0;
    __syncthreads();
  }

  __device__ __forceinline__ void end() const {
    if (!in_shared) return;
    const Pointer<u32> own = shared<u32>(offset);
    __syncthreads();
    for (int i = threadIdx.x; i < (cells + 1) / 2; i += blockDim.x) {
      const u32 both = own[i], low = both & 0xffffu, high = both >> 16;
      if (low) atomicAdd(total + 2 * i, static_cast<u64>(low));
      if (high) atomicAdd(total + (2 * i + 1), static_cast<u64>(high));
    }
  }

  // Counts one pixel of `cell`, or none where it is negative; all lanes of the warp.
  __device__ __forceinline__ void add(int cell) const {
    const int first = __shfl_sync(kFullWarp, cell, 0);
    const u32 alike = __ballot_sync(kFullWarp, cell == first);
    if (cell < 0) return;
    if (cell != first) put(cell, 1);
    else if (threadIdx.x % kWarp == 0) put(cell, static_cast<u32>(__popc(alike)));
  }

 private:
  __device__ __forceinline__ void put(int cell, u32 times) const {
    if (in_shared) atomicAdd(shared<u32>(offset) + cell / 2, cell % 2 ? times << 16 : times);
    else atomicAdd(total + cell, static_cast<u64>(times));
  }
};

// The bin of a confidence that is a number: below 0 the first, above 1 the last.
template <class Acc>
__device__ __forceinline__ int bin_of(Acc confidence, int bins) {
  const Acc last = static_cast<Acc>(bins - 1), place = confidence * static_cast<Acc>(bins);
  return static_cast<int>(place > 0 ? place < last ? place : last : Acc(0));
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) clear_cells(Pointer<u64> total, int cells) {
  for (int i = blockIdx.x * kThreads + threadIdx.x; i < cells; i += gridDim.x * kThreads) total[i] = 0;
}

constexpr int kClearThreads = 256;

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr int kCountBytes = 48 * 1024;  // of shared memory that a block's counts may have
constexpr int kMostBlockCounts = 65535;  // pixels of a block: a count is half a word

inline i64 cell_bytes(i64 cells) { return (cells + 1) / 2 * 4; }

// offset: of the counts in a block's shared memory, of which `limit` bytes may be used.
inline CellCounts make_counts(const Buffer& total, int cells, i64 offset, i64 limit) {
  const bool in_shared = cell_bytes(cells) <= kCountBytes && offset + cell_bytes(cells) <= limit;
  return {global<u64>(total), cells, in_shared, static_cast<int>(offset)};
}

inline void clear_counts(const CellCounts& counts, const Card& card, Stream stream) {
  if (counts.cells == 0) return;
  const int wanted = ceil_div(counts.cells, kClearThreads);
  const int most = 8 * (card.multiprocessors > 1 ? card.multiprocessors : 1);
  const dim3 blocks(static_cast<u32>(wanted < most ? wanted : most));
  launch(clear_cells<kClearThreads>, blocks, dim3(kClearThreads), 0, stream, counts.total, counts.cells);
}

// Blocks for `tiles` of at most `tile_pixels` pixels each: `a_multiprocessor` of them where there is so much to do, and
// so many that none counts more pixels than it may.
inline dim3 count_blocks(i64 tiles, i64 tile_pixels, int a_multiprocessor, const Card& card) {
  const i64 least = ceil_div<i64>(tiles, kMostBlockCounts / tile_pixels);
  const i64 wanted = static_cast<i64>(a_multiprocessor) * (card.multiprocessors > 1 ? card.multiprocessors : 1);
  const i64 blocks = wanted < least ? least : wanted;
  return dim3(static_cast<u32>(blocks < tiles ? blocks : tiles));
}

#endif
}  // namespace fastuda::cuda
