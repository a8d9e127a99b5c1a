// The statistics of the contrastive bound as its kernels read them, and what forward and backward share.
#pragma once

#include "common/cuda_kernel.h"

namespace fastuda::cuda {

constexpr int kPrepareThreads = 128;

template <class Acc>
__device__ __forceinline__ Acc inverse_length(Acc squares) {
  return squares > 0 ? 1 / square_root(squares) : Acc(0);  // a vector of length 0 stays 0
}

// Mean or covariance (classes, channels), float or double.
struct Statistic {
  Pointer<const float> floats;
  Pointer<const double> doubles;
  bool wide;
  i64 class_stride, channel_stride;

  __device__ __forceinline__ double at(int k, int c) const {
    const i64 i = k * class_stride + c * channel_stride;
    return wide ? doubles[i] : static_cast<double>(floats[i]);
  }
};

template <class Acc>
struct Prepare {
  Statistic mean, covariance;
  bool has_covariance, normalize;
  int channels, classes, padded;  // padded: classes rounded up to whole tiles; the rest is 0
  Acc temperature;
  Pointer<Acc> means, spreads;  // (channels, padded)
};

// One class a block.
template <class Acc>
__global__ void __launch_bounds__(kPrepareThreads) bound_prepare(Prepare<Acc> p) {
  const int k = blockIdx.x, t = threadIdx.x;
  const bool real = k < p.classes;
  Acc scale[2] = {1, 1};
  if (p.normalize) {
    const Pointer<Acc> sums = shared<Acc>(0);
    Acc square[2] = {0, 0};
    for (int c = t; real && c < p.channels; c += kPrepareThreads) {
      const Acc m = static_cast<Acc>(p.mean.at(k, c));
      const Acc s = p.has_covariance ? static_cast<Acc>(p.covariance.at(k, c)) : Acc(0);
      square[0] += m * m;
      square[1] += s * s;
    }
    sums[t] = square[0];
    sums[kPrepareThreads + t] = square[1];
    __syncthreads();
    for (int step = kPrepareThreads / 2; step > 0; step /= 2) {
      if (t < step) {
        sums[t] += sums[t + step];
        sums[kPrepareThreads + t] += sums[kPrepareThreads + t + step];
      }
      __syncthreads();
    }
    scale[0] = inverse_length<Acc>(sums[0]);
    scale[1] = inverse_length<Acc>(sums[kPrepareThreads]);
  }
  for (int c = t; c < p.channels; c += kPrepareThreads) {
    const i64 to = static_cast<i64>(c) * p.padded + k;
    p.means[to] = real ? static_cast<Acc>(p.mean.at(k, c)) * scale[0] / p.temperature : Acc(0);
    if (!p.has_covariance) continue;
    const Acc s = real ? static_cast<Acc>(p.covariance.at(k, c)) * scale[1] : Acc(0);
    p.spreads[to] = s / (2 * p.temperature * p.temperature);
  }
}

template <class T>
struct Bound {
  Pointer<const T> features;
  PixelGrid grid;
  i64 channel_stride;
  Labels labels;
  u32 pixels;
  int channels, padded;
  bool normalize;
  Pointer<const Accumulate<T>> means, spreads;  // (channels, padded), of bound_prepare
};

}  // namespace fastuda::cuda
