// Running sums over the lanes of a warp and the threads of a block.
#pragma once

#include "common/cuda_kernel.h"

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
