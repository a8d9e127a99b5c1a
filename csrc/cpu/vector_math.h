// Exponential and logarithm of whole vectors, from their Taylor series after range reduction.
#pragma once

#include <cmath>

#include "cpu/simd.h"

namespace fastuda {

typedef int32_t Ints __attribute__((vector_size(64)));

// exp(x) for x <= 0, within 2 units in the last place; anything below -87 gives exp(-87) = 1.6e-38, NaN stays NaN.
FASTUDA_INLINE void exp_negative(const Vec<float>& x, Vec<float>& out) {
  const Vec<float> y = x < -87.0f ? Vec<float>{} - 87.0f : x;
  const Ints n = __builtin_convertvector(y * 1.44269504f - 0.5f, Ints);
  const Vec<float> whole = __builtin_convertvector(n, Vec<float>);
  // ln 2 in two parts, the first short enough for exact products.
  const Vec<float> r = (y - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec<float> p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Words power = (Words)(n + 127) << 23;
  Vec<float> scale;
  std::memcpy(&scale, &power, sizeof(scale));
  out = p * scale;
}

// log(x) = whole ln 2 + part for positive, normal, finite x. With m in [0.707, 1.414), part = log m = 2 atanh(s),
// s = (m - 1) / (m + 1).
FASTUDA_INLINE void split_log(const Vec<float>& x, Ints& whole, Vec<float>& part) {
  Words bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const Words shifted = bits - 0x3f3504f3u;  // of sqrt(1/2)
  whole = (Ints)shifted >> 23;
  const Words mantissa = (shifted & 0x7fffffu) + 0x3f3504f3u;
  Vec<float> m;
  std::memcpy(&m, &mantissa, sizeof(m));
  const Vec<float> s = (m - 1.0f) / (m + 1.0f), t = s * s;
  part = t * (2.0f / 9) + 2.0f / 7;
  part = part * t + 2.0f / 5;
  part = part * t + 2.0f / 3;
  part = part * t * s + 2.0f * s;
}

// log(x) for finite x >= 1; NaN stays NaN.
FASTUDA_INLINE void log_from_one(const Vec<float>& x, Vec<float>& out) {
  Ints exponent;
  Vec<float> part;
  split_log(x, exponent, part);
  const Vec<float> whole = __builtin_convertvector(exponent, Vec<float>);
  out = whole * 0.693359375f + (part - whole * 2.12194440e-4f);
  out = x == x ? out : x;
}

FASTUDA_INLINE void exp_negative(const Vec<double>& x, Vec<double>& out) {
  for (int lane = 0; lane < kLanes<double>; ++lane) out[lane] = std::exp(x[lane]);
}

FASTUDA_INLINE void log_from_one(const Vec<double>& x, Vec<double>& out) {
  for (int lane = 0; lane < kLanes<double>; ++lane) out[lane] = std::log(x[lane]);
}

}  // namespace fastuda
