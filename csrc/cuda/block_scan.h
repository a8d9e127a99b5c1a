// Running sums over the lanes of a warp and the threads of a block.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

constexpr int kScanThreads = 256, kScanWarps = kScanThreads / kWarp;
constexpr int kScanBytes = kScanWarps * static_cast<int>(sizeof(int));

// The sum of the lanes' values up to this one.
__device__ __forceinline__ int warp_scan(int value) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int before = __shfl_up_sync(kFullWarp, value, step);
    if (lane >= step) value += before;
  }
  return value;
}

// Adds 1 to counts[at], or nothing where `at` is negative. All lanes with the `at` of the first lane are counted by one
// atomic addition: neighbouring pixels are mostly alike, and some cards add to one address lane by lane. All lanes of
// the warp take part.
__device__ __forceinline__ void count_alike(const Pointer<int>& counts, int at) {
  const int first = __shfl_sync(kFullWarp, at, 0);
  const u32 alike = __ballot_sync(kFullWarp, at == first);
  if (at < 0) return;
  if (at != first) atomicAdd(counts + at, 1);
  else if (threadIdx.x % kWarp == 0) atomicAdd(counts + at, __popc(alike));
}

// The sum of the threads' values up to this one, and of all. sums: kScanBytes of shared memory.
__device__ __forceinline__ int block_scan(const Pointer<int>& sums, int value, int& all) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = warp_scan(value);
  __syncthreads();  // the sums of the scan before have been read
  if (lane == kWarp - 1) sums[warp] = value;
  __syncthreads();
  all = 0;
#pragma unroll
  for (int w = 0; w < kScanWarps; ++w) {
    const int sum = sums[w];
    if (w < warp) value += sum;
    all += sum;
  }
  return value;
}

}  // namespace fastuda::cuda
