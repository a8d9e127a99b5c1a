// exp(S / eps) in float32 relative to a shift of any size, and the range of the exponents.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace fastuda {

// What a chunk's first sweep found: whole parts of S / (eps ln 2), less `shift`.
struct Range {
  double shift;
  double low, high;  // NaN where a score is not finite or too large to be split

  double lowest() const { return shift + low; }
  double highest() const { return shift + high; }
};

// 2^f for |f| <= 1/2 within 2e-9, a least-squares fit of the relative error.
FASTUDA_INLINE Vec<float> power_of_fraction(const Vec<float>& f) {
  Vec<float> y = f * 0.00015337577f + 0.001339986f;
  y = y * f + 0.0096185198f;
  y = y * f + 0.05550329f;
  y = y * f + 0.24022646f;
  y = y * f + 0.69314718f;
  return y * f + 1.0f;
}

typedef float HalfVec __attribute__((vector_size(32)));

// a b - c, rounded once. The compiler fuses only above some level of optimisation; here the result depends on it.
template <Isa isa>
FASTUDA_INLINE Vec<float> product_less(const Vec<float>& a, float b, const Vec<float>& c) {
  Vec<float> out = c;
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512) {
    const Vec<float> factor = Vec<float>{} + b;
    asm("vfmsub231ps %2, %1, %0" : "+v"(out) : "v"(a), "v"(factor));
    return out;
  } else if constexpr (isa == Isa::avx2) {
    const HalfVec factor = HalfVec{} + b;
    HalfVec x[2], y[2];
    std::memcpy(x, &a, sizeof(a));
    std::memcpy(y, &c, sizeof(c));
    for (int i = 0; i < 2; ++i) asm("vfmsub231ps %2, %1, %0" : "+x"(y[i]) : "x"(x[i]), "x"(factor));
    std::memcpy(&out, y, sizeof(out));
    return out;
  }
#endif
  for (int i = 0; i < kLanes<float>; ++i) out[i] = static_cast<float>(static_cast<double>(a[i]) * b - c[i]);
  return out;
}

// exp(S / eps) 2^-shift, and notes the whole part of its exponent.
//
// The whole part m of S / (eps ln 2) comes from the rounding of an addition whose last bit is worth 1; m - shift is
// then in its low bits, ready to be added to an exponent. The fraction keeps its digits because the product is rounded
// only after the subtraction of m.
template <Isa isa>
struct ScaledExp {
  float high, low, magic;
  Words least = ~Words{}, most = Words{};

  FASTUDA_INLINE Vec<float> operator()(const Vec<float>& s) {
    const Vec<float> sum = s * high + magic;
    const Vec<float> whole = sum - magic;
    const Vec<float> y = power_of_fraction(s * low + product_less<isa>(s, high, whole));
    Vec<float> out;
    Words bits, exponent;
    std::memcpy(&bits, &y, sizeof(bits));
    std::memcpy(&exponent, &sum, sizeof(exponent));
    least = exponent < least ? exponent : least;
    most = exponent > most ? exponent : most;
    bits += exponent << 23;
    std::memcpy(&out, &bits, sizeof(out));
    return out;
  }

  Range range(double shift) const {
    uint32_t first = least[0], last = most[0];
    for (int i = 1; i < kLanes<float>; ++i) {
      first = std::min(first, least[i]);
      last = std::max(last, most[i]);
    }
    // Sums outside [2^23, 2^24) and what is not finite have bits outside these.
    if (first < 0x4b000000u || last >= 0x4b800000u) return {shift, NAN, NAN};
    return {shift, static_cast<double>(first) - 0x4b400000u, static_cast<double>(last) - 0x4b400000u};
  }
};

}  // namespace fastuda
