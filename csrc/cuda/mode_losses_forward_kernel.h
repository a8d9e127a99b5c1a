// The mode losses, forward: distances of a block's pixels to a tile of modes, then each pixel's posterior and losses.
#pragma once

#include "cuda/kernel.h"
#include "cuda/pixel_stage.h"

namespace fastuda::cuda {

constexpr int kModePixels = 128, kModeThreads = 128, kModeChannels = 32;  // of a block; of a step
constexpr int kModeOwn = 4, kModePitch = kModePixels + 1;                 // pixels of a thread
constexpr float kFar = 3.4e38f;

template <class Acc>
constexpr int kModeTile = sizeof(Acc) == 8 ? 16 : 64;

// Modes (classes, per_class, channels), float or double, any strides; mode n is the (n % per_class)-th of its class.
struct Modes {
  Pointer<const float> floats;
  Pointer<const double> doubles;
  bool wide;
  i64 class_stride, mode_stride, channel_stride;
  int per_class, count;

  __device__ __forceinline__ double at(int n, int c) const {
    const int k = n / per_class;
    const i64 i = k * class_stride + (n - k * per_class) * mode_stride + c * channel_stride;
    return wide ? doubles[i] : static_cast<double>(floats[i]);
  }
};

template <class T>
struct ModeForward {
  Pointer<const T> features;
  PixelGrid grid;
  i64 channel_stride;
  Labels labels;
  Modes modes;
  u32 pixels;
  int channels;
  bool square;
  Accumulate<T> twice_sigma2, margin;
  Pointer<Accumulate<T>> triplet, cross_entropy, weight;  // (pixels) twice, (pixels, classes)
  Pointer<i64> own_mode, rival;                           // (pixels), -1 where there is none
  Pointer<u8> nearest;                                    // (pixels, classes)
};

// What a block has in shared memory; `distances` lies over what is staged.
template <class Acc>
struct ModeTile {
  static constexpr int modes = kModeTile<Acc>, own = modes / (kModeThreads / kWarp);
  static constexpr int pitch = modes + 4;
  static constexpr int size = static_cast<int>(sizeof(Acc));
  static constexpr int modes_at = (kModeChannels * kModePitch * size + 15) / 16 * 16;
  static constexpr int staged = modes_at + kModeChannels * pitch * size;
  static constexpr int distance_bytes = modes * kModePitch * size;
  static constexpr int nearest_at = (staged > distance_bytes ? staged : distance_bytes) / 16 * 16 + 16;
  static constexpr int nearest_pitch = modes + 2;
  static constexpr int offsets_at = (nearest_at + nearest_pitch * kModePixels + 7) / 8 * 8;
  static constexpr int bytes = offsets_at + kModePixels * 8;

  Pointer<Acc> e, v, distances;  // (channels, pixels), (channels, modes), (modes, pixels)
  Pointer<u8> nearest;           // (pixels, nearest_pitch)
  Pointer<i64> offsets;          // of the pixels in features, -1 beyond the last pixel

  __device__ ModeTile()
      : e(shared<Acc>(0)), v(shared<Acc>(modes_at)), distances(shared<Acc>(0)), nearest(shared<u8>(nearest_at)),
        offsets(shared<i64>(offsets_at)) {}
};

// Channels [c0, c0 + width) of the block's pixels and of modes [n0, n0 + tile), 0 beyond the last ones.
template <class T>
__device__ __forceinline__ void stage_modes_step(
    const ModeForward<T>& f, const ModeTile<Accumulate<T>>& tile, int c0, int width, int n0) {
  using Acc = Accumulate<T>;
  constexpr int modes = kModeTile<Acc>, pitch = ModeTile<Acc>::pitch;
  stage_pixels<kModeThreads, kModeChannels, kModePixels, kModePitch, T, Acc>(
      f.features, f.channel_stride, tile.offsets, c0, width, tile.e);
  for (int i = threadIdx.x; i < kModeChannels * modes; i += kModeThreads) {
    const int c = i % kModeChannels, n = i / kModeChannels;
    if (c >= width) continue;
    tile.v[c * pitch + n] = n0 + n < f.modes.count ? static_cast<Acc>(f.modes.at(n0 + n, c0 + c)) : Acc(0);
  }
}

// |e - v|^2 of a thread's pixels (lane, lane + 32, ...) and modes (those of its warp), by differences: nothing cancels,
// and equal modes have equal distances.
template <class Acc>
struct Distances {
  static constexpr int modes = ModeTile<Acc>::own;
  Acc at[kModeOwn][modes];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kModeOwn; ++i)
#pragma unroll
      for (int j = 0; j < modes; ++j) at[i][j] = 0;
  }

  __device__ __forceinline__ void add(const ModeTile<Acc>& tile, int width) {
    const int lane = threadIdx.x % kWarp, first = threadIdx.x / kWarp * modes;
#pragma unroll 1
    for (int c = 0; c < width; ++c) {
      Acc e[kModeOwn];
#pragma unroll
      for (int i = 0; i < kModeOwn; ++i) e[i] = tile.e[c * kModePitch + lane + i * kWarp];
#pragma unroll
      for (int j = 0; j < modes; j += 4) {
        const Pack<Acc, 4> v = load_pack<4>(tile.v + (c * ModeTile<Acc>::pitch + first + j));
#pragma unroll
        for (int i = 0; i < kModeOwn; ++i)
#pragma unroll
          for (int m = 0; m < 4; ++m) {
            const Acc d = e[i] - v.at[m];
            at[i][j + m] += d * d;
          }
      }
    }
  }

  __device__ __forceinline__ void store(const ModeTile<Acc>& tile) const {
    const int lane = threadIdx.x % kWarp, first = threadIdx.x / kWarp * modes;
#pragma unroll
    for (int j = 0; j < modes; ++j)
#pragma unroll
      for (int i = 0; i < kModeOwn; ++i) tile.distances[(first + j) * kModePitch + lane + i * kWarp] = at[i][j];
  }
};

// Where a pixel's classes are kept: in shared memory, if one tile has all modes, or in the results.
template <class Acc>
struct ClassColumn {
  Pointer<Acc> distance;
  Pointer<u8> nearest;
  int distance_step;
};

// One pixel's walk over all modes in their order: ties go to the first.
template <class Acc>
struct PixelPosterior {
  Acc best = kFar, mine = 0, other = kFar, largest = -kFar, total = 0, own_logit = 0;
  int k = 0, m = 0, which = 0, rival = -1;

  __device__ __forceinline__ Acc logit(Acc distance, bool square, Acc twice_sigma2) const {
    return -(square ? distance * distance : distance) / twice_sigma2;
  }

  template <class T>
  __device__ __forceinline__ void add(
      const ModeForward<T>& f, Acc distance, int label, const ClassColumn<Acc>& column) {
    if (m == 0 || distance < best) {
      best = distance;
      which = m;
    }
    if (++m < f.modes.per_class) return;
    column.distance[static_cast<i64>(k) * column.distance_step] = best;
    column.nearest[k] = static_cast<u8>(which);
    const Acc value = logit(best, f.square, f.twice_sigma2), next = value > largest || k == 0 ? value : largest;
    total = (k == 0 ? Acc(0) : total * exponential(largest - next)) + exponential(value - next);
    largest = next;
    if (k == label) {
      mine = best;
      own_logit = value;
    } else if (rival < 0 || best < other) {
      other = best;
      rival = k;
    }
    m = which = 0;
    ++k;
  }

  // Turns the distances into slopes of the cross entropy by them, in place.
  template <class T>
  __device__ __forceinline__ void finish(
      const ModeForward<T>& f, i64 pixel, int label, const ClassColumn<Acc>& column) const {
    const bool valid = label >= 0;
    const Acc hinge = mine - other + f.margin;
    f.triplet[pixel] = valid && rival >= 0 && hinge > 0 ? hinge : Acc(0);
    f.cross_entropy[pixel] = valid ? (largest - own_logit) + logarithm(total) : Acc(0);
    f.own_mode[pixel] = valid ? static_cast<int>(column.nearest[label]) : -1;
    f.rival[pixel] = valid ? rival : -1;
    const Acc share = 1 / total;
    for (int c = 0; c < k; ++c) {
      const Pointer<Acc> at = column.distance + static_cast<i64>(c) * column.distance_step;
      const Acc distance = *at;
      const Acc posterior = exponential(logit(distance, f.square, f.twice_sigma2) - largest) * share;
      Acc slope = ((c == label ? Acc(1) : Acc(0)) - posterior) / f.twice_sigma2;
      if (f.square) slope *= 2 * distance;
      *at = valid ? slope : Acc(0);
      if (!valid) column.nearest[c] = 0;
    }
  }
};

template <class T>
__global__ void __launch_bounds__(kModeThreads, 3) mode_forward(ModeForward<T> f) {
  using Acc = Accumulate<T>;
  constexpr int modes = kModeTile<Acc>;
  const ModeTile<Acc> tile;
  const int t = threadIdx.x, classes = f.labels.classes;
  const u32 first = blockIdx.x * kModePixels, pixel = first + t;
  const bool inside = pixel < f.pixels, one_tile = f.modes.count <= modes;
  tile.offsets[t] = inside ? locate(f.grid, pixel) : -1;
  const int label = inside ? read_class(f.labels, pixel) : -1;
  const ClassColumn<Acc> column = one_tile
      ? ClassColumn<Acc>{tile.distances + t, tile.nearest + t * tile.nearest_pitch, kModePitch}
      : ClassColumn<Acc>{f.weight + i64(pixel) * classes, f.nearest + i64(pixel) * classes, 1};
  PixelPosterior<Acc> posterior;
#pragma unroll 1
  for (int n0 = 0; n0 < f.modes.count; n0 += modes) {
    Distances<Acc> sums;
    sums.clear();
#pragma unroll 1
    for (int c0 = 0; c0 < f.channels; c0 += kModeChannels) {
      const int width = f.channels - c0 < kModeChannels ? f.channels - c0 : kModeChannels;
      __syncthreads();  // offsets are there; the step or the distances before are used up
      stage_modes_step(f, tile, c0, width, n0);
      __syncthreads();
      sums.add(tile, width);
    }
    __syncthreads();  // what is staged is used up
    sums.store(tile);
    __syncthreads();
    const int count = f.modes.count - n0 < modes ? f.modes.count - n0 : modes;
    if (inside)
      for (int n = 0; n < count; ++n) posterior.add(f, tile.distances[n * kModePitch + t], label, column);
  }
  if (inside) posterior.finish(f, pixel, label, column);
  if (!one_tile) return;
  __syncthreads();
  const int rest = static_cast<int>(f.pixels - first < kModePixels ? f.pixels - first : kModePixels);
  for (int i = t; i < rest * classes; i += kModeThreads) {
    const int p = i / classes, k = i - p * classes;
    const i64 to = static_cast<i64>(first) * classes + i;
    f.weight[to] = tile.distances[k * kModePitch + p];
    f.nearest[to] = tile.nearest[p * tile.nearest_pitch + k];
  }
}

}  // namespace fastuda::cuda
