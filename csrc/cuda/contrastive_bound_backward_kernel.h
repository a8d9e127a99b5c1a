// The contrastive bound, backward: the gradient by the features. A block owns kTile pixels and walks over the channels.
#pragma once

#include "cuda/contrastive_bound_prepare.h"

namespace fastuda::cuda {

constexpr int kTile = 64, kQuad = 4, kQuads = kTile / kQuad;  // a step is kTile pixels x kTile channels
constexpr int kSlopeThreads = kQuads * kQuads, kTilePitch = kTile + kQuad;

template <class Acc>
constexpr int kMostClasses = sizeof(Acc) == 8 ? 16 : 32;  // of a step

template <class T>
struct Backward {
  Bound<T> in;
  Pointer<const Accumulate<T>> grad, posterior;
  PixelGrid grad_grid;
  Pointer<T> slope;
  PixelGrid slope_grid;
  i64 slope_channel_stride;
  int step;            // classes of a step
  bool read4, write4;  // four channels of a pixel are one aligned access
  u32 begin;           // first pixel of the launch; in.pixels is the end
  Pointer<const Accumulate<T>> given;  // null, or sum_k p_k S_k q of the launch: (channels, given_pitch)
  i64 given_pitch;
};

// What a block of bound_backward has in shared memory; `sums` lies over the class arrays.
template <class Acc, bool kCovariance>
struct BackwardTile {
  Pointer<Acc> weights, posterior, means, spreads;  // (classes of a step, kTilePitch): pixels twice, channels twice
  Pointer<Acc> sums;                                // (3, kQuads, kTile)
  Pointer<Acc> inverse, along, upstream;            // of each pixel: 1 / |q|, q.slope / |q|^2, incoming gradient
  Pointer<i64> offsets, slope_offsets;              // -1 beyond the last pixel
  Pointer<int> own;                                 // class, or -1: the gradient is 0

  static constexpr __host__ __device__ int class_bytes(int step) {
    const int classes = (kCovariance ? 4 : 2) * step * kTilePitch, reduce = 3 * kQuads * kTile;
    return (classes > reduce ? classes : reduce) * static_cast<int>(sizeof(Acc));
  }
  static constexpr __host__ __device__ int bytes(int step) {
    return class_bytes(step) + kTile * (3 * static_cast<int>(sizeof(Acc)) + 2 * 8 + 4);
  }

  __device__ explicit BackwardTile(int step) {
    const int array = step * kTilePitch * static_cast<int>(sizeof(Acc)), pixel = kTile * static_cast<int>(sizeof(Acc));
    const int end = class_bytes(step);
    sums = weights = shared<Acc>(0);
    means = shared<Acc>(array);
    posterior = shared<Acc>(2 * array);  // only with a covariance, as the next
    spreads = shared<Acc>(3 * array);
    inverse = shared<Acc>(end);
    along = shared<Acc>(end + pixel);
    upstream = shared<Acc>(end + 2 * pixel);
    offsets = shared<i64>(end + 3 * pixel);
    slope_offsets = shared<i64>(end + 3 * pixel + kTile * 8);
    own = shared<int>(end + 3 * pixel + 2 * kTile * 8);
  }
};

template <class T, bool kCovariance>
__device__ __forceinline__ void stage_block(
    const Backward<T>& b, const BackwardTile<Accumulate<T>, kCovariance>& tile, u32 first) {
  for (int p = threadIdx.x; p < kTile; p += kSlopeThreads) {
    const u32 pixel = first + p;
    const bool inside = pixel < b.in.pixels;
    const int own = inside ? read_class(b.in.labels, pixel) : -1;
    tile.own[p] = own;
    tile.offsets[p] = inside ? locate(b.in.grid, pixel) : -1;
    tile.slope_offsets[p] = inside ? locate(b.slope_grid, pixel) : -1;
    tile.upstream[p] = own < 0 ? Accumulate<T>(0) : b.grad[locate(b.grad_grid, pixel)];
    tile.inverse[p] = 1;
    tile.along[p] = 0;
  }
}

// Softmax of classes [k0, k0 + count) of the block's pixels, and the same less 1 for the own class.
template <class T, bool kCovariance>
__device__ __forceinline__ void stage_weights(
    const Backward<T>& b, const BackwardTile<Accumulate<T>, kCovariance>& tile, u32 first, int k0, int count) {
  using Acc = Accumulate<T>;
  for (int i = threadIdx.x; i < kTile * count; i += kSlopeThreads) {
    const int p = i / count, k = i % count, own = tile.own[p];
    const i64 pixel = first + p;
    const Acc value = own < 0 ? Acc(0) : b.posterior[pixel * b.in.labels.classes + k0 + k];
    tile.weights[k * kTilePitch + p] = value - (own == k0 + k ? Acc(1) : Acc(0));
    if (kCovariance) tile.posterior[k * kTilePitch + p] = value;
  }
}

template <class T, bool kCovariance>
__device__ __forceinline__ void stage_statistics(
    const Backward<T>& b, const BackwardTile<Accumulate<T>, kCovariance>& tile, int c0, int k0, int count) {
  using Acc = Accumulate<T>;
  for (int i = threadIdx.x; i < kTile * count; i += kSlopeThreads) {
    const int c = i / count, k = i % count;
    const i64 from = static_cast<i64>(c0 + c) * b.in.padded + k0 + k;
    const bool inside = c0 + c < b.in.channels;
    tile.means[k * kTilePitch + c] = inside ? b.in.means[from] : Acc(0);
    if (kCovariance) tile.spreads[k * kTilePitch + c] = inside ? b.in.spreads[from] : Acc(0);
  }
}

// sum_k w_k M_k and sum_k p_k S_k of a thread's 4 pixels x 4 channels; the latter is multiplied by q in the end.
template <class Acc>
struct Slopes {
  Acc one[kQuad][kQuad], two[kQuad][kQuad];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kQuad; ++i)
#pragma unroll
      for (int j = 0; j < kQuad; ++j) one[i][j] = two[i][j] = 0;
  }

  template <bool kCovariance>
  __device__ __forceinline__ void add(const BackwardTile<Acc, kCovariance>& tile, int x, int y, int count) {
#pragma unroll 2
    for (int k = 0; k < count; ++k) {
      const int p = k * kTilePitch + y * kQuad, c = k * kTilePitch + x * kQuad;
      const Pack<Acc, kQuad> w = load_pack<kQuad>(tile.weights + p), m = load_pack<kQuad>(tile.means + c);
      Pack<Acc, kQuad> v{}, s{};
      if constexpr (kCovariance) {
        v = load_pack<kQuad>(tile.posterior + p);
        s = load_pack<kQuad>(tile.spreads + c);
      }
#pragma unroll
      for (int i = 0; i < kQuad; ++i)
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          one[i][j] += w.at[i] * m.at[j];
          if constexpr (kCovariance) two[i][j] += v.at[i] * s.at[j];
        }
    }
  }
};

// One pixel's channels [c, c + 4), 0 beyond the last.
template <class T>
__device__ __forceinline__ void read_quad(const Backward<T>& b, i64 offset, int c, Accumulate<T> (&q)[kQuad]) {
  if (b.read4) {
    const Pack<T, kQuad> pack = load_pack<kQuad>(b.in.features + (offset + c));
#pragma unroll
    for (int j = 0; j < kQuad; ++j) q[j] = widen(pack.at[j]);
    return;
  }
#pragma unroll
  for (int j = 0; j < kQuad; ++j)
    q[j] = c + j < b.in.channels ? widen(b.in.features[offset + (c + j) * b.in.channel_stride]) : Accumulate<T>(0);
}

template <class T>
__device__ __forceinline__ void write_quad(
    const Backward<T>& b, i64 offset, int c, const Accumulate<T> (&slope)[kQuad]) {
  Pack<T, kQuad> pack;
#pragma unroll
  for (int j = 0; j < kQuad; ++j) narrow(slope[j], pack.at[j]);
  if (b.write4) {
    store_pack(b.slope + (offset + c), pack);
    return;
  }
#pragma unroll
  for (int j = 0; j < kQuad; ++j)
    if (c + j < b.in.channels) b.slope[offset + (c + j) * b.slope_channel_stride] = pack.at[j];
}

// |q|^2 and the two parts of q.slope, of a thread's pixels over its channels.
template <class Acc>
struct Lengths {
  Acc at[3][kQuad] = {};

  __device__ __forceinline__ void add(int i, const Acc (&q)[kQuad], const Slopes<Acc>& slopes) {
#pragma unroll
    for (int j = 0; j < kQuad; ++j) {
      at[0][i] += q[j] * q[j];
      at[1][i] += q[j] * slopes.one[i][j];
      at[2][i] += q[j] * slopes.two[i][j];
    }
  }

  // Sums over the threads that share a pixel, in their order, and leaves what the second sweep needs.
  template <bool kCovariance>
  __device__ __forceinline__ void reduce(const BackwardTile<Acc, kCovariance>& tile, int x, int y) {
    __syncthreads();  // the class arrays are used up
#pragma unroll
    for (int part = 0; part < 3; ++part)
#pragma unroll
      for (int i = 0; i < kQuad; ++i) tile.sums[(part * kQuads + x) * kTile + y * kQuad + i] = at[part][i];
    __syncthreads();
    for (int p = threadIdx.x; p < kTile; p += kSlopeThreads) {
      Acc sum[3] = {0, 0, 0};
      for (int part = 0; part < 3; ++part)
        for (int from = 0; from < kQuads; ++from) sum[part] += tile.sums[(part * kQuads + from) * kTile + p];
      const Acc inverse = inverse_length(sum[0]);
      tile.inverse[p] = inverse;
      tile.along[p] = inverse * inverse * (sum[1] + 2 * inverse * sum[2]);
    }
  }
};

template <class T, bool kCovariance>
__global__ void __launch_bounds__(kSlopeThreads, sizeof(Accumulate<T>) == 8 ? 1 : 2) bound_backward(Backward<T> b) {
  using Acc = Accumulate<T>;
  const BackwardTile<Acc, kCovariance> tile(b.step);
  const u32 first = b.begin + blockIdx.x * kTile;
  const int t = threadIdx.x, classes = b.in.labels.classes;
  // x: quad of channels, y: quad of pixels; neighbouring threads share what lies side by side in memory.
  const bool rows = b.in.channel_stride == 1;
  const int x = rows ? t % kQuads : t / kQuads, y = rows ? t / kQuads : t % kQuads;
  stage_block<T, kCovariance>(b, tile, first);
  Lengths<Acc> lengths;
#pragma unroll 1
  for (int sweep = b.in.normalize ? 0 : 1; sweep < 2; ++sweep) {
#pragma unroll 1
    for (int c0 = 0; c0 < b.in.channels; c0 += kTile) {
      Slopes<Acc> slopes;
      slopes.clear();
#pragma unroll 1
      for (int k0 = 0; k0 < classes; k0 += b.step) {
        const int count = classes - k0 < b.step ? classes - k0 : b.step;
        __syncthreads();  // the arrays are free
        if (c0 == 0 || classes > b.step) stage_weights<T, kCovariance>(b, tile, first, k0, count);
        stage_statistics<T, kCovariance>(b, tile, c0, k0, count);
        __syncthreads();
        slopes.template add<kCovariance>(tile, x, y, count);
      }
      const int c = c0 + x * kQuad;
      if (c >= b.in.channels) continue;
      Pack<Acc, kQuad> given[kQuad] = {};
      if (b.given) {
#pragma unroll
        for (int j = 0; j < kQuad; ++j)
          given[j] = load_pack<kQuad>(b.given + ((c + j) * b.given_pitch + (first - b.begin) + y * kQuad));
      }
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const int p = y * kQuad + i;
        const i64 offset = tile.offsets[p];
        if (offset < 0) continue;
        const bool live = tile.own[p] >= 0;
        Acc q[kQuad] = {};
        if (live) read_quad(b, offset, c, q);
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          if constexpr (kCovariance) slopes.two[i][j] *= q[j];
          slopes.two[i][j] += given[j].at[i];
        }
        if (sweep == 0) {
          lengths.add(i, q, slopes);
          continue;
        }
        const Acc inverse = tile.inverse[p], along = tile.along[p], scale = tile.upstream[p] * inverse;
#pragma unroll
        for (int j = 0; j < kQuad; ++j)
          q[j] = live ? scale * (slopes.one[i][j] + 2 * inverse * slopes.two[i][j] - q[j] * along) : Acc(0);
        write_quad(b, tile.slope_offsets[p], c, q);
      }
    }
    if (sweep == 0) lengths.reduce(tile, x, y);
  }
}

}  // namespace fastuda::cuda
