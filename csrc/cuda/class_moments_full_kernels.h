// The kernels of class_moments_full.cu, whose head describes them.
#pragma once

#include "cuda/outer_tile.h"

namespace fastuda::cuda {

constexpr int kPivotRows = 16, kPivotThreads = 128;
constexpr int kMergeSide = 32, kMergeRows = 8;

// What the kernels share. Squares are numbered: those on the diagonal first, then those below it row by row.
template <class T>
struct FullMoments {
  using Acc = Accumulate<T>;
  Pointer<const T> features;
  i64 channel_stride;
  bool read4;                       // four channels of a pixel are one aligned access
  int channels, classes, panel_rows;
  Pointer<const i64> order;         // addresses of the pixels' features, class after class
  Pointer<const int> starts, panels;  // (classes + 1): first pixel and first panel of each class
  int squares, first, group;        // along the diagonal; first of this launch, how many
  Pointer<Acc> pivots;              // (classes, channels)
  Pointer<Acc> partials;            // (panels, group, width, width): sums of products
  Pointer<Acc> sums, totals;        // (panels, channels), (classes, channels): sums, both less the pivots
  Pointer<Acc> mean, m2;            // (classes, channels), (classes, channels, channels)
};

struct Square {
  int row, column;
};

__device__ __forceinline__ Square square_of(int number, int squares) {
  if (number < squares) return {number, number};
  int row = 1, column = number - squares;
  while (column >= row) column -= row++;
  return {row, column};
}

// A sum with its rounding errors.
template <class Acc>
struct Compensated {
  Acc value = 0, lost = 0;

  __device__ __forceinline__ void add(Acc x) {
    const Acc next = value + x, part = next - value;
    lost += (value - (next - part)) + (x - part);
    value = next;
  }
  __device__ __forceinline__ Acc total() const { return value + lost; }
};

// The mean of a class's first pixels, near which nothing large cancels; a class of one pixel is exact.
template <class T>
__global__ void __launch_bounds__(kPivotThreads) full_pivots(FullMoments<T> f) {
  using Acc = Accumulate<T>;
  const int blocks = ceil_div(f.channels, kPivotThreads);
  const int k = blockIdx.x / blocks, c = blockIdx.x % blocks * kPivotThreads + threadIdx.x;
  if (c >= f.channels) return;
  const int begin = f.starts[k], all = f.starts[k + 1] - begin, rows = all < kPivotRows ? all : kPivotRows;
  Acc sum = 0;
  for (int row = 0; row < rows; ++row) sum += widen(f.features[f.order[begin + row] + c * f.channel_stride]);
  f.pivots[static_cast<i64>(k) * f.channels + c] = rows ? sum / static_cast<Acc>(rows) : Acc(0);
}

// One operand: a panel's pixels by a square's channels, less the pivots. Neighbouring threads read along channels or
// along pixels, whichever lie side by side.
template <class T, int kEdge>
struct PanelOperand {
  using Acc = Accumulate<T>;
  using Tile = OuterTile<Acc, kEdge>;
  const FullMoments<T>& f;
  Pointer<const i64> order;
  Pointer<Acc> pivots;                       // of the square's channels, 0 beyond the last
  int rows, row, inside, step, channel;  // pixels; the thread's first pixel, place in the square, step and channel
  i64 offset;                            // of the thread's pixel in the next step, -1 beyond the last
  bool live;
  Pack<T, kTileQuad> x;
  Acc sum[kTileQuad] = {};

  __device__ __forceinline__ PanelOperand(
      const FullMoments<T>& all, const Pointer<const i64>& first_pixel, int pixels, int k, int first_channel, int place)
      : f(all), order(first_pixel), pivots(shared<Acc>(Tile::bytes) + place * Tile::width), rows(pixels) {
    const int t = threadIdx.x;
    const bool along = f.channel_stride == 1;
    row = along ? t / Tile::row_threads : t % Tile::depth;
    inside = along ? t % Tile::row_threads * kTileQuad : t / Tile::depth;
    step = along ? 1 : Tile::row_threads;
    channel = first_channel + inside;
    offset = row < rows ? static_cast<i64>(order[row]) : -1;
    for (int c = t; c < Tile::width; c += kTileThreads) {
      const bool within = first_channel + c < f.channels;
      pivots[c] = within ? static_cast<Acc>(f.pivots[static_cast<i64>(k) * f.channels + first_channel + c]) : Acc(0);
    }
  }

  // Loads only: nothing may wait for them before the products of the step at hand. Beyond the last channel it brings
  // anything: sums of those are not used.
  __device__ __forceinline__ void fetch(int at) {
    live = offset >= 0 && channel < f.channels;
    if (live && f.read4) {
      x = load_pack<kTileQuad>(f.features + (offset + channel));
    } else if (live) {
#pragma unroll
      for (int j = 0; j < kTileQuad; ++j) {
        const int c = channel + j * step < f.channels ? channel + j * step : channel;
        x.at[j] = f.features[offset + c * f.channel_stride];
      }
    }
    const int next = (at + 1) * Tile::depth + row;
    offset = next < rows ? static_cast<i64>(order[next]) : -1;
  }

  __device__ __forceinline__ void store(const Pointer<Acc>& to) {
    Pack<Acc, kTileQuad> value;
#pragma unroll
    for (int j = 0; j < kTileQuad; ++j) {
      value.at[j] = live ? widen(x.at[j]) - static_cast<Acc>(pivots[inside + j * step]) : Acc(0);
      sum[j] += value.at[j];
    }
    if (step == 1) {
      store_pack(to + (row * Tile::pitch + inside), value);
      return;
    }
#pragma unroll
    for (int j = 0; j < kTileQuad; ++j) to[row * Tile::pitch + inside + j * step] = value.at[j];
  }

  // Writes the sums over the panel; threads that share a channel are added in their order.
  __device__ __forceinline__ void write_sums(const Pointer<Acc>& to, int first_channel) {
    const Pointer<Acc> all = shared<Acc>(0);
#pragma unroll
    for (int j = 0; j < kTileQuad; ++j) all[row * Tile::pitch + inside + j * step] = sum[j];
    __syncthreads();
    const int c = threadIdx.x;
    if (c >= Tile::width || first_channel + c >= f.channels) return;
    Acc total = 0;
    for (int from = 0; from < Tile::depth; ++from) total += all[from * Tile::pitch + c];
    to[first_channel + c] = total;
  }
};

// One panel and one square a block.
template <class T, int kEdge>
__global__ void __launch_bounds__(kTileThreads, sizeof(Accumulate<T>) == 8 ? 1 : 2) full_products(FullMoments<T> f) {
  using Acc = Accumulate<T>;
  using Tile = OuterTile<Acc, kEdge>;
  const int panel = blockIdx.x / f.group, place = blockIdx.x % f.group;
  if (panel >= f.panels[f.classes]) return;
  int k = 0;  // the last class whose panels begin at this one or before it
  for (int beyond = f.classes; beyond - k > 1;) {
    const int middle = (k + beyond) / 2;
    if (f.panels[middle] <= panel) k = middle;
    else beyond = middle;
  }
  const Square square = square_of(f.first + place, f.squares);
  const bool diagonal = square.row == square.column;
  const int begin = f.starts[k] + (panel - f.panels[k]) * f.panel_rows;
  const int left = f.starts[k + 1] - begin, rows = left < f.panel_rows ? left : f.panel_rows;
  const Pointer<const i64> order = f.order + begin;
  PanelOperand<T, kEdge> a(f, order, rows, k, square.row * Tile::width, 0);
  PanelOperand<T, kEdge> b(f, order, rows, k, square.column * Tile::width, 1);
  __syncthreads();  // the pivots are there
  Tile tile;
  tile.clear();
  tile.multiply(ceil_div(rows, Tile::depth), diagonal, a, b);
  const Pointer<Acc> to =
      f.partials + (static_cast<i64>(panel) * f.group + place) * (Tile::width * Tile::width);
  tile.write(to, Tile::width);
  if (diagonal) a.write_sums(f.sums + static_cast<i64>(panel) * f.channels, square.row * Tile::width);
}

// Sums and means of channels [begin, end), from panels in their order.
template <class T>
__global__ void __launch_bounds__(kPivotThreads) full_means(FullMoments<T> f, int begin, int end) {
  using Acc = Accumulate<T>;
  const int blocks = ceil_div(end - begin, kPivotThreads);
  const int k = blockIdx.x / blocks, c = begin + blockIdx.x % blocks * kPivotThreads + threadIdx.x;
  if (c >= end) return;
  Compensated<Acc> sum;
  for (int panel = f.panels[k]; panel < f.panels[k + 1]; ++panel) sum.add(f.sums[i64(panel) * f.channels + c]);
  const int count = f.starts[k + 1] - f.starts[k];
  const i64 at = static_cast<i64>(k) * f.channels + c;
  f.totals[at] = sum.total();
  f.mean[at] = f.pivots[at] + (count ? sum.total() / static_cast<Acc>(count) : Acc(0));
}

// One class and 32 x 32 elements of a square a block: adds the panels in order, brings them from the pivots to the
// means and writes both triangles. Both are the same bits, as all products are.
template <class T, int kEdge>
__global__ void __launch_bounds__(kMergeSide* kMergeRows) full_merge(FullMoments<T> f) {
  using Acc = Accumulate<T>;
  constexpr int width = OuterTile<Acc, kEdge>::width, parts = width / kMergeSide;
  const int part = blockIdx.x % (parts * parts), place = blockIdx.x / (parts * parts) % f.group;
  const int k = blockIdx.x / (parts * parts) / f.group;
  const Square square = square_of(f.first + place, f.squares);
  const int row0 = part / parts * kMergeSide, column0 = part % parts * kMergeSide;
  const int x = threadIdx.x, column = square.column * width + column0 + x;
  const int count = f.starts[k + 1] - f.starts[k];
  const Acc each = count ? 1 / static_cast<Acc>(count) : Acc(0);
  const Pointer<Acc> turned = shared<Acc>(0), totals = f.totals + static_cast<i64>(k) * f.channels;
  const Pointer<Acc> m2 = f.m2 + static_cast<i64>(k) * f.channels * f.channels;
  for (int y = threadIdx.y; y < kMergeSide; y += kMergeRows) {
    const int row = square.row * width + row0 + y;
    if (row >= f.channels || column >= f.channels) continue;
    Compensated<Acc> sum;
    for (int panel = f.panels[k]; panel < f.panels[k + 1]; ++panel)
      sum.add(f.partials[((static_cast<i64>(panel) * f.group + place) * width + row0 + y) * width + column0 + x]);
    Acc value = sum.total() - static_cast<Acc>(totals[row]) * static_cast<Acc>(totals[column]) * each;
    if (row == column && value < 0) value = 0;
    m2[static_cast<i64>(row) * f.channels + column] = value;
    turned[y * (kMergeSide + 1) + x] = value;
  }
  if (square.row == square.column) return;
  __syncthreads();
  for (int y = threadIdx.y; y < kMergeSide; y += kMergeRows) {
    const int to = square.column * width + column0 + y, from = square.row * width + row0 + x;
    if (to < f.channels && from < f.channels)
      m2[static_cast<i64>(to) * f.channels + from] = turned[x * (kMergeSide + 1) + y];
  }
}

}  // namespace fastuda::cuda
