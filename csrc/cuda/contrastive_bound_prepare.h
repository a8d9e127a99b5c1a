// The statistics of the contrastive bound as its kernels read them, and what forward and backward share.
#pragma once

#include "cuda/kernel.h"

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

// The sum of the values of all threads of a block, in a fixed tree. sums: shared memory, one element a thread.
template <class Acc>
__device__ __forceinline__ Acc sum_over_block(const Pointer<Acc>& sums, Acc value) {
  const int t = threadIdx.x;
  sums[t] = value;
  __syncthreads();
  for (int step = kPrepareThreads / 2; step > 0; step /= 2) {
    if (t < step) sums[t] += sums[t + step];
    __syncthreads();
  }
  const Acc total = sums[0];
  __syncthreads();
  return total;
}

template <class Acc>
__device__ __forceinline__ Acc inverse_norm(const Statistic& statistic, int k, int channels) {
  Acc sum = 0;
  for (int c = threadIdx.x; c < channels; c += kPrepareThreads) {
    const Acc value = static_cast<Acc>(statistic.at(k, c));
    sum += value * value;
  }
  return inverse_length(sum_over_block(shared<Acc>(0), sum));
}

// One class a block.
template <class Acc>
__global__ void __launch_bounds__(kPrepareThreads) bound_prepare(Prepare<Acc> p) {
  const int k = blockIdx.x, t = threadIdx.x;
  const bool real = k < p.classes;
  Acc scale[2] = {1, 1};
  if (p.normalize && real) {
    scale[0] = inverse_norm<Acc>(p.mean, k, p.channels);
    if (p.has_covariance) scale[1] = inverse_norm<Acc>(p.covariance, k, p.channels);
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
