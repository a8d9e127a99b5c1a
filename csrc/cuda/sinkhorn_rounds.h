// One block's part of sinkhorn.cu, whose head describes it: passes over its rows, and the classes' sums of all blocks.
#pragma once

#include "cuda/sinkhorn_sums.h"

namespace fastuda::cuda {

// A row is shared by kLanes neighbouring lanes, each with classes lane, lane + kLanes, ...: kOwn of them at once. The
// first kSlots rows of a group of lanes stay in registers; others are computed again when they are needed.
template <class Acc, int kLanes, int kOwn, int kSlots>
struct SinkhornBlock {
  static constexpr int kTile = kLanes * kOwn, kGroups = kSinkhornThreads / kLanes;
  static constexpr bool kNarrow = sizeof(Acc) == 4;  // double has the logarithmic form only
  using Shared = SinkhornShared<kTile>;

  const Sinkhorn<Acc>& s;
  int lane, group, problem, block, begin, end, steps;
  Pointer<double> sums, logs;  // logs: of the scalings, (classes)
  Pointer<float> extremes, scalings;
  Pointer<int> flags;
  float kept[kSlots ? kSlots : 1][kOwn];  // exp((S - top) / epsilon), top the largest S of the row
  float highest, lowest;

  __device__ explicit SinkhornBlock(const Sinkhorn<Acc>& s)
      : s(s), lane(threadIdx.x % kLanes), group(threadIdx.x / kLanes), problem(blockIdx.x / s.blocks),
        block(blockIdx.x % s.blocks), sums(shared<double>(0)),
        logs(shared<double>(Shared::scalings_at)), extremes(shared<float>(Shared::extremes_at)),
        scalings(shared<float>(Shared::scalings_at + s.classes * 8)), flags(shared<int>(Shared::flags_at)),
        highest(-3.4e38f), lowest(3.4e38f) {
    const i64 first = static_cast<i64>(block) * s.block_rows, last = first + s.block_rows;
    begin = static_cast<int>(first < s.rows ? first : s.rows);
    end = static_cast<int>(last < s.rows ? last : s.rows);
    steps = s.block_rows / kGroups;
  }

  __device__ __forceinline__ int row_of(int step) const { return begin + step * kGroups + group; }
  __device__ __forceinline__ Acc score(int row, int k) const {
    return s.score(problem * s.problem_stride + row * s.row_stride + k * s.class_stride);
  }
  __device__ __forceinline__ i64 partial(int buffer, int block, int k) const {
    return (((static_cast<i64>(buffer) * s.problems + problem) * s.blocks + block) * s.classes + k) * 2;
  }
  __device__ __forceinline__ double share(int k) const {
    const i64 at = problem * s.share_problem_stride + k * s.share_class_stride;
    return s.double_share ? s.double_shares[at] : static_cast<double>(s.float_shares[at]);
  }

  __device__ __forceinline__ float largest_of(int row, float (&x)[kOwn]) {
    float largest = -3.4e38f;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int k = j * kLanes + lane;
      if (k >= s.classes) continue;
      x[j] = score(row, k);
      largest = x[j] > largest ? x[j] : largest;
      lowest = x[j] < lowest ? x[j] : lowest;
    }
    return largest;
  }

  __device__ __forceinline__ float over_row(float largest) const {
#pragma unroll
    for (int flip = 1; flip < kLanes; flip *= 2) {
      const float other = __shfl_xor_sync(kFullWarp, largest, flip);
      largest = other > largest ? other : largest;
    }
    return largest;
  }

  // exp((S - top) / epsilon) of a step's row, 0 beyond the last one; returns top.
  __device__ __forceinline__ float load(int step, float (&e)[kOwn]) {
    const int row = row_of(step);
    const bool inside = row < end;
    float x[kOwn];
    const float top = over_row(inside ? largest_of(row, x) : -3.4e38f);
    if (inside && top > highest) highest = top;
#pragma unroll
    for (int j = 0; j < kOwn; ++j)
      e[j] = inside && j * kLanes + lane < s.classes ? ratio(s, x[j], top) : 0.0f;
    return top;
  }

  // sum_k exp((S - top) / epsilon) v_k of a row; v: of the lane's classes.
  __device__ __forceinline__ float row_sum(const float (&e)[kOwn], const float (&v)[kOwn]) const {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) sum = fmaf(e[j], v[j], sum);
#pragma unroll
    for (int flip = 1; flip < kLanes; flip *= 2) sum += __shfl_xor_sync(kFullWarp, sum, flip);
    return sum;
  }

  __device__ __forceinline__ void own_scalings(float (&v)[kOwn]) const {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) v[j] = j * kLanes + lane < s.classes ? scalings[j * kLanes + lane] : 0.0f;
  }

  // Calls visit(step, e) for all rows from `skip` on; they must be loaded, unless kept.
  template <class Visit>
  __device__ __forceinline__ void each_row(int skip, const Visit& visit) {
#pragma unroll
    for (int i = 0; i < kSlots; ++i)
      if (i < steps) visit(i, kept[i]);
#pragma unroll 1
    for (int step = skip > kSlots ? skip : kSlots; step < steps; ++step) {
      float e[kOwn];
      load(step, e);
      visit(step, e);
    }
  }

  __device__ __forceinline__ void add_first(int step, float (&e)[kOwn], float origin, CarefulSum (&total)[kOwn]) {
    const float top = load(step, e);
    const float u = row_of(step) < end ? ratio(s, top, origin) : 0.0f;
#pragma unroll
    for (int j = 0; j < kOwn; ++j) total[j].add(e[j], u);
  }

  // The block's sums of exp(S / epsilon) over its rows, relative to the largest score of row 0.
  __device__ __forceinline__ void first_narrow_pass() {
    CarefulSum total[kOwn];
    float x[kOwn];
    const float origin = over_row(largest_of(0, x));
#pragma unroll
    for (int i = 0; i < kSlots; ++i)
      if (i < steps) add_first(i, kept[i], origin, total);
#pragma unroll 1
    for (int step = kSlots; step < steps; ++step) {
      float e[kOwn];
      add_first(step, e, origin, total);
    }
    keep_extremes();
    publish_narrow(total, 0);
    if (threadIdx.x == 0) write_spread();
  }

  // The block's sums of exp((S - top) / epsilon) u over its rows.
  __device__ __forceinline__ void narrow_pass(int buffer) {
    CarefulSum total[kOwn];
    float v[kOwn];
    own_scalings(v);
    each_row(0, [&](int, const float (&e)[kOwn]) {
      const float sum = row_sum(e, v), u = sum > 0 ? 1 / sum : 0.0f;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) total[j].add(e[j], u);
    });
    publish_narrow(total, buffer);
  }

  __device__ __forceinline__ void publish_narrow(const CarefulSum (&total)[kOwn], int buffer) {
    double whole[kOwn], none[kOwn];
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      float sum = total[j].sum - total[j].lost;
#pragma unroll
      for (int flip = kLanes; flip < kWarp; flip *= 2) sum += __shfl_xor_sync(kFullWarp, sum, flip);
      whole[j] = sum;
      none[j] = 0;
    }
    publish<PlainSum>(none, whole, 0, buffer);
  }

  __device__ __forceinline__ void keep_extremes() {
    const int warp = threadIdx.x / kWarp;
#pragma unroll
    for (int flip = 1; flip < kWarp; flip *= 2) {
      const float high = __shfl_xor_sync(kFullWarp, highest, flip), low = __shfl_xor_sync(kFullWarp, lowest, flip);
      highest = high > highest ? high : highest;
      lowest = low < lowest ? low : lowest;
    }
    if (threadIdx.x % kWarp == 0) {
      extremes[2 * warp] = highest;
      extremes[2 * warp + 1] = lowest;
    }
  }

  __device__ __forceinline__ void write_spread() {
    float high = extremes[0], low = extremes[1];
    for (int warp = 1; warp < kSinkhornWarps; ++warp) {
      high = extremes[2 * warp] > high ? extremes[2 * warp] : high;
      low = extremes[2 * warp + 1] < low ? extremes[2 * warp + 1] : low;
    }
    const i64 at = (static_cast<i64>(problem) * s.blocks + block) * 2;
    s.spreads[at] = high;
    s.spreads[at + 1] = low;
  }

  // Whether problem p, read by all lanes of a warp, is too wide for float.
  __device__ __forceinline__ bool too_wide(int p) const {
    float high = -3.4e38f, low = 3.4e38f;
    for (int b = threadIdx.x % kWarp; b < s.blocks; b += kWarp) {
      const i64 at = (static_cast<i64>(p) * s.blocks + b) * 2;
      high = s.spreads[at] > high ? s.spreads[at] : high;
      low = s.spreads[at + 1] < low ? s.spreads[at + 1] : low;
    }
#pragma unroll
    for (int flip = 1; flip < kWarp; flip *= 2) {
      const float other_high = __shfl_xor_sync(kFullWarp, high, flip);
      const float other_low = __shfl_xor_sync(kFullWarp, low, flip);
      high = other_high > high ? other_high : high;
      low = other_low < low ? other_low : low;
    }
    const double spread = static_cast<double>(high) - low;
    return !(spread <= kWidest * s.epsilon && spread < 3e38);
  }

  // Whether this block's problem is too wide for float; any: whether one of the launch is. A warp looks at a problem.
  __device__ __forceinline__ bool look_at_spreads(bool& any) {
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
    const int from = s.blocks == 1 ? problem : 0, to = s.blocks == 1 ? problem + 1 : s.problems;
    int wide = 0;
    for (int p = from + warp; p < to; p += kSinkhornWarps) {
      const bool found = too_wide(p);
      wide |= found;
      if (p == problem && lane == 0) flags[kSinkhornWarps] = found;
    }
    if (lane == 0) flags[warp] = wide;
    __syncthreads();
    any = false;
    for (int i = 0; i < kSinkhornWarps; ++i) any |= flags[i] != 0;
    return flags[kSinkhornWarps] != 0;
  }

  __device__ __forceinline__ void narrow_rows(int first_row) {
    if (end <= first_row) return;
    float v[kOwn];
    own_scalings(v);
    each_row((first_row > begin ? first_row - begin : 0) / kGroups, [&](int step, const float (&e)[kOwn]) {
      const float sum = row_sum(e, v);
      const int row = row_of(step);
      if (row < first_row || row >= end) return;
#pragma unroll
      for (int j = 0; j < kOwn; ++j)
        if (j * kLanes + lane < s.classes)
          s.result[result_at(row, first_row) + j * kLanes + lane] = sum > 0 ? e[j] * v[j] / sum : 0.0f;
    });
  }

  __device__ __forceinline__ i64 result_at(int row, int first_row) const {
    return (static_cast<i64>(problem) * s.current + row - first_row) * s.classes;
  }

  // From here on logarithms in double: any spread, any number of classes.
  // log sum_k exp(S_k / epsilon) v_k of a row, kNothing beyond the last one.
  __device__ __forceinline__ double log_row_sum(int row) const {
    LogSum sum;
    if (row < end) {
#pragma unroll 1
      for (int k = lane; k < s.classes; k += kLanes)
        if (logs[k] > kNothing) sum.add(score(row, k) / s.epsilon + logs[k], 1);
    }
#pragma unroll
    for (int flip = 1; flip < kLanes; flip *= 2) {
      const double other_top = __shfl_xor_sync(kFullWarp, sum.top, flip);
      sum.add(other_top, __shfl_xor_sync(kFullWarp, sum.sum, flip));
    }
    return sum.value();
  }

  __device__ __forceinline__ void wide_pass(bool first, int buffer) {
#pragma unroll 1
    for (int k0 = 0; k0 < s.classes; k0 += kTile) {
      LogSum total[kOwn];
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        const int row = row_of(step);
        const double log_sum = first ? 0 : log_row_sum(row);
        if (row >= end || log_sum <= kNothing) continue;
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const int k = k0 + j * kLanes + lane;
          if (k < s.classes) total[j].add(score(row, k) / s.epsilon - log_sum, 1);
        }
      }
      double tops[kOwn], whole[kOwn];
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
#pragma unroll
        for (int flip = kLanes; flip < kWarp; flip *= 2) {
          const double other_top = __shfl_xor_sync(kFullWarp, total[j].top, flip);
          total[j].add(other_top, __shfl_xor_sync(kFullWarp, total[j].sum, flip));
        }
        tops[j] = total[j].top;
        whole[j] = total[j].sum;
      }
      publish<LogSum>(tops, whole, k0, buffer);
    }
  }

  __device__ __forceinline__ void wide_rows(int first_row) {
    if (end <= first_row) return;
    const int skip = (first_row > begin ? first_row - begin : 0) / kGroups;
#pragma unroll 1
    for (int step = skip; step < steps; ++step) {
      const int row = row_of(step);
      const double log_sum = log_row_sum(row);
      if (row < first_row || row >= end) continue;
#pragma unroll 1
      for (int k = lane; k < s.classes; k += kLanes) {
        const bool gets = logs[k] > kNothing && log_sum > kNothing;
        const double share = gets ? exponential(score(row, k) / s.epsilon + logs[k] - log_sum) : 0.0;
        s.result[result_at(row, first_row) + k] = static_cast<Acc>(share);
      }
    }
  }

  // Adds the sums of the warps, in their order, and writes those of the block for classes [k0, k0 + kTile).
  template <class Sum>
  __device__ __forceinline__ void publish(
      const double (&tops)[kOwn], const double (&values)[kOwn], int k0, int buffer) {
    const int t = threadIdx.x, warp = t / kWarp;
    Sum mine;
    double top = 0;
#pragma unroll 1
    for (int w0 = 0; w0 < kSinkhornWarps; w0 += kWarpsAtOnce) {
      if (warp / kWarpsAtOnce == w0 / kWarpsAtOnce && t % kWarp < kLanes) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          const int at = ((warp - w0) * kTile + j * kLanes + lane) * 2;
          sums[at] = tops[j];
          sums[at + 1] = values[j];
        }
      }
      __syncthreads();
      if (t < kTile)
        for (int w = 0; w < kWarpsAtOnce; ++w) mine.add(sums[(w * kTile + t) * 2], sums[(w * kTile + t) * 2 + 1]);
      __syncthreads();
    }
    if (t >= kTile || k0 + t >= s.classes) return;
    if constexpr (sizeof(Sum) == sizeof(LogSum)) top = mine.top;
    const i64 to = partial(buffer, block, k0 + t);
    s.partials[to] = top;
    s.partials[to + 1] = mine.sum;
  }

  // The sum of class k over all blocks of the problem, shared by all threads, in a fixed order; valid in the first
  // `width` threads, one class each.
  template <class Sum>
  __device__ __forceinline__ Sum sum_blocks(int k0, int width, int buffer) {
    const int t = threadIdx.x, parts = kSinkhornThreads / width, part = t / width;
    Sum mine;
    double top = 0;
    if (part < parts) {
      for (int b = part; b < s.blocks; b += parts) {
        const i64 from = partial(buffer, b, k0 + t % width);
        mine.add(s.partials[from], s.partials[from + 1]);
      }
    }
    if constexpr (sizeof(Sum) == sizeof(LogSum)) top = mine.top;
    sums[2 * t] = top;
    sums[2 * t + 1] = mine.sum;
    __syncthreads();
    if (t < width)
      for (int other = t + width; other < parts * width; other += width) mine.add(sums[2 * other], sums[2 * other + 1]);
    __syncthreads();
    return mine;
  }

  // log v_k = log r_k - log c_k.
  __device__ __forceinline__ void wide_scale(int buffer) {
    const int t = threadIdx.x;
#pragma unroll 1
    for (int k0 = 0; k0 < s.classes; k0 += kSinkhornThreads) {
      const int width = s.classes - k0 < kSinkhornThreads ? s.classes - k0 : kSinkhornThreads;
      const double log_sum = sum_blocks<LogSum>(k0, width, buffer).value();
      if (t >= width) continue;
      const double r = share(k0 + t);
      logs[k0 + t] = r > 0 && log_sum > kNothing ? logarithm(r) - log_sum : kNothing;
    }
    __syncthreads();
  }

  // v_k = r_k / c_k, the largest of them 1.
  __device__ __forceinline__ void narrow_scale(int buffer) {
    const int t = threadIdx.x;
    const double sum = sum_blocks<PlainSum>(0, s.classes, buffer).sum;
    if (t < s.classes) logs[t] = sum > 0 ? share(t) / sum : 0.0;
    __syncthreads();
    if (t / kWarp * kWarp < s.classes) {  // whole warps
      double largest = 0;
      for (int k = t % kWarp; k < s.classes; k += kWarp) largest = logs[k] > largest ? logs[k] : largest;
#pragma unroll
      for (int flip = 1; flip < kWarp; flip *= 2) {
        const double other = __shfl_xor_sync(kFullWarp, largest, flip);
        largest = other > largest ? other : largest;
      }
      if (t < s.classes) scalings[t] = largest > 0 ? static_cast<float>(logs[t] / largest) : 0.0f;
    }
    __syncthreads();
  }
};

}  // namespace fastuda::cuda
