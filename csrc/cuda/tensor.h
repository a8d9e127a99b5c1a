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

// Pixels of (N, A, H, W) or (P, A), or without channels of (N, H, W) or (P,).
inline PixelBuffer pixel_buffer(const Tensor& t, bool channels) {
  const int64_t h = channels ? 2 : 1;
  if (t.dim() == h) return {buffer(t), {1, static_cast<u32>(t.size(0)), 0, 0, t.stride(0)}};
  return {
      buffer(t),
      {static_cast<u32>(t.size(h)), static_cast<u32>(t.size(h + 1)), t.stride(0), t.stride(h), t.stride(h + 1)}};
}

inline int small(int64_t size) {
  STD_TORCH_CHECK(size < (int64_t(1) << 31), "a size of 2^31 or more is not supported on CUDA");
  return static_cast<int>(size);
}

inline u32 pixel_count(const Tensor& features, const Tensor& labels) {
  const int64_t pixels = features.dim() == 2 ? features.size(0)
                                             : features.size(0) * features.size(2) * features.size(3);
  STD_TORCH_CHECK(labels.numel() == pixels, "labels must match the pixels of features");
  return static_cast<u32>(small(pixels));
}

inline Type feature_type(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  if (type == ScalarType::Float) return Type::float32;
  if (type == ScalarType::Half) return Type::float16;
  if (type == ScalarType::BFloat16) return Type::bfloat16;
  STD_TORCH_CHECK(type == ScalarType::Double, "features must be float32, float16, bfloat16 or float64");
  return Type::float64;
}

inline ScalarType statistic_type(Type features) {
  return features == Type::float64 ? ScalarType::Double : ScalarType::Float;
}

inline int label_bytes(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  if (type == ScalarType::Byte) return 1;
  if (type == ScalarType::Int) return 4;
  STD_TORCH_CHECK(type == ScalarType::Long, "labels must be uint8, int32 or int64");
  return 8;
}

}  // namespace fastuda::cuda
