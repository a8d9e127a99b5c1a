// Pixels of a block in shared memory.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

// Brings channels [c0, c0 + width) of kPixels pixels to to[channel * kPitch + pixel], for width <= kChannels; 0 where a
// pixel's offset in the features is -1. Neighbouring threads read along channels or along pixels, whichever lie side by
// side.
template <int kThreads, int kChannels, int kPixels, int kPitch, class T, class Acc>
__device__ __forceinline__ void stage_pixels(
    const Pointer<const T>& features, i64 channel_stride, const Pointer<i64>& offsets, int c0, int width,
    const Pointer<Acc>& to) {
  const bool rows = channel_stride == 1;
#pragma unroll 8
  for (int i = threadIdx.x; i < kChannels * kPixels; i += kThreads) {
    const int c = rows ? i % kChannels : i / kPixels, p = rows ? i / kChannels : i % kPixels;
    if (c >= width) continue;
    const i64 offset = offsets[p];
    to[c * kPitch + p] = offset < 0 ? Acc(0) : widen(features[offset + (c0 + c) * channel_stride]);
  }
}

}  // namespace fastuda::cuda
