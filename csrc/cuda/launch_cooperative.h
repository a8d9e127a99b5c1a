// Kernels whose blocks wait for each other: all blocks of the grid are resident at once.
#pragma once

#include "cuda/launch.h"

#if !defined(FASTUDA_EMULATION)
#include <cooperative_groups.h>

namespace fastuda::cuda {

// All threads of all blocks; only in kernels started by launch_cooperative.
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

#if !defined(__CUDACC_RTC__)
// Blocks that a multiprocessor of the current card holds of a kernel launched together: 0 where it cannot do so.
template <class... Parameters>
int resident_blocks(void (*kernel)(Parameters...), int threads, int shared_bytes) {
  const void* function = reinterpret_cast<const void*>(kernel);
  int device = 0, together = 0, blocks = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, device) != cudaSuccess || !together)
    return 0;
  if (shared_bytes > 48 * 1024)
    cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, function, threads, shared_bytes);
  return error == cudaSuccess ? blocks : 0;
}

// Throws std::runtime_error, which names the kernel, if the launch is refused: the grid may be too large to be
// resident.
template <class... Parameters>
void launch_cooperative(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes, Stream stream, Parameters... parameters) {
  void* arguments[] = {static_cast<void*>(&parameters)...};
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > 48 * 1024)
    cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  cudaLaunchCooperativeKernel(function, grid, block, arguments, shared_bytes, stream);
  check_launch(function, grid, block, shared_bytes);
}
#endif

}  // namespace fastuda::cuda
#endif
