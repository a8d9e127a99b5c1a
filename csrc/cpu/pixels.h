// Pixels of strided tensors: features (N, A, H, W) or (P, A) and labels (N, H, W) or (P,), in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "cpu/simd.h"

namespace fastuda {

// A (P, A) tensor is one image of one row.
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

struct FeatureView {
  PixelGrid grid;
  int64_t channels, channel_stride;
};

// The same pixels in the same order with rows and images joined where the strides allow it: long runs are cheap.
inline PixelGrid joined(PixelGrid g) {
  if (g.width == 1 || g.height == 1 || g.row_stride == g.width * g.column_stride) {
    if (g.width == 1) g.column_stride = g.row_stride;
    g.width *= g.height;
    g.height = 1;
  }
  if (g.height == 1 && (g.width == 1 || g.images == 1 || g.image_stride == g.width * g.column_stride)) {
    if (g.width == 1) g.column_stride = g.image_stride;
    g.width *= g.images;
    g.images = 1;
  }
  return g;
}

inline FeatureView feature_view(const torch::stable::Tensor& t) {
  if (t.dim() == 2) return {{1, 1, t.size(0), 0, 0, t.stride(0)}, t.size(1), t.stride(1)};
  const PixelGrid grid{t.size(0), t.size(2), t.size(3), t.stride(0), t.stride(2), t.stride(3)};
  return {joined(grid), t.size(1), t.stride(1)};
}

inline PixelGrid label_grid(const torch::stable::Tensor& t) {
  if (t.dim() == 1) return {1, 1, t.size(0), 0, 0, t.stride(0)};
  return joined({t.size(0), t.size(1), t.size(2), t.stride(0), t.stride(1), t.stride(2)});
}

struct LabelView {
  PixelGrid grid;
  const void* data;
  torch::headeronly::ScalarType type;
  int64_t num_classes, ignore_index;

  // Writes the class of pixels [begin, end), or num_classes where the pixel is ignored.
  FASTUDA_INLINE void read(int64_t begin, int64_t end, int32_t* out) const {
    using torch::headeronly::ScalarType;
    if (type == ScalarType::Byte) return read_as<uint8_t>(begin, end, out);
    if (type == ScalarType::Int) return read_as<int32_t>(begin, end, out);
    read_as<int64_t>(begin, end, out);
  }

 private:
  template <class T>
  FASTUDA_INLINE void read_as(int64_t begin, int64_t end, int32_t* out) const {
    // 32 bits where they do; an ignore_index beyond them is no label's, like -1, which is no class either.
    using Wide = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
    const Wide classes = static_cast<Wide>(num_classes);
    const Wide ignored = ignore_index == static_cast<Wide>(ignore_index) ? static_cast<Wide>(ignore_index) : Wide(-1);
    const int64_t step = grid.column_stride;
    const auto convert = [=](Wide label) {  // without a branch, which would be guessed wrong at ignored pixels
      const bool valid = (label >= 0) & (label < classes) & (label != ignored);
      return static_cast<int32_t>(valid ? label : classes);
    };
    grid.runs(begin, end, [&](int64_t pixel, int64_t offset, int64_t length) {
      const T* from = static_cast<const T*>(data) + offset;
      int32_t* to = out + (pixel - begin);
      if (step == 1)
        for (int64_t i = 0; i < length; ++i) to[i] = convert(from[i]);
      else
        for (int64_t i = 0; i < length; ++i) to[i] = convert(from[i * step]);
    });
  }
};

inline LabelView label_view(const torch::stable::Tensor& t, int64_t num_classes, int64_t ignore_index) {
  using torch::headeronly::ScalarType;
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long,
      "labels must be uint8, int32 or int64");
  return {label_grid(t), t.const_data_ptr(), type, num_classes, ignore_index};
}

}  // namespace fastuda
