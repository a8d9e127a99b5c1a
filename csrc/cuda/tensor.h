// From tensors of the stable ABI to what kernels take: pointers, strides, the card and the stream.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include "cuda/kernel.h"
#include "tensors.h"

namespace fastuda::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Makes the tensor's device the current one for as long as it lives.
class Device {
 public:
  explicit Device(const Tensor& t) : index_(t.get_device_index()), guard_(index_) {}

  Stream stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<Stream>(stream);
  }

  Card card() const {
    Card card{};
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&card.multiprocessors, cudaDevAttrMultiProcessorCount, index_));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&card.shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, index_));
    return card;
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};

inline Buffer buffer(const Tensor& t) {
  i64 elements = t.numel() ? 1 : 0;
  for (int64_t d = 0; elements && d < t.dim(); ++d) elements += (t.size(d) - 1) * t.stride(d);
  return {const_cast<void*>(t.const_data_ptr()), elements * static_cast<i64>(t.element_size())};
}

// Pixels of (N, A, H, W) or (P, A) with channels, of (N, H, W) or (P,) without.
inline PixelBuffer pixel_buffer(const Tensor& t, bool channels) {
  const fastuda::PixelGrid g = pixel_grid(t, channels);
  return {
      buffer(t),
      {static_cast<u32>(g.height), static_cast<u32>(g.width), g.image_stride, g.row_stride, g.column_stride}};
}

inline int small(int64_t size) {
  STD_TORCH_CHECK(size < (int64_t(1) << 31), "a size of 2^31 or more is not supported on CUDA");
  return static_cast<int>(size);
}

inline u32 pixel_count(const Tensor& features, const Tensor& labels) {
  const int64_t pixels = pixel_grid(features, true).pixels();
  STD_TORCH_CHECK(labels.numel() == pixels, "labels must match the pixels of features");
  return static_cast<u32>(small(pixels));
}

inline Type feature_type(const Tensor& t, const char* name = "features") {
  check_numbers(t, name);
  const ScalarType type = t.scalar_type();
  if (type == ScalarType::Float) return Type::float32;
  if (type == ScalarType::Half) return Type::float16;
  return type == ScalarType::BFloat16 ? Type::bfloat16 : Type::float64;
}

inline ScalarType statistic_type(Type features) {
  return features == Type::float64 ? ScalarType::Double : ScalarType::Float;
}

}  // namespace fastuda::cuda
