// A pass over the pixels of upsampled scores (N, K, h, w), cell by cell, that also takes a gradient back to the nodes.
//
// The low-resolution scores are the nodes, and the output pixels between the same four nodes are a cell. A block walks
// a row of `tile` cells, or a part of its rows; a thread owns a column of pixels in it, 8 rows at a time. For each
// class it lerps the four nodes along once, into one value above its pixels and their step down to the one below; a
// pixel is then one multiply-add. Classes are the outer loop, so that nothing held depends on how many there are; what
// is held of a pixel (the largest score, the sum of exponentials) lies in registers.
//
// A gradient of the pixels goes back as two moments a class: its sum over the rows and its sum by the rows' weights.
// For 8 classes at a time they are laid in shared memory, where each node of the tile gathers its columns. The block
// writes these sums, two rows of nodes with one column more than it has cells; a second launch gathers the up to four
// (times parts) sums of each node. No atomics: the same bits for every launch. Untuned, as no GPU was at hand: threads,
// rows, classes at a time.
#pragma once

#include "cuda/upsample.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#endif

namespace fastuda::cuda {

constexpr int kCellThreads = 128, kCellRows = 8, kCellGroup = 8;  // rows of a thread and classes at a time
constexpr int kCellPitch = kCellThreads + kCellThreads / 8;        // skewed: nodes 8 columns apart do not collide
constexpr int kCellPartRows = 16;                                  // about as many rows of a cell as a block walks
template <class Acc>
constexpr int kCellBlocks = sizeof(Acc) == 8 ? 2 : 4;  // of a multiprocessor: what the registers are shared out for

__device__ __forceinline__ float power_of_two(float x) { return exp2f(x); }
__device__ __forceinline__ double power_of_two(double x) { return exp2(x); }

template <class Acc>
constexpr Acc kCellLowest = sizeof(Acc) == 8 ? static_cast<Acc>(-1.7e308) : static_cast<Acc>(-3.4e38);

// The first position whose lower source position is `cell` or more.
__host__ __device__ __forceinline__ int first_in_cell(const Axis& axis, int cell) {
  const u32 size = static_cast<u32>(axis.size), source = static_cast<u32>(axis.source), c = static_cast<u32>(cell);
  if (cell <= 0 || size == 0) return 0;
  if (c >= source) return axis.size;
  u32 numerator, denominator;
  if (axis.align_corners) {
    numerator = c * (size > 1 ? size - 1 : 1);
    denominator = source - 1;
  } else {
    const u32 edge = size * (2 * c + 1);
    numerator = edge > source ? edge - source : 0;
    denominator = 2 * source;
  }
  const u32 at = numerator ? (numerator - 1) / denominator + 1 : 0;
  return static_cast<int>(at < size ? at : size);
}

// How an upsampling is cut: blocks of (image, row of cells, part of its rows, tile of cells).
struct Cells {
  Axis down, along;
  int images, classes, tile, tiles, parts;

  __host__ __device__ int nodes() const { return tile + 1; }
  __host__ __device__ i64 pitch() const { return static_cast<i64>(tiles) * nodes(); }
  __host__ __device__ i64 blocks() const { return static_cast<i64>(images) * down.source * parts * tiles; }
  // Elements of the sums of all blocks: (blocks but tiles, 2, classes, tiles, nodes).
  __host__ __device__ i64 partials() const {
    return static_cast<i64>(images) * down.source * parts * 2 * classes * pitch();
  }
};

// What a block has in shared memory.
template <class Acc>
struct CellShared {
  static constexpr int size = static_cast<int>(sizeof(Acc));
  static constexpr int along_at = kCellRows * size, first_at = along_at + kCellThreads * size;
  static constexpr int table_at = first_at + (kCellThreads + 2 + 2) / 4 * 4 * 4;
  static constexpr int own_at = table_at + 2 * kCellGroup * kCellPitch * size;  // the operator's own
};

// Sum of a value over the block, for all. room: 8 bytes a warp of shared memory that nobody else uses meanwhile.
template <int kThreads>
__device__ __forceinline__ double block_sum(const Pointer<double>& room, double value) {
#pragma unroll
  for (int flip = kWarp / 2; flip > 0; flip /= 2) value += __shfl_xor_sync(kFullWarp, value, flip);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) room[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) value += room[w];
  return value;
}

template <class T>
class CellBlock {
  using Acc = Accumulate<T>;
  using At = CellShared<Acc>;
  const Cells& c_;
  const Scores<T>& s_;
  i64 corner_, right_, below_;
  Acc along_, unit_;
  int first_cell_, part_;

 public:
  int image, cell_row, tile;
  int row_begin, row_end, column_begin, column_end;  // of the block
  int row, column;                                   // of the thread, the first of its rows
  bool inside;
  Acc weight[kCellRows];  // of the node below, of each row

  // The number of the block, and what scores are multiplied with.
  __device__ __forceinline__ CellBlock(const Cells& c, const Scores<T>& s, u32 at, Acc unit)
      : c_(c), s_(s), unit_(unit) {
    tile = static_cast<int>(at % c.tiles);
    at /= c.tiles;
    part_ = static_cast<int>(at % c.parts);
    at /= c.parts;
    cell_row = static_cast<int>(at % c.down.source);
    image = static_cast<int>(at / c.down.source);
    first_cell_ = tile * c.tile;
    const int begin = first_in_cell(c.down, cell_row), end = first_in_cell(c.down, cell_row + 1);
    const int rows = ceil_div(end - begin, c.parts);
    row_begin = begin + part_ * rows < end ? begin + part_ * rows : end;
    row_end = row_begin + rows < end ? row_begin + rows : end;
    column_begin = first_in_cell(c.along, first_cell_);
    column_end = first_in_cell(c.along, first_cell_ + c.tile);
    const Pointer<int> first = shared<int>(At::first_at);
    for (int i = threadIdx.x; i <= c.tile; i += kCellThreads) first[i] = first_in_cell(c.along, first_cell_ + i);
  }

  // How often `place` is to be called, at least once so that the sums of the nodes are written.
  __device__ __forceinline__ int row_chunks() const {
    return row_end > row_begin ? ceil_div(row_end - row_begin, kCellRows) : 1;
  }
  __device__ __forceinline__ int column_chunks() const {
    return column_end > column_begin ? ceil_div(column_end - column_begin, kCellThreads) : 1;
  }

  // Takes up a chunk of columns and one of rows. All threads of the block.
  __device__ __forceinline__ void place(int columns, int rows) {
    const Pointer<Acc> down = shared<Acc>(0), along = shared<Acc>(At::along_at);
    const int t = threadIdx.x;
    row = row_begin + rows * kCellRows;
    column = column_begin + columns * kCellThreads + t;
    inside = column < column_end;
    const Tap<Acc> x = tap<Acc>(c_.along, inside ? column : 0);
    const int left = inside ? x.lower : 0, top = cell_row, bottom = top + 1 < s_.height ? top + 1 : top;
    along_ = x.upper > x.lower ? x.weight : Acc(0);
    right_ = inside ? (x.upper - x.lower) * s_.column_stride : 0;
    below_ = (bottom - top) * s_.row_stride;
    corner_ = image * s_.image_stride + top * s_.row_stride + left * s_.column_stride;
    __syncthreads();  // the chunk before has been read
    along[t] = along_;
    if (t < kCellRows) {
      const int y = row + t;
      down[t] = y < row_end && bottom > top ? tap<Acc>(c_.down, y).weight : Acc(0);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kCellRows; ++r) weight[r] = down[r];
  }

  // The score of class k of row r is a + weight[r] * d.
  __device__ __forceinline__ void ends(int k, Acc& a, Acc& d) const {
    const i64 at = corner_ + k * s_.class_stride;
    const Acc top_left = value(s_, at), top_right = value(s_, at + right_);
    const Acc bottom_left = value(s_, at + below_), bottom_right = value(s_, at + below_ + right_);
    const Acc top = top_left + along_ * (top_right - top_left);
    const Acc bottom = bottom_left + along_ * (bottom_right - bottom_left);
    a = top * unit_;
    d = (bottom - top) * unit_;
  }

  // Largest score of each pixel, and the sum of 2^(score - largest).
  __device__ __forceinline__ void softmax(Acc (&most)[kCellRows], Acc (&sum)[kCellRows]) const {
    Acc a, d;
#pragma unroll
    for (int r = 0; r < kCellRows; ++r) {
      most[r] = kCellLowest<Acc>;
      sum[r] = 0;
    }
    for (int k = 0; k < c_.classes; ++k) {
      ends(k, a, d);
#pragma unroll
      for (int r = 0; r < kCellRows; ++r) {
        const Acc z = a + weight[r] * d;
        most[r] = z > most[r] ? z : most[r];
      }
    }
    for (int k = 0; k < c_.classes; ++k) {
      ends(k, a, d);
#pragma unroll
      for (int r = 0; r < kCellRows; ++r) sum[r] += power_of_two(a + weight[r] * d - most[r]);
    }
  }

  // This thread's moments of class k, the i-th of its group.
  __device__ __forceinline__ void keep(int i, Acc sum, Acc weighted) const {
    const Pointer<Acc> to = shared<Acc>(At::table_at) + (2 * i * kCellPitch + skewed(threadIdx.x));
    to[0] = sum - weighted;
    to[kCellPitch] = weighted;
  }

  // The sums of the tile's nodes, of `count` classes from `group` on; of the first chunk or added to those before.
  __device__ __forceinline__ void gather(
      const Pointer<Acc>& partials, int group, int count, int columns, bool first_chunk) const {
    const Pointer<Acc> table = shared<Acc>(At::table_at), along = shared<Acc>(At::along_at);
    const Pointer<int> first = shared<int>(At::first_at);
    const int nodes = c_.nodes(), chunk_begin = column_begin + columns * kCellThreads;
    const int chunk_end = column_end - chunk_begin < kCellThreads ? column_end : chunk_begin + kCellThreads;
    const i64 strip = (static_cast<i64>(image) * c_.down.source + cell_row) * c_.parts + part_;
    __syncthreads();
    for (int item = threadIdx.x; item < 2 * count * nodes; item += kCellThreads) {
      const int which = item / nodes, node = item - which * nodes;  // (class, moment)
      const Pointer<Acc> from = table + which * kCellPitch;
      const auto clipped = [&](int x) {
        return (x < chunk_begin ? chunk_begin : x > chunk_end ? chunk_end : x) - chunk_begin;
      };
      const int before = clipped(node > 0 ? static_cast<int>(first[node - 1]) : 0);
      const int begin = clipped(first[node]), end = node < c_.tile ? clipped(first[node + 1]) : begin;
      Acc sum = 0;
      if (node > 0)
        for (int x = before; x < begin; ++x) sum += from[skewed(x)] * along[x];
      for (int x = begin; x < end; ++x) sum += from[skewed(x)] * (1 - along[x]);
      const i64 row_of = (strip * 2 + which % 2) * c_.classes + group + which / 2;
      const i64 at = row_of * c_.pitch() + tile * nodes + node;
      partials[at] = first_chunk ? sum : partials[at] + sum;
    }
    __syncthreads();
  }

  // Brings a gradient of classes [begin, end) to the nodes. slope(k, r, z, part) sets the gradient of row r by its score
  // z of class k, and returns false where there is none; finish(k, sum, weighted) completes the thread's moments of k.
  template <class Slope, class Finish>
  __device__ __forceinline__ void bring(
      const Pointer<Acc>& partials, int begin, int end, int columns, bool first_chunk, const Slope& slope,
      const Finish& finish) const {
    for (int group = begin; group < end; group += kCellGroup) {
      const int count = end - group < kCellGroup ? end - group : kCellGroup;
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        Acc a, d, sum = 0, weighted = 0;
        ends(group + i, a, d);
#pragma unroll
        for (int r = 0; r < kCellRows; ++r) {
          Acc part;
          if (!slope(group + i, r, a + weight[r] * d, part)) continue;
          sum += part;
          weighted += part * weight[r];
        }
        finish(group + i, sum, weighted);
        keep(i, sum, weighted);
      }
      gather(partials, group, count, columns, first_chunk);
    }
  }

 private:
  static __device__ __forceinline__ int skewed(int column) { return column + column / 8; }
};

constexpr int kTotalThreads = 512;

// Sums of what blocks have summed, (results, blocks): a block a result, in an order of its own.
template <class Acc>
__global__ void __launch_bounds__(kTotalThreads) cell_totals(Pointer<double> sums, i64 blocks, Pointer<Acc> total) {
  const Pointer<double> from = sums + blockIdx.x * blocks;
  double sum = 0;
#pragma unroll 4
  for (i64 i = threadIdx.x; i < blocks; i += kTotalThreads) sum += from[i];
  sum = block_sum<kTotalThreads>(shared<double>(0), sum);
  if (threadIdx.x == 0) total[blockIdx.x] = static_cast<Acc>(sum);
}

template <class Acc>
struct NodeGather {
  Cells cells;
  Pointer<Acc> partials, slope;  // slope: (N, K, h, w), contiguous
  i64 size;
};

// A thread a node and class.
template <class Acc>
__global__ void __launch_bounds__(kCellThreads) gather_nodes(NodeGather<Acc> g) {
  const i64 at = static_cast<i64>(blockIdx.x) * kCellThreads + threadIdx.x;
  if (at >= g.size) return;
  const Cells& c = g.cells;
  const i64 line = at / c.along.source;
  const int x = static_cast<int>(at - line * c.along.source), tile = x / c.tile, node = x - tile * c.tile;
  const i64 plane = line / c.down.source;
  const int y = static_cast<int>(line - plane * c.down.source);
  const i64 image = plane / c.classes;
  const int k = static_cast<int>(plane - image * c.classes);
  Acc sum = 0;
  for (int moment = 0; moment < 2 && moment <= y; ++moment) {
    const i64 strips = (image * c.down.source + y - moment) * c.parts;
    for (int part = 0; part < c.parts; ++part) {
      const i64 row = ((strips + part) * 2 + moment) * c.classes + k;
      const i64 from = row * c.pitch() + tile * c.nodes() + node;
      sum += g.partials[from];
      if (node == 0 && tile > 0) sum += g.partials[from - 1];  // the last node of the tile before
    }
  }
  g.slope[at] = sum;
}

#define FASTUDA_CELLS(Acc)                                              \
  template __global__ void gather_nodes<Acc>(NodeGather<Acc>);          \
  template __global__ void cell_totals<Acc>(Pointer<double>, i64, Pointer<Acc>);
FASTUDA_CELLS(float)
FASTUDA_CELLS(double)

#if !defined(FASTUDA_KERNELS_ONLY)

template <class Acc>
void run_totals(const Pointer<double>& sums, i64 blocks, int results, const Buffer& total, Stream stream) {
  const int room = kTotalThreads / kWarp * static_cast<int>(sizeof(double));
  launch(cell_totals<Acc>, dim3(results), dim3(kTotalThreads), room, stream, sums, blocks, global<Acc>(total));
}

inline Cells cut_cells(const Axis& down, const Axis& along, int images, int classes) {
  Cells c{down, along, images, classes, 1, 1, 1};
  // A tile's columns are about those of a block: a cell and a half fewer, as the outer cells may be longer.
  const i64 size = std::max(1, along.size), source = along.source;
  const i64 columns = kCellThreads - 1 - ceil_div<i64>(size, 2 * source);
  c.tile = static_cast<int>(std::clamp<i64>(columns * source / size, 1, std::min<i64>(source, kCellThreads)));
  c.tiles = ceil_div(along.source, c.tile);
  c.parts = static_cast<int>(std::max<i64>(1, static_cast<i64>(down.size) / down.source / kCellPartRows));
  return c;
}

template <class Acc>
void run_gather(const Cells& c, const Pointer<Acc>& partials, const Buffer& slope, Stream stream) {
  const i64 size = static_cast<i64>(c.images) * c.classes * c.down.source * c.along.source;
  if (size == 0) return;
  const NodeGather<Acc> g{c, partials, global<Acc>(slope), size};
  const dim3 grid(static_cast<u32>(ceil_div<i64>(size, kCellThreads)));
  launch(gather_nodes<Acc>, grid, dim3(kCellThreads), 0, stream, g);
}

#endif
}  // namespace fastuda::cuda
