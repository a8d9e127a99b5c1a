// Pixels of strided tensors: features (N, A, H, W) or (P, A) and labels (N, H, W) or (P,), in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cpu/simd.h"
#include "labels.h"
#include "tensors.h"

namespace fastuda {

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
  return {joined(pixel_grid(t, true)), t.size(1), t.stride(1)};
}

inline PixelGrid label_grid(const torch::stable::Tensor& t) { return joined(pixel_grid(t, false)); }

// Writes the class of each of `count` labels `step` apart, `classes` for one that is ignored; whether any is a class.
template <class T, class Class>
FASTUDA_INLINE bool read_labels(
    const T* from, int64_t step, int64_t count, int64_t classes, int64_t ignore_index, Class* out) {
  // In 32 bits where these hold the labels. An ignore_index that they do not hold is no label's, like -1.
  using Wide = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  const Wide none = static_cast<Wide>(classes);
  const Wide ignored = ignore_index == static_cast<Wide>(ignore_index) ? static_cast<Wide>(ignore_index) : Wide(-1);
  Class found = 0;
  const auto read = [&](int64_t i, Wide label) {
    const Wide value = class_or(label, none, ignored, none);
    out[i] = static_cast<Class>(value);
    found |= value != none;
  };
  if (step == 1)
    for (int64_t i = 0; i < count; ++i) read(i, static_cast<Wide>(from[i]));
  else
    for (int64_t i = 0; i < count; ++i) read(i, static_cast<Wide>(from[i * step]));
  return found != 0;
}

// The same of labels at an element of a tensor of any of their types.
template <class Class>
FASTUDA_INLINE bool read_labels(
    const void* data, torch::headeronly::ScalarType type, int64_t first, int64_t step, int64_t count, int64_t classes,
    int64_t ignore_index, Class* out) {
  using torch::headeronly::ScalarType;
  if (type == ScalarType::Byte)
    return read_labels(static_cast<const uint8_t*>(data) + first, step, count, classes, ignore_index, out);
  if (type == ScalarType::Int)
    return read_labels(static_cast<const int32_t*>(data) + first, step, count, classes, ignore_index, out);
  return read_labels(static_cast<const int64_t*>(data) + first, step, count, classes, ignore_index, out);
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
    grid.runs(begin, end, [&](int64_t pixel, int64_t offset, int64_t length) FASTUDA_INLINED {
      const T* const from = static_cast<const T*>(data) + offset;
      read_labels(from, grid.column_stride, length, num_classes, ignore_index, out + (pixel - begin));
    });
  }
};

inline LabelView label_view(const torch::stable::Tensor& t, int64_t num_classes, int64_t ignore_index) {
  label_bytes(t);
  return {label_grid(t), t.const_data_ptr(), t.scalar_type(), num_classes, ignore_index};
}

}  // namespace fastuda
