// The contrastive bound, forward: loss and softmax. A block owns kPixels pixels and walks over classes and channels.
#pragma once

#include "cuda/contrastive_bound_prepare.h"
#include "cuda/pixel_stage.h"

namespace fastuda::cuda {

constexpr int kPixels = 128, kThreads = 64, kChannels = 32;  // of a block; threads; of a step
constexpr int kOwn = kPixels / kThreads;
constexpr int kPitch = kPixels + 1;

template <class Acc>
constexpr int kClassTile = sizeof(Acc) == 8 ? 8 : 20;
template <class Acc>
constexpr Acc kLowest = sizeof(Acc) == 8 ? static_cast<Acc>(-1.7e308) : static_cast<Acc>(-3.4e38);

template <class T>
struct Forward {
  Bound<T> in;
  Pointer<Accumulate<T>> loss, posterior;     // (pixels), (pixels, classes)
  Pointer<const Accumulate<T>> quadratic;  // null, or q^T S_k q as (pixels, classes), which may be where posterior is
};

// What a block of bound_forward has in shared memory.
template <class Acc>
struct ForwardTile {
  static constexpr int pixels_at = 0, means_at = kChannels * kPitch * static_cast<int>(sizeof(Acc));
  static constexpr int each = kChannels * kClassTile<Acc> * static_cast<int>(sizeof(Acc));
  static constexpr int offsets_at = means_at + 2 * each, bytes = offsets_at + kPixels * 8;

  Pointer<Acc> q, means, spreads;  // (channels, pixels), (channels, classes) twice
  Pointer<i64> offsets;            // of the pixels in features, -1 beyond the last pixel

  __device__ ForwardTile()
      : q(shared<Acc>(pixels_at)), means(shared<Acc>(means_at)), spreads(shared<Acc>(means_at + each)),
        offsets(shared<i64>(offsets_at)) {}
};

// Brings channels [c0, c0 + width) of the block's pixels and of classes [k0, k0 + tile) to shared memory, with 0 beyond
// the last pixel.
template <class T, bool kCovariance>
__device__ __forceinline__ void stage_step(
    const Bound<T>& in, const ForwardTile<Accumulate<T>>& tile, int c0, int width, int k0) {
  using Acc = Accumulate<T>;
  constexpr int classes = kClassTile<Acc>;
  stage_pixels<kThreads, kChannels, kPixels, kPitch, T, Acc>(
      in.features, in.channel_stride, tile.offsets, c0, width, tile.q);
  for (int i = threadIdx.x; i < width * classes; i += kThreads) {
    const i64 from = static_cast<i64>(c0 + i / classes) * in.padded + k0 + i % classes;
    tile.means[i] = in.means[from];
    if (kCovariance) tile.spreads[i] = in.spreads[from];
  }
}

// The sums of a thread's pixels: q.M_k, q^2.S_k and |q|^2.
template <class Acc>
struct Products {
  Acc one[kOwn][kClassTile<Acc>], two[kOwn][kClassTile<Acc>], squares[kOwn];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      squares[i] = 0;
#pragma unroll
      for (int k = 0; k < kClassTile<Acc>; ++k) one[i][k] = two[i][k] = 0;
    }
  }

  template <bool kCovariance>
  __device__ __forceinline__ void add(const ForwardTile<Acc>& tile, int width) {
    constexpr int classes = kClassTile<Acc>;
#pragma unroll 1
    for (int c = 0; c < width; ++c) {
      Acc q[kOwn], square[kOwn];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        q[i] = tile.q[c * kPitch + threadIdx.x + i * kThreads];
        square[i] = q[i] * q[i];
        squares[i] += square[i];
      }
#pragma unroll
      for (int k = 0; k < classes; k += 4) {
        const Pack<Acc, 4> m = load_pack<4>(tile.means + (c * classes + k));
        Pack<Acc, 4> s{};
        if constexpr (kCovariance) s = load_pack<4>(tile.spreads + (c * classes + k));
#pragma unroll
        for (int i = 0; i < kOwn; ++i)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            one[i][k + j] += q[i] * m.at[j];
            if constexpr (kCovariance) two[i][k + j] += square[i] * s.at[j];
          }
      }
    }
  }
};

// One pixel's softmax over tiles of classes.
template <class Acc>
struct Softmax {
  Acc largest, total, own;

  // Turns the products of classes [k0, ...) into logits, in place of `one`, and adds them.
  __device__ __forceinline__ void add(
      Acc (&one)[kClassTile<Acc>], const Acc (&two)[kClassTile<Acc>], Acc inverse, int label, int k0, int classes) {
    Acc next = largest;
#pragma unroll
    for (int k = 0; k < kClassTile<Acc>; ++k) {
      if (k0 + k >= classes) break;
      const Acc first = one[k] * inverse;
      if (k0 + k == label) own = first;
      one[k] = first + two[k] * inverse * inverse;
      next = one[k] > next ? one[k] : next;
    }
    total *= exponential(largest - next);
    largest = next;
#pragma unroll
    for (int k = 0; k < kClassTile<Acc>; ++k)
      if (k0 + k < classes) total += exponential(one[k] - largest);
  }
};

// The loss and the posterior of a pixel, from the logits of its one tile of classes, or from those in f.posterior.
template <class T>
__device__ __forceinline__ void write_softmax(
    const Forward<T>& f, i64 pixel, int label, const Softmax<Accumulate<T>>& soft,
    const Accumulate<T> (&logits)[kClassTile<Accumulate<T>>]) {
  using Acc = Accumulate<T>;
  constexpr int tile_classes = kClassTile<Acc>;
  const int classes = f.in.labels.classes;
  // The largest logit is subtracted first: what is left is exact where it matters.
  const Acc largest = soft.largest, share = 1 / soft.total;
  f.loss[pixel] = label < 0 ? Acc(0) : (largest - soft.own) + logarithm(soft.total);
  const Pointer<Acc> posterior = f.posterior + pixel * classes;
  if (classes <= tile_classes) {
#pragma unroll
    for (int k = 0; k < tile_classes; ++k)
      if (k < classes) posterior[k] = exponential(logits[k] - largest) * share;
  } else {
    for (int k = 0; k < classes; ++k) posterior[k] = exponential(posterior[k] - largest) * share;
  }
}

template <class T, bool kCovariance>
__global__ void __launch_bounds__(kThreads, sizeof(Accumulate<T>) == 8 ? 4 : 6) bound_forward(Forward<T> f) {
  using Acc = Accumulate<T>;
  constexpr int tile_classes = kClassTile<Acc>;
  const Bound<T>& in = f.in;
  const int classes = in.labels.classes;
  const u32 first = blockIdx.x * kPixels;
  const ForwardTile<Acc> tile;
  for (int p = threadIdx.x; p < kPixels; p += kThreads)
    tile.offsets[p] = first + p < in.pixels ? locate(in.grid, first + p) : -1;

  Softmax<Acc> soft[kOwn];
  Products<Acc> sums;
  int label[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const u32 pixel = first + threadIdx.x + i * kThreads;
    label[i] = pixel < in.pixels ? read_class(in.labels, pixel) : -1;
    soft[i] = {kLowest<Acc>, 0, 0};
  }
#pragma unroll 1
  for (int k0 = 0; k0 < classes; k0 += tile_classes) {
    sums.clear();
#pragma unroll 1
    for (int c0 = 0; c0 < in.channels; c0 += kChannels) {
      const int width = in.channels - c0 < kChannels ? in.channels - c0 : kChannels;
      __syncthreads();  // offsets are there; the step before is used up
      stage_step<T, kCovariance>(in, tile, c0, width, k0);
      __syncthreads();
      sums.template add<kCovariance>(tile, width);
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const Acc inverse = in.normalize ? inverse_length(sums.squares[i]) : Acc(1);
      const i64 pixel = first + threadIdx.x + i * kThreads;
      if (f.quadratic && pixel < in.pixels) {
#pragma unroll
        for (int k = 0; k < tile_classes; ++k)
          if (k0 + k < classes) sums.two[i][k] += f.quadratic[pixel * classes + k0 + k];
      }
      soft[i].add(sums.one[i], sums.two[i], inverse, label[i], k0, classes);
      if (classes <= tile_classes || pixel >= in.pixels) continue;
      for (int k = 0; k < tile_classes; ++k)  // logits, until the sum over all classes is known
        if (k0 + k < classes) f.posterior[pixel * classes + k0 + k] = sums.one[i][k];
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const i64 pixel = first + threadIdx.x + i * kThreads;
    if (pixel < in.pixels) write_softmax(f, pixel, label[i], soft[i], sums.one[i]);
  }
}

}  // namespace fastuda::cuda
