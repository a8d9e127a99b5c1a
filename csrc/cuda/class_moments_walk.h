// The walk over the pixels of class_moments.cu, whose head describes it.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

constexpr int kAhead = 8;  // pixels whose loads are in flight in one thread
constexpr int kMostWarps = 16;

template <class T>
struct Walk {
  Pointer<const T> features;
  PixelGrid grid;
  i64 channel_stride;
  Labels labels;
  u32 pixels, warp_pixels;  // warp_pixels: of one warp's run, a multiple of 32
  int channels, slices, chunks;
  bool in_shared;                   // the tables; else they are the partial sums themselves, and a block is one warp
  Pointer<Accumulate<T>> partials;  // (chunks, classes, 3, channels): pivot, sum, sum of squares; of classes that occur
  Pointer<int> counts;              // (2, slices, chunks, classes): number of pixels, first pixel
};

// A tile of 32 channels x 32 pixels: rows are an odd number of words apart, so that columns have no bank conflicts.
template <class T>
constexpr __host__ __device__ int stage_pitch() {
  return sizeof(T) == 2 ? kWarp + 2 : kWarp + 1;
}

// Where a block's tables and tiles are: element (class, part, channel v of the lane) of a table is at
// class * class_step + part * part_step + v * step, sums after `sums`, pivots after `pivots`.
template <class T, int V, bool kStaged>
struct Tables {
  using Acc = Accumulate<T>;
  Pointer<Acc> pivots, sums;    // this lane's
  Pointer<int> counts, firsts;  // this warp's (classes), the block's (classes)
  Pointer<T> stage;             // this warp's tile
  int class_step, part_step, step;

  // Bytes of shared memory: of one class's pivots, and of one warp's tile.
  static constexpr int row = kWarp * V * static_cast<int>(sizeof(Acc));
  static constexpr int tile = kStaged ? kWarp * stage_pitch<T>() * static_cast<int>(sizeof(T)) : 0;
  static_assert(row % 16 == 0 && tile % 16 == 0);

  // Bytes of shared memory that a block needs, and that each of its warps needs.
  static constexpr __host__ __device__ i64 block_bytes(i64 classes) { return classes * (row + 4); }
  static constexpr __host__ __device__ i64 warp_bytes(i64 classes) { return classes * (2 * row + 4) + tile; }

  __device__ Tables(const Walk<T>& w, int slice, int chunk) {
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
    const int classes = w.labels.classes;
    if (w.in_shared) {
      const int end = (1 + 2 * warps) * classes * row;
      pivots = shared<Acc>(0) + lane;
      sums = shared<Acc>((1 + 2 * warp) * classes * row) + lane;
      stage = shared<T>(end + warp * tile);
      counts = shared<int>(end + warps * tile) + warp * classes;
      firsts = shared<int>(end + warps * tile) + warps * classes;
      class_step = kWarp * V;
      part_step = classes * class_step;
      step = kWarp;
    } else {
      const i64 part = static_cast<i64>(slice) * w.chunks + chunk;
      pivots = w.partials + (static_cast<i64>(chunk) * classes * 3 * w.channels + (slice * kWarp + lane) * V);
      sums = pivots + w.channels;
      stage = shared<T>(0);
      counts = w.counts + part * classes;
      firsts = w.counts + (part + static_cast<i64>(w.slices) * w.chunks) * classes;
      class_step = 3 * w.channels;
      part_step = w.channels;
      step = 1;
    }
  }
};

// Finds the first pixel of each class in the block's chunk [begin, end): its features are the pivots of the class.
template <class T, int V, bool kStaged>
__device__ __forceinline__ void choose_pivots(
    const Walk<T>& w, const Tables<T, V, kStaged>& tables, int channel, u32 begin, u32 end) {
  constexpr int kNone = 0x7fffffff;
  const int classes = w.labels.classes, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int k = threadIdx.x; k < classes; k += blockDim.x) tables.firsts[k] = kNone;
  __syncthreads();
  for (u32 at = begin + warp * kWarp; at < end; at += blockDim.x) {
    const u32 pixel = at + lane;
    const int mine = pixel < end ? read_class(w.labels, pixel) : -1;
    const int before = __shfl_up_sync(kFullWarp, mine, 1);  // one atomic a run of labels
    if (mine >= 0 && (lane == 0 || mine != before)) atomicMin(tables.firsts + mine, static_cast<int>(pixel));
  }
  __syncthreads();
  const int warps = blockDim.x / kWarp;
  for (int k = warp; k < classes; k += warps) {
    const int first = tables.firsts[k];
    if (first == kNone || channel >= w.channels) continue;
    const i64 from = locate(w.grid, static_cast<u32>(first)) + channel * w.channel_stride;
#pragma unroll
    for (int v = 0; v < V; ++v)
      tables.pivots[static_cast<i64>(k) * tables.class_step + v * tables.step] = widen(w.features[from + v]);
  }
  __syncthreads();
}

// The sums of one warp over pixels of the class at hand: the lane's V channels, less their pivots.
template <class T, int V, bool kStaged>
struct Run {
  using Acc = Accumulate<T>;
  const Tables<T, V, kStaged>& tables;
  int lane;
  bool live;  // the lane has channels
  int label, rows;
  Acc pivot[V], sum[V], square[V];

  // Adds those of the pixels x whose bit in `same` is set; all have this label. Uniform over the warp.
  __device__ __forceinline__ void add(int next, u32 same, const Pack<T, V> (&x)[kAhead]) {
    if (next != label) {
      flush();
      label = next;
      rows = 0;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        sum[v] = square[v] = 0;
        if (live) pivot[v] = tables.pivots[static_cast<i64>(next) * tables.class_step + v * tables.step];
      }
    }
    rows += __popc(same);
    if (!live) return;
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      if (!(same >> u & 1)) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const Acc d = widen(x[u].at[v]) - pivot[v];
        sum[v] += d;
        square[v] += d * d;
      }
    }
  }

  __device__ __forceinline__ void flush() {
    if (label < 0) return;
    const i64 at = static_cast<i64>(label) * tables.class_step;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (!live) continue;
      tables.sums[at + v * tables.step] += sum[v];
      tables.sums[at + tables.part_step + v * tables.step] += square[v];
    }
    if (lane == 0) tables.counts[label] += rows;
    label = -1;
  }
};

// Walks over pixels [begin, end), 32 at a time; `channel` is the lane's first one.
template <class T, int V, bool kStaged>
__device__ __forceinline__ void walk_pixels(
    const Walk<T>& w, const Tables<T, V, kStaged>& tables, int channel, u32 begin, u32 end) {
  constexpr int pitch = stage_pitch<T>();
  const int lane = threadIdx.x % kWarp;
  Run<T, V, kStaged> run{tables, lane, channel < w.channels, -1};
  for (u32 at = begin; at < end; at += kWarp) {
    const u32 pixel = at + lane;
    const int mine = pixel < end ? read_class(w.labels, pixel) : -1;
    const i64 here = pixel < end ? locate(w.grid, pixel) : 0;
    if constexpr (kStaged) {
      if (mine >= 0) {
#pragma unroll 8
        for (int c = 0; c < kWarp; ++c)
          if (channel - lane + c < w.channels)
            tables.stage[c * pitch + lane] = w.features[here + (channel - lane + c) * w.channel_stride];
      }
      __syncwarp();
    }
    const u32 valid = __ballot_sync(kFullWarp, mine >= 0);
#pragma unroll 1
    for (int first = 0; first < kWarp; first += kAhead) {
      u32 todo = valid >> first & ((1u << kAhead) - 1);
      Pack<T, V> x[kAhead];
#pragma unroll
      for (int u = 0; u < kAhead; ++u) {
        const i64 offset = kStaged ? 0 : __shfl_sync(kFullWarp, here, first + u);
        if (!(todo >> u & 1) || !run.live) continue;
        if constexpr (kStaged) x[u] = load_pack<V>(tables.stage + (lane * pitch + first + u));
        else x[u] = load_pack<V>(w.features + (offset + channel));
      }
#pragma unroll 1
      while (todo) {  // one class of these pixels after the other: nearly always there is one
        const int label = __shfl_sync(kFullWarp, mine, first + __ffs(todo) - 1);
        const u32 same = __ballot_sync(kFullWarp, mine == label) >> first & todo;
        run.add(label, same, x);
        todo &= ~same;
      }
    }
    run.flush();  // short sums lose little to rounding
    if constexpr (kStaged) __syncwarp();  // the tile is free again
  }
}

// Adds the warps' tables in order of the warps, and writes the block's partial sums and counts.
template <class T, int V, bool kStaged>
__device__ __forceinline__ void merge_warps(const Walk<T>& w, int slice, int chunk) {
  using Acc = Accumulate<T>;
  using Block = Tables<T, V, kStaged>;
  const int warps = blockDim.x / kWarp, classes = w.labels.classes;
  constexpr int width = kWarp * V;
  const Pointer<Acc> all = shared<Acc>(0);
  const Pointer<int> counts = shared<int>((1 + 2 * warps) * classes * Block::row + warps * Block::tile);
  for (int i = threadIdx.x; i < classes * width; i += blockDim.x) {
    const int k = i / width, c = i % width, channel = slice * width + c;
    const int at = k * width + c % V * kWarp + c / V;
    int n = 0;
    Acc sum = 0, square = 0;
    for (int warp = 0; warp < warps; ++warp) {
      n += counts[warp * classes + k];
      sum += all[(1 + 2 * warp) * classes * width + at];
      square += all[(2 + 2 * warp) * classes * width + at];
    }
    if (channel >= w.channels || n == 0) continue;
    const i64 to = (static_cast<i64>(chunk) * classes + k) * 3 * w.channels + channel;
    w.partials[to] = all[at];
    w.partials[to + w.channels] = sum;
    w.partials[to + 2 * w.channels] = square;
  }
  for (int k = threadIdx.x; k < classes; k += blockDim.x) {
    int n = 0;
    for (int warp = 0; warp < warps; ++warp) n += counts[warp * classes + k];
    w.counts[(static_cast<i64>(slice) * w.chunks + chunk) * classes + k] = n;
  }
}

template <class T, int V, bool kStaged>
__global__ void __launch_bounds__(kMostWarps* kWarp, 1) moments_walk(Walk<T> w) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int slice = blockIdx.x % w.slices, chunk = blockIdx.x / w.slices, classes = w.labels.classes;
  const int channel = (slice * kWarp + lane) * V;
  const Tables<T, V, kStaged> tables(w, slice, chunk);
  for (int k = 0; k < classes; ++k) {
    if (!w.in_shared && channel >= w.channels) break;
#pragma unroll
    for (int v = 0; v < V; ++v)
      for (int part = 0; part < 2; ++part)
        tables.sums[static_cast<i64>(k) * tables.class_step + part * tables.part_step + v * tables.step] = 0;
  }
  for (int k = lane; k < classes; k += kWarp) tables.counts[k] = 0;

  const u32 begin = static_cast<u32>(chunk) * warps * w.warp_pixels, mine = begin + warp * w.warp_pixels;
  const u32 all_end = begin + warps * w.warp_pixels, my_end = mine + w.warp_pixels;
  choose_pivots(w, tables, channel, begin, all_end < w.pixels ? all_end : w.pixels);
  walk_pixels(w, tables, channel, mine, my_end < w.pixels ? my_end : w.pixels);
  if (!w.in_shared) return;
  __syncthreads();
  merge_warps<T, V, kStaged>(w, slice, chunk);
}

}  // namespace fastuda::cuda
