// What a row of upsampled pixels needs beside its scores: powers of two for the softmax, choices, labels and weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cpu/vector_math.h"

namespace fastuda {

// 2^x for x <= 0, within 2 units in the last place; anything below -126 gives 2^-126, NaN stays NaN. A least-squares
// fit of the relative error on [-1/2, 1/2], below 1e-7.
FASTUDA_INLINE void power_negative(const Vec<float>& x, Vec<float>& out) {
  const Vec<float> y = x < -126.0f ? Vec<float>{} - 126.0f : x;
  const Vec<float> sum = y + 12582912.0f;  // its last bit is worth 1: the whole part, to the nearest
  const Vec<float> f = y - (sum - 12582912.0f);
  Vec<float> p = f * 0.0013264727f + 0.009671513f;
  p = p * f + 0.055507336f;
  p = p * f + 0.24022242f;
  p = p * f + 0.693147f;
  p = p * f + 1.0f;
  Words bits, exponent;
  std::memcpy(&bits, &p, sizeof(bits));
  std::memcpy(&exponent, &sum, sizeof(exponent));
  bits += exponent << 23;
  std::memcpy(&out, &bits, sizeof(out));
}
FASTUDA_INLINE void power_negative(const Vec<double>& x, Vec<double>& out) {
  for (int lane = 0; lane < kLanes<double>; ++lane) out[lane] = std::exp2(x[lane]);
}

// The value where a mask is set, else 0. A choice by a mask that is used twice would be taken lane by lane.
template <class V, class Mask>
FASTUDA_INLINE V kept(const Mask& mask, const V& value) {
  Mask bits;
  V out;
  std::memcpy(&bits, &value, sizeof(bits));
  bits &= mask;
  std::memcpy(&out, &bits, sizeof(out));
  return out;
}

// Labels and pixel weights of (N, H, W), any strides.
struct PixelPlane {
  const void* data = nullptr;
  torch::headeronly::ScalarType type{};
  int64_t image_stride = 0, row_stride = 0, column_stride = 0;
};

inline PixelPlane pixel_plane(const torch::stable::Tensor& t) {
  return {t.const_data_ptr(), t.scalar_type(), t.stride(0), t.stride(1), t.stride(2)};
}

// Class of each of `count` pixels of a row, `classes` for an ignored one; whether any counts.
template <class T, class Label>
FASTUDA_INLINE bool read_label_row(
    const T* from, int64_t step, int64_t count, int64_t classes, int64_t ignore_index, Label* out) {
  using Wide = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  const Wide most = static_cast<Wide>(classes);
  const Wide ignored = ignore_index == static_cast<Wide>(ignore_index) ? static_cast<Wide>(ignore_index) : Wide(-1);
  Label found = 0;
  const auto one = [&](int64_t i, Wide label) {
    const bool valid = (label >= 0) & (label < most) & (label != ignored);
    out[i] = static_cast<Label>(valid ? label : most);
    found |= valid;
  };
  if (step == 1)
    for (int64_t i = 0; i < count; ++i) one(i, static_cast<Wide>(from[i]));
  else
    for (int64_t i = 0; i < count; ++i) one(i, static_cast<Wide>(from[i * step]));
  return found != 0;
}

template <class Label>
FASTUDA_INLINE bool read_label_row(
    const PixelPlane& p, int64_t image, int64_t row, int64_t column, int64_t count, int64_t classes,
    int64_t ignore_index, Label* out) {
  using torch::headeronly::ScalarType;
  const int64_t at = image * p.image_stride + row * p.row_stride + column * p.column_stride, step = p.column_stride;
  if (p.type == ScalarType::Byte)
    return read_label_row(static_cast<const uint8_t*>(p.data) + at, step, count, classes, ignore_index, out);
  if (p.type == ScalarType::Int)
    return read_label_row(static_cast<const int32_t*>(p.data) + at, step, count, classes, ignore_index, out);
  return read_label_row(static_cast<const int64_t*>(p.data) + at, step, count, classes, ignore_index, out);
}

}  // namespace fastuda
