// The triplet loss, row by row: a warp has a row or a part of it, a lane four channels of 128.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

constexpr int kTripletThreads = 256, kTripletWarps = kTripletThreads / kWarp;
constexpr int kTripletQuad = 4, kTripletTile = kWarp * kTripletQuad;  // channels of a lane and of a warp at once
constexpr int kTripletRun = 64;                                      // sorted draws of a warp
constexpr int kTripletAhead = 4;                                     // rows asked for together

template <class T>
struct Rows {
  Pointer<T> at;
  i64 row, channel;  // strides
  bool quads;        // four channels at once
};

// Four channels of this lane from the tile's first one on: side by side in quads, else one of each 32.
struct LaneChannels {
  int first, step, end;

  __device__ __forceinline__ LaneChannels(int tile, bool quads, int channels)
      : first(tile * kTripletTile + static_cast<int>(threadIdx.x % kWarp) * (quads ? kTripletQuad : 1)),
        step(quads ? 1 : kWarp), end(channels) {}
};

// A row's channels of this lane, zeros beyond the last one.
template <class T>
__device__ __forceinline__ Pack<Accumulate<T>, 4> load_row(
    const Rows<const T>& rows, i64 row, const LaneChannels& lane) {
  Pack<Accumulate<T>, 4> x{};
  const Pointer<const T> from = rows.at + row * rows.row;
  if (rows.quads && lane.step == 1) {
    if (lane.first >= lane.end) return x;
    const Pack<T, 4> narrow = load_pack<4>(from + lane.first);
#pragma unroll
    for (int j = 0; j < 4; ++j) x.at[j] = widen(narrow.at[j]);
    return x;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int c = lane.first + j * lane.step;
    if (c < lane.end) x.at[j] = widen(static_cast<T>(from[c * rows.channel]));
  }
  return x;
}

template <class T>
__device__ __forceinline__ void store_row(
    const Rows<T>& rows, i64 row, const LaneChannels& lane, const Pack<Accumulate<T>, 4>& x) {
  const Pointer<T> to = rows.at + row * rows.row;
  Pack<T, 4> rounded;
#pragma unroll
  for (int j = 0; j < 4; ++j) narrow(x.at[j], rounded.at[j]);
  if (rows.quads && lane.step == 1) {
    if (lane.first < lane.end) store_pack(to + lane.first, rounded);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int c = lane.first + j * lane.step;
    if (c < lane.end) to[c * rows.channel] = rounded.at[j];
  }
}

template <class T>
struct Triplets {
  Rows<const T> target, source;
  Pointer<const i64> positive, negative;
  i64 positive_stride, negative_stride;
  int rows, sources, channels;

  // Both partners; false where one is no row of source.
  __device__ __forceinline__ bool partners(i64 i, i64& p, i64& n) const {
    p = positive[i * positive_stride];
    n = negative[i * negative_stride];
    return p >= 0 && p < sources && n >= 0 && n < sources;
  }
};

template <class T>
struct TripletForward {
  Triplets<T> t;
  Pointer<const u8> valid;
  i64 valid_stride;
  Accumulate<T> margin;
  Pointer<Accumulate<T>> loss;
};

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int flip = kWarp / 2; flip > 0; flip /= 2) value += __shfl_xor_sync(kFullWarp, value, flip);
  return value;
}

template <class T>
__global__ void __launch_bounds__(kTripletThreads) triplet_forward(TripletForward<T> f) {
  using Acc = Accumulate<T>;
  const i64 i = static_cast<i64>(blockIdx.x) * kTripletWarps + threadIdx.x / kWarp;
  if (i >= f.t.rows) return;
  const bool used = f.valid[i * f.valid_stride] && f.t.sources > 0, first_lane = threadIdx.x % kWarp == 0;
  i64 p = 0, n = 0;
  if (!used || !f.t.partners(i, p, n)) {
    const Acc zero = 0;
    if (first_lane) f.loss[i] = used ? zero / zero : zero;
    return;
  }
  const bool quads = f.t.target.quads && f.t.source.quads;
  Acc near = 0, far = 0;
  for (int tile = 0; tile * kTripletTile < f.t.channels; ++tile) {
    const LaneChannels lane(tile, quads, f.t.channels);
    const auto x = load_row(f.t.target, i, lane), y = load_row(f.t.source, p, lane), z = load_row(f.t.source, n, lane);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Acc a = y.at[j] - x.at[j], b = z.at[j] - x.at[j];
      near += a * a;
      far += b * b;
    }
  }
  near = warp_sum(near);
  far = warp_sum(far);
  const Acc loss = near - far + f.margin;
  if (first_lane) f.loss[i] = loss < 0 ? Acc(0) : loss;  // NaN stays
}

template <class T>
struct TripletBackward {
  Triplets<T> t;
  Pointer<const Accumulate<T>> grad, loss;
  i64 grad_stride, loss_stride;
  Rows<T> target_slope, source_slope;
  int tiles;  // of channels
  // Draws: of the positive partners by target row, then of the negative ones.
  u32 draws;
  Pointer<u32> keys, order;             // source row of each draw, or `sources`; sorted, and their draws
  Pointer<int> starts;                  // (sources + 1): first sorted draw of each source row
  Pointer<Accumulate<T>> partials;      // (runs, 2, channels): sums of rows whose draws lie in several runs

  __device__ __forceinline__ bool active(i64 i, i64& p, i64& n) const {
    return loss[i * loss_stride] > 0 && t.partners(i, p, n);
  }
};

template <class T>
__global__ void __launch_bounds__(kTripletThreads) triplet_keys(TripletBackward<T> b) {
  const i64 i = static_cast<i64>(blockIdx.x) * kTripletThreads + threadIdx.x;
  if (i >= b.t.rows) return;
  i64 p, n;
  const bool active = b.active(i, p, n);
  b.keys[i] = static_cast<u32>(active ? p : b.t.sources);
  b.keys[b.t.rows + i] = static_cast<u32>(active ? n : b.t.sources);
}

template <class T>
__global__ void __launch_bounds__(kTripletThreads) triplet_target_slope(TripletBackward<T> b) {
  using Acc = Accumulate<T>;
  const i64 i = static_cast<i64>(blockIdx.x) * kTripletWarps + threadIdx.x / kWarp;
  if (i >= b.t.rows) return;
  i64 p, n;
  const bool active = b.active(i, p, n), quads = b.t.source.quads && b.target_slope.quads;
  const Acc g = 2 * b.grad[i * b.grad_stride];
  for (int tile = 0; tile < b.tiles; ++tile) {
    const LaneChannels lane(tile, quads, b.t.channels);
    Pack<Acc, 4> slope{};
    if (active) {
      const auto y = load_row(b.t.source, p, lane), z = load_row(b.t.source, n, lane);
#pragma unroll
      for (int j = 0; j < 4; ++j) slope.at[j] = (z.at[j] - y.at[j]) * g;
    }
    store_row(b.target_slope, i, lane, slope);
  }
}

// One run of sorted draws and one tile of channels of it.
template <class T>
struct TripletRun {
  using Acc = Accumulate<T>;

  const TripletBackward<T>& b;
  const LaneChannels lane;
  const i64 run;
  u32 key;      // the source row at hand
  bool before;  // its draws began in an earlier run
  Pack<Acc, 4> source, sum{};

  __device__ __forceinline__ void begin(u32 next) {
    key = next;
    sum = Pack<Acc, 4>{};
    if (key < static_cast<u32>(b.t.sources)) source = load_row(b.t.source, key, lane);
  }

  __device__ __forceinline__ void add(const Pack<Acc, 4>& target, Acc g) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum.at[j] += (source.at[j] - target.at[j]) * g;
  }

  __device__ __forceinline__ void finish(bool after) {
    if (key >= static_cast<u32>(b.t.sources)) return;
    if (!before && !after) return store_row(b.source_slope, key, lane, sum);
    const Rows<Acc> to{b.partials, b.t.channels, 1, false};
    store_row(to, 2 * run + !before, lane, sum);
  }
};

template <class T>
__global__ void __launch_bounds__(kTripletThreads) triplet_runs(TripletBackward<T> b) {
  using Acc = Accumulate<T>;
  const i64 warp = static_cast<i64>(blockIdx.x) * kTripletWarps + threadIdx.x / kWarp;
  const i64 run = warp / b.tiles;
  const u32 begin = static_cast<u32>(run * kTripletRun), own = threadIdx.x % kWarp;
  if (run * kTripletRun >= b.draws || b.keys[begin] == static_cast<u32>(b.t.sources)) return;
  const u32 end = b.draws - begin < kTripletRun ? b.draws : begin + kTripletRun;
  const bool quads = b.t.source.quads && b.t.target.quads && b.source_slope.quads;
  const LaneChannels lane(static_cast<int>(warp % b.tiles), quads, b.t.channels);
  TripletRun<T> r{b, lane, run, 0, begin > 0 && b.keys[begin - 1] == b.keys[begin], {}};
  r.begin(b.keys[begin]);
  for (u32 at = begin; at < end; at += kWarp) {
    // A lane looks up one draw, then all lanes take one after the other.
    u32 my_key = static_cast<u32>(b.t.sources), my_row = 0;
    Acc my_g = 0;
    if (at + own < end) {
      const u32 draw = b.order[at + own], rows = static_cast<u32>(b.t.rows);
      my_key = b.keys[at + own];
      my_row = draw < rows ? draw : draw - rows;
      my_g = 2 * b.grad[my_row * b.grad_stride];
      if (draw >= rows) my_g = -my_g;
    }
    for (int i = 0; i < kWarp && at + i < end; i += kTripletAhead) {
      Pack<Acc, 4> x[kTripletAhead];
#pragma unroll
      for (int j = 0; j < kTripletAhead; ++j) {
        const u32 row = __shfl_sync(kFullWarp, my_row, i + j);
        x[j] = load_row(b.t.target, row, lane);
      }
#pragma unroll
      for (int j = 0; j < kTripletAhead; ++j) {
        const u32 key = __shfl_sync(kFullWarp, my_key, i + j);
        const Acc g = __shfl_sync(kFullWarp, my_g, i + j);
        if (at + i + j >= end) continue;
        if (key != r.key) {
          r.finish(false);
          r.before = false;
          r.begin(key);
        }
        if (key != static_cast<u32>(b.t.sources)) r.add(x[j], g);
      }
    }
  }
  r.finish(end < b.draws && b.keys[end] == r.key);
}

// Source rows without draws, and those whose draws lie in several runs: a warp a row and tile, runs in order.
template <class T>
__global__ void __launch_bounds__(kTripletThreads) triplet_merge(TripletBackward<T> b) {
  using Acc = Accumulate<T>;
  const i64 warp = static_cast<i64>(blockIdx.x) * kTripletWarps + threadIdx.x / kWarp;
  const i64 row = warp / b.tiles;
  if (row >= b.t.sources) return;
  const int begin = b.starts[row], end = b.starts[row + 1];
  const int first = begin / kTripletRun, last = (end - 1) / kTripletRun;
  if (begin < end && first == last) return;
  const bool quads = b.source_slope.quads;
  // Partial sums are in the order of channels: both readings of a lane's channels fit them.
  const LaneChannels lane(static_cast<int>(warp % b.tiles), quads, b.t.channels);
  Pack<Acc, 4> sum{};
  if (begin < end) {
    const auto part = [&](i64 at) {
      Pack<Acc, 4> x{};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int c = lane.first + j * lane.step;
        if (c < lane.end) x.at[j] = b.partials[at * b.t.channels + c];
      }
      return x;
    };
    sum = part(2 * static_cast<i64>(first) + 1);
#pragma unroll 4
    for (int run = first + 1; run <= last; ++run) {
      const auto x = part(2 * static_cast<i64>(run));
#pragma unroll
      for (int j = 0; j < 4; ++j) sum.at[j] += x.at[j];
    }
  }
  store_row(b.source_slope, row, lane, sum);
}

}  // namespace fastuda::cuda
