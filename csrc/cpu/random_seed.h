// The seed of the operators that draw, as a tensor on the CPU.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "random_bits.h"

namespace fastuda {

inline RandomBits random_bits(const torch::stable::Tensor& seed) {
  STD_TORCH_CHECK(
      seed.dim() == 1 && seed.size(0) == 2 && seed.scalar_type() == torch::headeronly::ScalarType::Long,
      "seed must be two int64 numbers");
  const int64_t* from = static_cast<const int64_t*>(seed.const_data_ptr());
  return {static_cast<uint32_t>(from[0]), static_cast<uint32_t>(from[seed.stride(0)])};
}

}  // namespace fastuda
