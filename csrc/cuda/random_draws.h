// The seed of the operators that draw, in the memory of a card.
#pragma once

#include "cuda/kernel.h"
#include "random_bits.h"

namespace fastuda::cuda {

// Two numbers below 2^32 in the card's memory: the host never waits for them.
struct Seed {
  Pointer<const i64> at;
  i64 stride;
};

__device__ __forceinline__ RandomBits random_bits(const Seed& seed) {
  return {static_cast<u32>(seed.at[0]), static_cast<u32>(seed.at[seed.stride])};
}

}  // namespace fastuda::cuda
