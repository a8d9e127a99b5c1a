// Counter-based random numbers: the same bits as fastuda/reference/_random.py.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "cpu/simd.h"

namespace fastuda {

// Bits is uint32_t, or a vector of them.
template <class Bits>
FASTUDA_INLINE Bits mix_bits(Bits x) {
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15)) * 0x735A2D97u;
  return x ^ (x >> 15);
}

struct RandomBits {
  uint32_t first, second;

  template <class Bits>
  FASTUDA_INLINE Bits of(Bits counter, uint32_t stream) const {
    return mix_bits(mix_bits(counter ^ first) + (second + stream * 0x9E3779B9u));
  }
};

// A number in 0..limit-1; 0 where limit is 0.
FASTUDA_INLINE int64_t below(uint32_t bits, int64_t limit) {
  return static_cast<int64_t>((bits * static_cast<uint64_t>(limit)) >> 32);
}

inline RandomBits random_bits(const torch::stable::Tensor& seed) {
  STD_TORCH_CHECK(
      seed.dim() == 1 && seed.size(0) == 2 && seed.scalar_type() == torch::headeronly::ScalarType::Long,
      "seed must be two int64 numbers");
  const int64_t* from = static_cast<const int64_t*>(seed.const_data_ptr());
  return {static_cast<uint32_t>(from[0]), static_cast<uint32_t>(from[seed.stride(0)])};
}

}  // namespace fastuda
