// The exact Lovász-Softmax: the errors of a class are sorted, and each counts for the step of the Jaccard loss there.
//
// A walk over the pixels keeps the softmax of each (its largest score and its scale) and finds the least error of each
// class's own pixels. Errors of other pixels that are smaller have no weight in the loss and are not sorted. Then some
// classes at a time, as many as 2^24 errors allow but at least one:
//
//   a walk writes the error of each pixel and class as a whole number: its distance from the top, so that the largest
//   comes first, in all bits but the lowest, which says whether the pixel is the class's own (lovasz_errors);
//   all classes are sorted at once by the error alone, equal ones in the order of the pixels (radix_sort.h);
//   own pixels are counted by tiles of the order, and a block a tile scans its own for the two numbers that the step
//   depends on, how many own pixels are left and how large the union is (lovasz_own, lovasz_steps);
//   what an error counts for goes back to its pixel, and a walk takes p dL/dp to the nodes and sums it up over the
//   classes of each pixel (lovasz_slopes).
//
// A last walk takes -p times that sum, of all classes. Counts are whole numbers and all other sums have an order of
// their own: the same bits for every launch.
//
// Launches: 3 and 15 a group of classes (double: 27), with a gradient 5 and 16 (28), 4 and 16 of probabilities.
// Scratch: a group's errors take 16.5 bytes each (double: 24.5), a pixel 12 (24; none of probabilities), and a gradient
// what upsample_cells.h says. Untuned, as no GPU was at hand: errors at once, rows of a thread.
#pragma once

#include "cuda/lovasz_softmax_rows.h"
#include "cuda/radix_sort.h"

namespace fastuda::cuda {

// An error as a whole number. Bits of numbers from 0 to infinity are in their order; all that are no number become one.
template <class Acc>
struct ErrorKey {
  using type = u32;
  static constexpr type infinity = 0x7f800000u;
  static constexpr int passes = 4;  // of 8 bits, the last one of 7
};
template <>
struct ErrorKey<double> {
  using type = u64;
  static constexpr type infinity = 0x7ff0000000000000u;
  static constexpr int passes = 8;
};

// Of the error's size: its bits, or those after infinity where it is no number.
template <class Acc>
__device__ __forceinline__ typename ErrorKey<Acc>::type error_bits(Acc error) {
  using Key = typename ErrorKey<Acc>::type;
  const Key bits = bits_of(error) & (~Key(0) >> 1), last = ErrorKey<Acc>::infinity + 1;
  return bits < last ? bits : last;
}

// Never kNoKey: the largest distance is below 2^31 - 1 (2^63 - 1).
template <class Acc>
__device__ __forceinline__ typename ErrorKey<Acc>::type error_key(Acc error, bool own) {
  return (ErrorKey<Acc>::infinity + 1 - error_bits(error)) << 1 | (own ? 1 : 0);
}

template <class Acc>
__device__ __forceinline__ Acc error_of(typename ErrorKey<Acc>::type key) {
  return number_of(static_cast<typename ErrorKey<Acc>::type>(ErrorKey<Acc>::infinity + 1 - (key >> 1)));
}

template <class T>
struct LovaszExact : LovaszPixels<T> {
  using Acc = Accumulate<T>;
  using Key = typename ErrorKey<Acc>::type;
  u32 pixels;
  bool in_shared;             // whether a block counts by itself
  Pointer<int> totals;        // (classes): the class's own pixels
  Pointer<Key> least;         // (classes): bits of their least error
  Pointer<Acc> most, unit;    // (pixels): largest score, scale; null of probabilities
  Pointer<Acc> mean;          // (pixels): sum of p dL/dp over the classes so far; null of probabilities
  int first, count;           // classes of the group
  Pointer<Key> keys;          // (count, pixels)
  Pointer<Acc> toward;        // (count, pixels): dL/dp
  Pointer<Acc> partials;

  __device__ __forceinline__ u32 pixel(const CellBlock<T>& block, int r) const {
    const Cells& c = this->cells;
    return (static_cast<u32>(block.image) * c.down.size + block.row + r) * c.along.size + block.column;
  }
  // The softmax of the rows as the first walk has left it.
  __device__ __forceinline__ void load(const CellBlock<T>& block, LovaszRows<T>& rows) const {
    if (this->probabilities) return;
#pragma unroll
    for (int r = 0; r < kCellRows; ++r) {
      rows.most[r] = rows.label[r] >= 0 ? static_cast<Acc>(most[pixel(block, r)]) : Acc(0);
      rows.unit[r] = rows.label[r] >= 0 ? static_cast<Acc>(unit[pixel(block, r)]) : Acc(0);
    }
  }
};

template <class Key>
__global__ void __launch_bounds__(kScanThreads) lovasz_begin(Pointer<int> totals, Pointer<Key> least, int classes) {
  const int k = blockIdx.x * kScanThreads + threadIdx.x;
  if (k >= classes) return;
  totals[k] = 0;
  least[k] = ~Key(0);
}

// The softmax of each pixel, own pixels by class, and the least of their errors.
template <class T>
__global__ void __launch_bounds__(kCellThreads, kCellBlocks<Accumulate<T>>) lovasz_norms(LovaszExact<T> p) {
  using Acc = Accumulate<T>;
  using Key = typename ErrorKey<Acc>::type;
  const int classes = p.cells.classes, own = p.in_shared ? classes : 0;
  const Pointer<int> totals = shared<int>(CellShared<Acc>::table_at);  // no node gathers here
  const Pointer<Key> least = shared<Key>(CellShared<Acc>::table_at + (classes + 3) / 4 * 16);
  for (int i = threadIdx.x; i < own; i += kCellThreads) {
    totals[i] = 0;
    least[i] = ~Key(0);
  }
  LovaszRows<T> rows;
  walk_cells(p, rows, [&](const CellBlock<T>& block) {
#pragma unroll
    for (int r = 0; r < kCellRows; ++r) {
      const int k = rows.label[r];
      if (k < 0) continue;
      Acc a, d;
      block.ends(k, a, d);
      const Key bits = error_bits(1 - rows.probability(p, r, a + block.weight[r] * d));
      if (p.in_shared) {
        atomicAdd(totals + k, 1);
        atomicMin(least + k, bits);
      } else {
        atomicAdd(p.totals + k, 1);
        atomicMin(p.least + k, bits);
      }
      if (p.probabilities) continue;
      p.most[p.pixel(block, r)] = rows.most[r];
      p.unit[p.pixel(block, r)] = rows.unit[r];
    }
  });
  __syncthreads();
  for (int i = threadIdx.x; i < own; i += kCellThreads) {
    const int total = totals[i];
    if (total == 0) continue;
    atomicAdd(p.totals + i, total);
    atomicMin(p.least + i, static_cast<Key>(least[i]));
  }
}

// The errors of a group's classes as keys; kNoKey where a pixel does not count or comes after all own ones. Own pixels
// always have a place: the walks may round apart, and "left" must come down to 0.
template <class T>
__global__ void __launch_bounds__(kCellThreads, kCellBlocks<Accumulate<T>>) lovasz_errors(LovaszExact<T> p) {
  using Acc = Accumulate<T>;
  using Key = typename ErrorKey<Acc>::type;
  constexpr Acc kMargin = sizeof(Acc) == 8 ? Acc(1.8e-15) : Acc(9.6e-7);  // 8 roundings of an error near 1
  CellBlock<T> block(p.cells, p.scores, blockIdx.x, score_unit<T>(p.probabilities));
  LovaszRows<T> rows;
  for (int columns = 0; columns < block.column_chunks(); ++columns) {
    for (int chunk = 0; chunk < block.row_chunks(); ++chunk) {
      block.place(columns, chunk);
      rows.read_labels(p, block);
      p.load(block, rows);
      for (int i = 0; i < p.count; ++i) {
        const int k = p.first + i;
        const bool present = p.totals[k] > 0;
        const Acc least = number_of(static_cast<Key>(p.least[k])) - kMargin;
        Acc a, d;
        block.ends(k, a, d);
#pragma unroll
        for (int r = 0; r < kCellRows; ++r) {
          if (!block.inside || block.row + r >= block.row_end) continue;
          Key key = kNoKey<Key>;
          if (present && rows.label[r] >= 0) {
            const bool own = rows.label[r] == k;
            const Acc probability = rows.probability(p, r, a + block.weight[r] * d);
            const Acc error = own ? 1 - probability : probability;
            if (own || !(error < least)) key = error_key(error, own);
          }
          p.keys[static_cast<i64>(i) * p.pixels + p.pixel(block, r)] = key;
        }
      }
    }
  }
}

// The sorted errors of a group.
template <class Acc>
struct SortedErrors {
  using Key = typename ErrorKey<Acc>::type;
  u32 pixels;
  int tiles, first, classes;
  Pointer<Key> keys;      // (group, pixels)
  Pointer<u32> order;     // (group, pixels): the errors' pixels
  Pointer<u32> sizes;     // (group)
  Pointer<int> totals;    // (classes)
  Pointer<int> own;       // (group, tiles): own pixels
  Pointer<Acc> toward;    // (group, pixels), or null
  Pointer<double> sums;   // (classes, tiles)
};

// A tile of a class's order a block, as in lovasz_steps. Clears what errors count for.
template <class Acc>
__global__ void __launch_bounds__(kRadixThreads) lovasz_own(SortedErrors<Acc> s) {
  const i64 base = static_cast<i64>(blockIdx.y) * s.pixels;
  const u32 size = s.sizes[blockIdx.y], begin = blockIdx.x * static_cast<u32>(kRadixTile);
  int mine = 0, all;
  for (int i = 0; i < kRadixItems; ++i) {
    const u32 at = begin + i * kRadixThreads + threadIdx.x;
    if (s.toward && at < s.pixels) s.toward[base + at] = 0;
    if (at < size) mine += static_cast<int>(s.keys[base + at] & 1);
  }
  block_scan(shared<int>(0), mine, all);
  if (threadIdx.x == 0) s.own[static_cast<i64>(blockIdx.y) * s.tiles + blockIdx.x] = all;
}

// The number that all threads' values add up to.
__device__ __forceinline__ int block_count(const Pointer<int>& sums, int value) {
  int all;
  block_scan(sums, value, all);
  return all;
}

template <class Acc>
__global__ void __launch_bounds__(kRadixThreads) lovasz_steps(SortedErrors<Acc> s) {
  using Key = typename ErrorKey<Acc>::type;
  const Pointer<int> sums = shared<int>(0);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, tile = blockIdx.x, k = s.first + blockIdx.y;
  const i64 base = static_cast<i64>(blockIdx.y) * s.pixels, row = static_cast<i64>(blockIdx.y) * s.tiles;
  const u32 size = s.sizes[blockIdx.y], begin = (tile * kRadixWarps + warp) * static_cast<u32>(kWarp * kRadixItems);
  double loss = 0;
  if (tile * static_cast<u32>(kRadixTile) < size) {
    int present = 0, before = 0;
    for (int i = threadIdx.x; i < s.classes; i += kRadixThreads) present += s.totals[i] > 0;
    for (int i = threadIdx.x; i < tile; i += kRadixThreads) before += s.own[row + i];
    present = block_count(sums, present);
    before = block_count(sums, before);
    Key keys[kRadixItems];
    u32 own[kRadixItems];
    int mine = 0, all;
#pragma unroll
    for (int i = 0; i < kRadixItems; ++i) {
      const u32 at = begin + i * kWarp + lane;
      keys[i] = at < size ? static_cast<Key>(s.keys[base + at]) : Key(0);
      own[i] = __ballot_sync(kFullWarp, static_cast<int>(keys[i] & 1));
      mine += __popc(own[i]);
    }
    const int last = lane == kWarp - 1 ? mine : 0;  // of the warp, once
    int seen = before + block_scan(sums, last, all) - last;
    const int total = s.totals[k];
    const Acc share = Acc(1) / static_cast<Acc>(present);
#pragma unroll
    for (int i = 0; i < kRadixItems; ++i) {
      const u32 at = begin + i * kWarp + lane;
      const bool is_own = keys[i] & 1;
      const int upto = seen + __popc(own[i] & ((1u << lane) - 1)) + is_own;
      seen += __popc(own[i]);
      if (at >= size) continue;
      // Own pixels that are not yet wrong, and the union of the class with all that are.
      const Acc left = static_cast<Acc>(total - upto);
      const Acc together = static_cast<Acc>(static_cast<u32>(total) + (at + 1 - static_cast<u32>(upto)));
      const Acc step = is_own ? 1 / together : left / ((together - 1) * together);
      loss += static_cast<double>(error_of<Acc>(keys[i])) * static_cast<double>(step);
      if (s.toward) s.toward[base + s.order[base + at]] = is_own ? -step * share : step * share;
    }
    loss = block_sum<kRadixThreads>(shared<double>((kScanBytes + 15) / 16 * 16), loss) / present;
  }
  if (threadIdx.x == 0) s.sums[static_cast<i64>(k) * s.tiles + tile] = loss;
}

// The part p dL/dp of the gradient, of a group's classes, and its sum over them; with kRest the part -p times that sum,
// of all.
template <class T, bool kRest>
__global__ void __launch_bounds__(kCellThreads, kCellBlocks<Accumulate<T>>) lovasz_slopes(LovaszExact<T> p) {
  using Acc = Accumulate<T>;
  CellBlock<T> block(p.cells, p.scores, blockIdx.x, score_unit<T>(p.probabilities));
  LovaszRows<T> rows;
  const int end = kRest ? p.cells.classes : p.first + p.count;
  for (int columns = 0; columns < block.column_chunks(); ++columns) {
    for (int chunk = 0; chunk < block.row_chunks(); ++chunk) {
      block.place(columns, chunk);
      rows.read_labels(p, block);
      p.load(block, rows);
      Acc mean[kCellRows] = {};
      if (kRest || (p.first > 0 && !p.probabilities)) {
#pragma unroll
        for (int r = 0; r < kCellRows; ++r)
          if (rows.label[r] >= 0) mean[r] = p.mean[p.pixel(block, r)];
      }
      // CellBlock::bring is not used here: with it the kernels in double take two registers more.
      for (int group = kRest ? 0 : p.first; group < end; group += kCellGroup) {
        const int count = end - group < kCellGroup ? end - group : kCellGroup;
#pragma unroll 1
        for (int i = 0; i < count; ++i) {
          const int k = group + i;
          const bool present = kRest || p.totals[k] > 0;
          Acc a, d, sum = 0, below = 0;
          block.ends(k, a, d);
#pragma unroll
          for (int r = 0; r < kCellRows; ++r) {
            if (!present || rows.label[r] < 0) continue;
            const Acc probability = rows.probability(p, r, a + block.weight[r] * d);
            Acc slope;
            if constexpr (kRest) {
              slope = -probability * mean[r];
            } else {
              slope = p.toward[static_cast<i64>(k - p.first) * p.pixels + p.pixel(block, r)];
              if (!p.probabilities) slope *= probability;
              mean[r] += slope;
            }
            sum += slope;
            below += slope * block.weight[r];
          }
          block.keep(i, sum, below);
        }
        block.gather(p.partials, group, count, columns, !kRest && columns == 0 && chunk == 0);
      }
      if constexpr (!kRest) {
        if (p.probabilities) continue;
#pragma unroll
        for (int r = 0; r < kCellRows; ++r)
          if (rows.label[r] >= 0) p.mean[p.pixel(block, r)] = mean[r];
      }
    }
  }
}

#define FASTUDA_LOVASZ_EXACT(T)                                     \
  template __global__ void lovasz_norms<T>(LovaszExact<T>);         \
  template __global__ void lovasz_errors<T>(LovaszExact<T>);        \
  template __global__ void lovasz_slopes<T, false>(LovaszExact<T>); \
  template __global__ void lovasz_slopes<T, true>(LovaszExact<T>);
#define FASTUDA_LOVASZ_ORDER(Acc)                              \
  template __global__ void lovasz_own<Acc>(SortedErrors<Acc>); \
  template __global__ void lovasz_steps<Acc>(SortedErrors<Acc>);
FASTUDA_LOVASZ_EXACT(float)
FASTUDA_LOVASZ_EXACT(Half)
FASTUDA_LOVASZ_EXACT(BFloat16)
FASTUDA_LOVASZ_EXACT(double)
FASTUDA_LOVASZ_ORDER(float)
FASTUDA_LOVASZ_ORDER(double)
FASTUDA_RADIX_SORT(u64)
template __global__ void lovasz_begin<u32>(Pointer<int>, Pointer<u32>, int);
template __global__ void lovasz_begin<u64>(Pointer<int>, Pointer<u64>, int);

}  // namespace fastuda::cuda
