// What the rounds of sinkhorn are made of: the problem as its kernels read it, exponents, sums, shared memory.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

// In float, without logarithms, up to this (max - min) / epsilon: a row's terms are at least e^-60 and the largest
// scaling is 1, so that sums stay below N e^60, and a scaling that underflows (below e^-87) could not have given a row
// 1e-11.
constexpr double kWidest = 60;
constexpr double kNothing = -1.7e308;  // the logarithm of 0: finite, so that no difference of two is NaN

// Acc: what sums are in. The branch on the type of the scores is uniform and costs less than three kernels.
template <class Acc>
struct Sinkhorn {
  Pointer<const float> floats;  // scores (problems, rows, classes), one of the four
  Pointer<const Half> halves;
  Pointer<const BFloat16> brains;
  Pointer<const double> doubles;
  int type;  // as Type counts them
  i64 problem_stride, row_stride, class_stride;
  Pointer<const float> float_shares;  // (problems, classes), one of the two
  Pointer<const double> double_shares;
  bool double_share;
  i64 share_problem_stride, share_class_stride;
  Pointer<Acc> result;  // (problems, current, classes)
  Pointer<double> partials;       // (2, problems, blocks, classes, 2): of a round and of the one before
  Pointer<float> spreads;         // (problems, blocks, 2): largest and least score
  double epsilon;
  float scale, scale_rest;  // log2(e) / epsilon is the sum of the two
  int problems, rows, classes, current, iterations;
  int blocks, block_rows;  // of a problem; of a block
  bool always_wide;

  __device__ __forceinline__ Acc score(i64 at) const {
    if constexpr (sizeof(Acc) == 8) return doubles[at];
    else return type == 0 ? static_cast<float>(floats[at]) : type == 1 ? widen(halves[at]) : widen(brains[at]);
  }
};

// exp((a - b) / epsilon): an exponent rounded to float would cost up to 60 x 2^-24 of the result, so it has two parts.
template <class Acc>
__device__ __forceinline__ float ratio(const Sinkhorn<Acc>& s, float a, float b) {
  const float difference = a - b, back = difference - a;
  const float lost = (a - (difference - back)) - (b + back);  // exactly what the subtraction rounded away
  const float power = difference * s.scale;
  const float rest = fmaf(lost, s.scale, fmaf(difference, s.scale_rest, fmaf(difference, s.scale, -power)));
  const float value = exp2f(power);
  return fmaf(value, rest * 0.693147181f, value);
}

// sum of exp(t), as exp(top) x sum.
struct LogSum {
  double top = kNothing, sum = 0;

  __device__ __forceinline__ void add(double other_top, double other_sum) {
    if (other_sum == 0) return;
    const double above = other_top - top;
    const double factor = exponential(above > 0 ? -above : above);
    sum = above > 0 ? sum * factor + other_sum : sum + other_sum * factor;
    top = above > 0 ? other_top : top;
  }
  __device__ __forceinline__ double value() const { return sum > 0 ? top + logarithm(sum) : kNothing; }
};

struct PlainSum {
  double sum = 0;

  __device__ __forceinline__ void add(double, double other_sum) { sum += other_sum; }
};

// A sum in float that also carries what rounding took from it.
struct CarefulSum {
  float sum = 0, lost = 0;

  // Explicitly fused: another kernel with the same statement gives the same bits.
  __device__ __forceinline__ void add(float a, float b) {
    const float term = fmaf(a, b, -lost), next = sum + term;
    lost = (next - sum) - term;
    sum = next;
  }
};

constexpr int kSinkhornThreads = 512, kSinkhornWarps = kSinkhornThreads / kWarp;
constexpr int kWarpsAtOnce = 8;  // whose sums lie in shared memory at the same time

// What a block has in shared memory. `sums` of warps and `parts` of classes are never needed together.
template <int kTile>
struct SinkhornShared {
  static constexpr int sums_bytes = kWarpsAtOnce * kTile * 16, parts_bytes = kSinkhornThreads * 16;
  static constexpr int table_at = sums_bytes > parts_bytes ? sums_bytes : parts_bytes;
  static constexpr int extremes_at = table_at, flags_at = extremes_at + kSinkhornWarps * 8;
  static constexpr int scalings_at = flags_at + (kSinkhornWarps + 4) * 4;

  static constexpr __host__ __device__ i64 bytes(i64 classes) { return scalings_at + classes * 12; }
};

}  // namespace fastuda::cuda
