// What both rooms read of tensors of the stable ABI, and refuse.
#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace fastuda {

// Pixels of a strided tensor, in elements. A (P, A) or (P,) tensor is one image of one row.
struct PixelGrid {
  int64_t images, height, width;
  int64_t image_stride, row_stride, column_stride;

  int64_t pixels() const { return images * height * width; }
  // Largest element offset of a pixel, where there are any.
  int64_t furthest() const {
    return (images - 1) * image_stride + (height - 1) * row_stride + (width - 1) * column_stride;
  }

  // Calls run(first pixel, element offset, number of pixels) for each piece of a row inside [begin, end).
  template <class Run>
  void runs(int64_t begin, int64_t end, const Run& run) const {
    for (int64_t pixel = begin; pixel < end;) {
      const int64_t column = pixel % width, row = pixel / width % height, image = pixel / (width * height);
      const int64_t length = std::min(width - column, end - pixel);
      run(pixel, image * image_stride + row * row_stride + column * column_stride, length);
      pixel += length;
    }
  }
};

// Of (N, A, H, W) or (P, A) with channels; of (N, H, W) or (P,) without.
inline PixelGrid pixel_grid(const torch::stable::Tensor& t, bool channels) {
  const int64_t h = channels ? 2 : 1;
  if (t.dim() == h) return {1, 1, t.size(0), 0, 0, t.stride(0)};
  return {t.size(0), t.size(h), t.size(h + 1), t.stride(0), t.stride(h), t.stride(h + 1)};
}

// The type in which numbers of a type are summed.
inline torch::headeronly::ScalarType sum_type(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Throws unless a tensor holds numbers that the kernels read; `name` is what the operator calls the tensor.
inline void check_numbers(const torch::stable::Tensor& t, const char* name) {
  using torch::headeronly::ScalarType;
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      name, " must be float32, float16, bfloat16 or float64");
}

// Whether a tensor of weights, thresholds or statistics is float64; throws unless it is that or float32.
inline bool is_double(const torch::stable::Tensor& t, const char* name) {
  using torch::headeronly::ScalarType;
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, name, " must be float32 or float64");
  return type == ScalarType::Double;
}

// Bytes of a label: 1, 4 or 8; throws for other types than those of labels.
inline int label_bytes(const torch::stable::Tensor& t, const char* name = "labels") {
  using torch::headeronly::ScalarType;
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long, name,
      " must be uint8, int32 or int64");
  return type == ScalarType::Byte ? 1 : type == ScalarType::Int ? 4 : 8;
}

inline void check_scores(const torch::stable::Tensor& t, const char* name) {
  check_numbers(t, name);
  STD_TORCH_CHECK(
      t.dim() == 4 && t.size(1) >= 1 && t.size(2) >= 1 && t.size(3) >= 1, name,
      " must be (N, K, h, w) with K, h, w >= 1");
}

}  // namespace fastuda
