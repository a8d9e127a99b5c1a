// Counter-based random numbers: the same bits as fastuda/reference/_random.py on every device.
#pragma once

#include "portable.h"

namespace fastuda {

// Bits is an unsigned integer of 32 bits, or a vector of them.
template <class Bits>
FASTUDA_SHARED Bits mix_bits(Bits x) {
  x = (x ^ (x >> 16)) * 0x21F0AAADu;
  x = (x ^ (x >> 15)) * 0x735A2D97u;
  return x ^ (x >> 15);
}

// The random numbers of a seed: `of` gives the number at a counter of a stream.
struct RandomBits {
  unsigned first, second;

  template <class Bits>
  FASTUDA_SHARED Bits of(Bits counter, unsigned stream) const {
    return mix_bits(mix_bits(counter ^ first) + (second + stream * 0x9E3779B9u));
  }
};

// A number in 0..limit-1, from 32 random bits; 0 where limit is 0.
FASTUDA_SHARED unsigned below(unsigned bits, unsigned limit) {
  return static_cast<unsigned>((bits * static_cast<unsigned long long>(limit)) >> 32);
}

}  // namespace fastuda
