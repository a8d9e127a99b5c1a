// The kernels of contrastive_bound_full.cu, whose head describes them.
#pragma once

#include "cuda/contrastive_bound_prepare.h"
#include "cuda/outer_tile.h"

namespace fastuda::cuda {

constexpr int kGatherSide = 32, kGatherRows = 8;

// A matrix for each class, float or double, any strides.
struct Matrices {
  Pointer<const float> floats;
  Pointer<const double> doubles;
  bool wide;
  i64 class_stride, row_stride, column_stride;

  template <class Acc>
  __device__ __forceinline__ Acc at(i64 offset) const {
    return wide ? static_cast<Acc>(doubles[offset]) : static_cast<Acc>(floats[offset]);
  }
};

template <class T>
struct Gather {
  Pointer<const T> features;
  PixelGrid grid;
  i64 channel_stride;
  u32 begin, end;  // pixels
  int channels, blocks;  // blocks of 32 pixels
  Pointer<Accumulate<T>> to;  // (channels, pitch): pixels side by side, 0 beyond the last pixel and channel
  i64 pitch;
};

// 32 channels of 32 pixels a block, turned in shared memory where channels lie side by side.
template <class T>
__global__ void __launch_bounds__(kGatherSide* kGatherRows) bound_gather(Gather<T> g) {
  using Acc = Accumulate<T>;
  constexpr int pitch = kGatherSide + 1;
  const Pointer<Acc> tile = shared<Acc>(0);
  const int x = threadIdx.x, pixel0 = blockIdx.x % g.blocks * kGatherSide, c0 = blockIdx.x / g.blocks * kGatherSide;
  const bool rows = g.channel_stride == 1;
  for (int i = threadIdx.y; i < kGatherSide; i += kGatherRows) {
    const int p = rows ? i : x, c = rows ? x : i;
    const u32 pixel = g.begin + pixel0 + p;
    const bool inside = pixel < g.end && c0 + c < g.channels;
    tile[c * pitch + p] = inside ? widen(g.features[locate(g.grid, pixel) + (c0 + c) * g.channel_stride]) : Acc(0);
  }
  __syncthreads();
  for (int i = threadIdx.y; i < kGatherSide; i += kGatherRows)
    g.to[(c0 + i) * g.pitch + pixel0 + x] = tile[i * pitch + x];
}

// What scales the matrices: 1 / (2 tau^2), over their Frobenius norms where asked for.
template <class Acc>
struct Scales {
  Matrices matrices;
  int channels, classes, parts;  // parts: of a matrix, 0 if norms are not wanted
  Acc temperature;
  Pointer<Acc> squares, scales;  // (classes, parts), (classes)
};

// One part of one matrix a block.
template <class Acc>
__global__ void __launch_bounds__(kPrepareThreads) bound_squares(Scales<Acc> s) {
  const int k = blockIdx.x / s.parts, part = blockIdx.x % s.parts;
  Acc sum = 0;
  for (int row = part; row < s.channels; row += s.parts)
    for (int c = threadIdx.x; c < s.channels; c += kPrepareThreads) {
      const Matrices& m = s.matrices;
      const Acc value = m.template at<Acc>(k * m.class_stride + row * m.row_stride + c * m.column_stride);
      sum += value * value;
    }
  const Acc total = sum_over_block(shared<Acc>(0), sum);
  if (threadIdx.x == 0) s.squares[blockIdx.x] = total;
}

template <class Acc>
__global__ void __launch_bounds__(kPrepareThreads) bound_scales(Scales<Acc> s) {
  const int k = blockIdx.x * kPrepareThreads + threadIdx.x;
  if (k >= s.classes) return;
  Acc squares = 0;
  for (int part = 0; part < s.parts; ++part) squares += s.squares[k * s.parts + part];
  s.scales[k] = (s.parts ? inverse_length(squares) : Acc(1)) / (2 * s.temperature * s.temperature);
}

// Products of matrices with pixels: q of one launch and what becomes of it.
template <class Acc>
struct MatrixProduct {
  Matrices matrices;
  int channels, classes;
  int pixels, blocks;           // of the launch; squares beside each other over them
  Pointer<const Acc> q;         // (channels up to whole squares, pitch)
  i64 pitch;
  Pointer<const Acc> scales;    // (classes)
  Pointer<const Acc> posterior; // (pixels, classes), from the launch's first pixel on
  Pointer<Acc> to;
};

// One operand: channels by a square's pixels, times a weight of the pixel and the class if there are weights.
template <class Acc, int kEdge, bool kWeights>
struct PixelOperand {
  using Tile = OuterTile<Acc, kEdge>;
  const MatrixProduct<Acc>& p;
  int pixel, steps, first;  // the thread's first pixel; steps of a class, the channel of the first one
  int row = static_cast<int>(threadIdx.x) / Tile::row_threads, inside = threadIdx.x % Tile::row_threads * kTileQuad;
  bool live;
  Acc weight[kTileQuad];
  Pack<Acc, kTileQuad> value;

  __device__ __forceinline__ PixelOperand(const MatrixProduct<Acc>& all, int pixel0, int class_steps)
      : p(all), steps(class_steps), first(0) {
    pixel = pixel0 + inside;
  }

  __device__ __forceinline__ void fetch(int step) {
    const int k = kWeights ? step / steps : 0, c = first + (step - k * steps) * Tile::depth + row;
    live = c < p.channels;
    if (live) value = load_pack<kTileQuad>(p.q + (c * p.pitch + pixel));
    if constexpr (kWeights) {
      if (step != k * steps) return;
      const Acc scale = p.scales[k];
#pragma unroll
      for (int j = 0; j < kTileQuad; ++j)
        weight[j] = pixel + j < p.pixels ? p.posterior[static_cast<i64>(pixel + j) * p.classes + k] * scale : Acc(0);
    }
  }

  __device__ __forceinline__ void store(const Pointer<Acc>& to) {
    Pack<Acc, kTileQuad> pack{};
#pragma unroll
    for (int j = 0; j < kTileQuad; ++j)
      if (live) pack.at[j] = kWeights ? value.at[j] * weight[j] : value.at[j];
    store_pack(to + (row * Tile::pitch + inside), pack);
  }
};

// The other one: rows of a matrix by a square's columns. A row from `twice` on counts twice.
template <class Acc, int kEdge>
struct MatrixOperand {
  using Tile = OuterTile<Acc, kEdge>;
  const MatrixProduct<Acc>& p;
  int column0, steps, first, k, twice;
  int row = static_cast<int>(threadIdx.x) / Tile::row_threads, inside = threadIdx.x % Tile::row_threads;
  int channel;
  Acc value[kTileQuad];

  __device__ __forceinline__ void fetch(int step) {
    const int beyond = step / steps;
    channel = first + (step - beyond * steps) * Tile::depth + row;
    if (channel >= p.channels) return;
    const Matrices& m = p.matrices;
    const i64 from = (k + beyond) * m.class_stride + channel * m.row_stride;
#pragma unroll
    for (int j = 0; j < kTileQuad; ++j) {
      const int c = column0 + inside + j * Tile::row_threads;
      value[j] = c < p.channels ? m.template at<Acc>(from + c * m.column_stride) : Acc(0);
    }
  }

  __device__ __forceinline__ void store(const Pointer<Acc>& to) {
    const bool live = channel < p.channels;
    const Acc factor = channel >= twice ? Acc(2) : Acc(1);
#pragma unroll
    for (int j = 0; j < kTileQuad; ++j)
      to[row * Tile::pitch + inside + j * Tile::row_threads] = live ? value[j] * factor : Acc(0);
  }
};

// q^T S_k q, one class and one square's pixels a block. The matrix is symmetric: what lies below its diagonal counts
// twice, what lies above is not read.
template <class Acc, int kEdge>
__global__ void __launch_bounds__(kTileThreads, sizeof(Acc) == 8 ? 1 : 2) bound_quadratic(MatrixProduct<Acc> p) {
  using Tile = OuterTile<Acc, kEdge>;
  const int k = blockIdx.x / p.blocks, pixel0 = blockIdx.x % p.blocks * Tile::width;
  const int x = Tile::x(), y = Tile::y();
  PixelOperand<Acc, kEdge, false> b(p, pixel0, 0);
  MatrixOperand<Acc, kEdge> a{p, 0, 0x7fffffff, 0, k, 0};
  Acc part[kEdge] = {};
#pragma unroll 1
  for (int c0 = 0; c0 < p.channels; c0 += Tile::width) {
    a.column0 = a.first = b.first = c0;
    a.twice = c0 + Tile::width;
    Tile tile;
    tile.clear();
    tile.multiply(ceil_div(p.channels - c0, Tile::depth), false, a, b);
#pragma unroll
    for (int i = 0; i < kEdge; ++i)
#pragma unroll
      for (int j = 0; j < kEdge; j += kTileQuad) {
        const Pack<Acc, kTileQuad> q =
            load_pack<kTileQuad>(p.q + ((c0 + Tile::at(y, i)) * p.pitch + pixel0 + Tile::at(x, j)));
#pragma unroll
        for (int v = 0; v < kTileQuad; ++v) part[j + v] += q.at[v] * tile.sum[i][j + v];
      }
  }
  const Pointer<Acc> parts = shared<Acc>(0);
#pragma unroll
  for (int j = 0; j < kEdge; ++j) parts[y * Tile::width + Tile::at(x, j)] = part[j];
  __syncthreads();
  const int t = threadIdx.x;
  if (t >= Tile::width || pixel0 + t >= p.pixels) return;
  Acc sum = 0;
  for (int from = 0; from < kTileSide; ++from) sum += parts[from * Tile::width + t];
  p.to[static_cast<i64>(pixel0 + t) * p.classes + k] = p.scales[k] * sum;
}

// sum_k p_k S_k q as (channels, pitch), one square a block: all classes are added in the same registers.
template <class Acc, int kEdge>
__global__ void __launch_bounds__(kTileThreads, sizeof(Acc) == 8 ? 1 : 2) bound_slope(MatrixProduct<Acc> p) {
  using Tile = OuterTile<Acc, kEdge>;
  const int pixel0 = blockIdx.x % p.blocks * Tile::width, c0 = blockIdx.x / p.blocks * Tile::width;
  const int steps = ceil_div(p.channels, Tile::depth);
  PixelOperand<Acc, kEdge, true> b(p, pixel0, steps);
  MatrixOperand<Acc, kEdge> a{p, c0, steps, 0, 0, 0x7fffffff};
  Tile tile;
  tile.clear();
  tile.multiply(steps * p.classes, false, a, b);
  tile.write(p.to + (c0 * p.pitch + pixel0), p.pitch);
}

}  // namespace fastuda::cuda
