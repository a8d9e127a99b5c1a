// The mode losses, backward: slopes of features and of modes. A block owns a slice of channels, a run of pixels and a
// tile of modes, whose slope it sums over its pixels; those of the first tile walk over all modes and write the
// features' slope.
#pragma once

#include "cuda/mode_losses_forward_kernel.h"

namespace fastuda::cuda {

// Channels and modes of a block; it takes half as many pixels at a time, and a thread owns 4 x 4 or 2 x 4 results.
template <class Acc>
constexpr int kModeEdge = sizeof(Acc) == 8 ? 32 : 64;
template <class Acc>
constexpr int kModeSlopeThreads = kModeEdge<Acc> * kModeEdge<Acc> / 16;

template <class T>
struct ModeBackward {
  Pointer<const T> features;
  PixelGrid grid;
  i64 channel_stride;
  Labels labels;
  Modes modes;
  u32 pixels, run;  // run: pixels of a block
  int channels, slices, tiles, runs;
  Pointer<const Accumulate<T>> grad_triplet, grad_cross_entropy;
  PixelGrid triplet_grid, cross_entropy_grid;
  Pointer<const Accumulate<T>> triplet, weight;  // of forward
  Pointer<const i64> rival;
  Pointer<const u8> nearest;
  Pointer<T> slope;
  PixelGrid slope_grid;
  i64 slope_channel_stride;
  Pointer<Accumulate<T>> partials;  // (runs, modes, channels)
};

// What a block has in shared memory.
template <class Acc>
struct ModeSlopeTile {
  static constexpr int edge = kModeEdge<Acc>, pixels = edge / 2, pitch = edge + 4;
  static constexpr int size = static_cast<int>(sizeof(Acc)), row = pitch * size;
  static constexpr int spread_at = pixels * row, modes_at = 2 * pixels * row, pixel_at = modes_at + edge * row;
  static constexpr int offsets_at = pixel_at + 2 * pixels * size, own_at = offsets_at + 2 * pixels * 8;
  static constexpr int bytes = own_at + 2 * pixels * 4;

  Pointer<Acc> e, spread, v;        // (pixels, channels), (pixels, modes), (modes, channels)
  Pointer<Acc> hinge, scale;        // of each pixel: incoming gradients, 0 where they count for nothing
  Pointer<i64> offsets, to;         // in features, -1 where ignored; in their slope, -1 beyond the last pixel
  Pointer<int> own, rival;

  __device__ ModeSlopeTile()
      : e(shared<Acc>(0)), spread(shared<Acc>(spread_at)), v(shared<Acc>(modes_at)), hinge(shared<Acc>(pixel_at)),
        scale(shared<Acc>(pixel_at + pixels * size)), offsets(shared<i64>(offsets_at)),
        to(shared<i64>(offsets_at + pixels * 8)), own(shared<int>(own_at)), rival(shared<int>(own_at + pixels * 4)) {}
};

template <class T>
__device__ __forceinline__ void stage_slope_pixels(
    const ModeBackward<T>& b, const ModeSlopeTile<Accumulate<T>>& tile, u32 first, u32 end) {
  using Acc = Accumulate<T>;
  for (int p = threadIdx.x; p < tile.pixels; p += kModeSlopeThreads<Acc>) {
    const u32 pixel = first + p;
    const bool inside = pixel < end;
    const int own = inside ? read_class(b.labels, pixel) : -1;
    tile.own[p] = own;
    tile.rival[p] = own < 0 ? -1 : static_cast<int>(b.rival[pixel]);
    tile.offsets[p] = own < 0 ? -1 : locate(b.grid, pixel);
    tile.to[p] = inside ? locate(b.slope_grid, pixel) : -1;
    const bool hinged = own >= 0 && b.triplet[pixel] > 0;
    tile.hinge[p] = hinged ? b.grad_triplet[locate(b.triplet_grid, pixel)] : Acc(0);
    tile.scale[p] = own < 0 ? Acc(0) : b.grad_cross_entropy[locate(b.cross_entropy_grid, pixel)];
  }
}

template <class T>
__device__ __forceinline__ void stage_slope_features(
    const ModeBackward<T>& b, const ModeSlopeTile<Accumulate<T>>& tile, int c0) {
  using Acc = Accumulate<T>;
  const bool rows = b.channel_stride == 1;
#pragma unroll 4
  for (int i = threadIdx.x; i < tile.pixels * tile.edge; i += kModeSlopeThreads<Acc>) {
    const int c = rows ? i % tile.edge : i / tile.pixels, p = rows ? i / tile.edge : i % tile.pixels;
    const i64 offset = tile.offsets[p];
    const bool counts = offset >= 0 && c0 + c < b.channels;
    tile.e[p * tile.pitch + c] = counts ? widen(b.features[offset + (c0 + c) * b.channel_stride]) : Acc(0);
  }
}

template <class T>
__device__ __forceinline__ void stage_slope_modes(
    const ModeBackward<T>& b, const ModeSlopeTile<Accumulate<T>>& tile, int n0, int c0) {
  using Acc = Accumulate<T>;
  for (int i = threadIdx.x; i < tile.edge * tile.edge; i += kModeSlopeThreads<Acc>) {
    const int c = i % tile.edge, n = i / tile.edge;
    const bool inside = n0 + n < b.modes.count && c0 + c < b.channels;
    tile.v[n * tile.pitch + c] = inside ? static_cast<Acc>(b.modes.at(n0 + n, c0 + c)) : Acc(0);
  }
}

// Twice the slope by D_c at the nearest mode of each class c, 0 at all others.
template <class T>
__device__ __forceinline__ void stage_spread(
    const ModeBackward<T>& b, const ModeSlopeTile<Accumulate<T>>& tile, u32 first, int n0) {
  using Acc = Accumulate<T>;
  for (int i = threadIdx.x; i < tile.pixels * tile.edge; i += kModeSlopeThreads<Acc>) {
    const int p = i / tile.edge, n = n0 + i % tile.edge, own = tile.own[p];
    Acc value = 0;
    if (own >= 0 && n < b.modes.count) {
      const int k = n / b.modes.per_class;
      const i64 at = static_cast<i64>(first + p) * b.labels.classes + k;
      if (b.nearest[at] == n - k * b.modes.per_class) {
        const Acc sign = k == own ? Acc(1) : k == tile.rival[p] ? Acc(-1) : Acc(0);
        value = 2 * (b.weight[at] * tile.scale[p] + sign * tile.hinge[p]);
      }
    }
    tile.spread[p * tile.pitch + i % tile.edge] = value;
  }
}

// sum_n spread_n (e - v_n) as e times the sum of the spread, less the products: of 2 pixels x 4 channels.
template <class Acc>
struct FeatureSlope {
  Acc products[2][4] = {}, sum[2] = {};

  __device__ __forceinline__ void add(const ModeSlopeTile<Acc>& tile, int x, int y) {
#pragma unroll 2
    for (int n = 0; n < tile.edge; ++n) {
      const Pack<Acc, 4> v = load_pack<4>(tile.v + (n * tile.pitch + 4 * x));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Acc s = tile.spread[(y + i * (tile.edge / 4)) * tile.pitch + n];
        sum[i] += s;
#pragma unroll
        for (int j = 0; j < 4; ++j) products[i][j] += s * v.at[j];
      }
    }
  }

  template <class T>
  __device__ __forceinline__ void write(
      const ModeBackward<T>& b, const ModeSlopeTile<Acc>& tile, int c0, int x, int y) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int p = y + i * (tile.edge / 4);
      const i64 to = tile.to[p];
      if (to < 0) continue;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int c = 4 * x + j;
        if (c0 + c >= b.channels) continue;
        T value;
        narrow(tile.e[p * tile.pitch + c] * sum[i] - products[i][j], value);
        b.slope[to + (c0 + c) * b.slope_channel_stride] = value;
      }
    }
  }
};

// sum_p spread_p (v - e_p) of 4 modes x 4 channels; short sums over the pixels at hand lose little to rounding.
template <class Acc>
struct ModeSlope {
  Acc total[4][4] = {};

  __device__ __forceinline__ void add(const ModeSlopeTile<Acc>& tile, int x, int y) {
    Acc products[4][4] = {}, sum[4] = {};
#pragma unroll 1
    for (int p = 0; p < tile.pixels; ++p) {
      const Pack<Acc, 4> s = load_pack<4>(tile.spread + (p * tile.pitch + 4 * y));
      const Pack<Acc, 4> e = load_pack<4>(tile.e + (p * tile.pitch + 4 * x));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum[i] += s.at[i];
#pragma unroll
        for (int j = 0; j < 4; ++j) products[i][j] += s.at[i] * e.at[j];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const Pack<Acc, 4> v = load_pack<4>(tile.v + ((4 * y + i) * tile.pitch + 4 * x));
#pragma unroll
      for (int j = 0; j < 4; ++j) total[i][j] += v.at[j] * sum[i] - products[i][j];
    }
  }

  template <class T>
  __device__ __forceinline__ void write(const ModeBackward<T>& b, int run, int n0, int c0, int x, int y) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int n = n0 + 4 * y + i, c = c0 + 4 * x + j;
        if (n < b.modes.count && c < b.channels)
          b.partials[(static_cast<i64>(run) * b.modes.count + n) * b.channels + c] = total[i][j];
      }
  }
};

template <class T>
__global__ void __launch_bounds__(kModeSlopeThreads<Accumulate<T>>, 2) mode_backward(ModeBackward<T> b) {
  using Acc = Accumulate<T>;
  const ModeSlopeTile<Acc> tile;
  constexpr int edge = kModeEdge<Acc>, quads = edge / 4, pixels = edge / 2;
  const int t = threadIdx.x, slice = blockIdx.x % b.slices;
  const int of_slice = blockIdx.x / b.slices, run = of_slice % b.runs, mine = of_slice / b.runs;
  const int c0 = slice * edge;
  const u32 begin = run * b.run, end = b.pixels - begin < b.run ? b.pixels : begin + b.run;
  // Neighbouring threads write what lies side by side.
  const bool rows = b.slope_channel_stride == 1;
  const int x = rows ? t % quads : t / quads, y = rows ? t / quads : t % quads;
  ModeSlope<Acc> mode_slope;
#pragma unroll 1
  for (u32 first = begin; first < end; first += pixels) {
    __syncthreads();  // the pixels before are used up
    stage_slope_pixels(b, tile, first, end);
    __syncthreads();
    stage_slope_features(b, tile, c0);
    FeatureSlope<Acc> feature_slope;
#pragma unroll 1
    for (int at = mine == 0 ? 0 : mine; at < (mine == 0 ? b.tiles : mine + 1); ++at) {
      __syncthreads();  // the tile before is used up
      if (first == begin || b.tiles > 1) stage_slope_modes(b, tile, at * edge, c0);
      stage_spread(b, tile, first, at * edge);
      __syncthreads();
      if (mine == 0) feature_slope.add(tile, x, y);
      if (at == mine) mode_slope.add(tile, t % quads, t / quads);
    }
    if (mine == 0) feature_slope.write(b, tile, c0, x, y);
  }
  mode_slope.write(b, run, mine * edge, c0, t % quads, t / quads);
}

template <class Acc>
struct ModeMerge {
  Pointer<const Acc> partials;  // (runs, size)
  Pointer<Acc> slope;           // (size)
  int runs;
  i64 size;
};

constexpr int kModeMergeThreads = 128;

// The sums of all runs in their order, with compensation; 0 without any.
template <class Acc>
__global__ void __launch_bounds__(kModeMergeThreads) mode_merge(ModeMerge<Acc> m) {
  const i64 i = static_cast<i64>(blockIdx.x) * kModeMergeThreads + threadIdx.x;
  if (i >= m.size) return;
  Acc sum = 0, lost = 0;
#pragma unroll 4
  for (int run = 0; run < m.runs; ++run) {
    const Acc term = m.partials[run * m.size + i] - lost, next = sum + term;
    lost = (next - sum) - term;
    sum = next;
  }
  m.slope[i] = sum;
}

}  // namespace fastuda::cuda
