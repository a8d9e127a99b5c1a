// Counter-based random numbers on a GPU: the same bits as fastuda/reference/_random.py and random_bits.h.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

using u64 = unsigned long long;

__device__ __forceinline__ u32 mix_bits(u32 x) {
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15)) * 0x735A2D97u;
  return x ^ (x >> 15);
}

// Two numbers below 2^32 in the card's memory: the host never waits for them.
struct Seed {
  Pointer<const i64> at;
  i64 stride;
};

struct RandomBits {
  u32 first, second;

  __device__ __forceinline__ explicit RandomBits(const Seed& seed)
      : first(static_cast<u32>(seed.at[0])), second(static_cast<u32>(seed.at[seed.stride])) {}

  __device__ __forceinline__ u32 of(u32 counter, u32 stream) const {
    return mix_bits(mix_bits(counter ^ first) + (second + stream * 0x9E3779B9u));
  }
};

// A number in 0..limit-1; 0 where limit is 0.
__device__ __forceinline__ int below(u32 bits, int limit) {
  return static_cast<int>((static_cast<u64>(bits) * static_cast<u32>(limit)) >> 32);
}

}  // namespace fastuda::cuda
