// Powers of two for the softmax of upsampled pixels, and their labels and weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cpu/pixels.h"
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

// The value where a mask is set, else 0. With ?: the compiler would select lane by lane if the mask is used twice.
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

// Writes the class of each of `count` pixels of a row, `classes` for an ignored one; whether any is a class.
template <class Class>
FASTUDA_INLINE bool read_label_row(
    const PixelPlane& p, int64_t image, int64_t row, int64_t column, int64_t count, int64_t classes,
    int64_t ignore_index, Class* out) {
  const int64_t first = image * p.image_stride + row * p.row_stride + column * p.column_stride;
  return read_labels(p.data, p.type, first, p.column_stride, count, classes, ignore_index, out);
}

}  // namespace fastuda
