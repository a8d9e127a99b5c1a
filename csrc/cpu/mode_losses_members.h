// Which pixels of a block have which mode as the nearest of its class: bytes to bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/simd.h"

namespace fastuda {

typedef uint8_t Bytes __attribute__((vector_size(16)));
constexpr int kBytes = 16;

// Four rounds that deal two halves of a block into one another bring byte (i, j) to (j, i).
FASTUDA_INLINE void transpose_bytes(Bytes (&rows)[kBytes]) {
  Bytes other[kBytes];
#pragma GCC unroll 2
  for (int round = 0; round < 4; ++round) {
    Bytes(&from)[kBytes] = round % 2 ? other : rows;
    Bytes(&to)[kBytes] = round % 2 ? rows : other;
#pragma GCC unroll 8
    for (int i = 0; i < kBytes / 2; ++i) {
      const Bytes a = from[i], b = from[i + kBytes / 2];
      to[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      to[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
  }
}

// Bit j is set where byte j is `value`.
FASTUDA_INLINE uint64_t equal_bits(const Bytes& bytes, uint8_t value) {
  const auto equal = bytes == Bytes{} + value;
#if defined(__x86_64__)
  typedef char Chars __attribute__((vector_size(16)));
  return static_cast<uint16_t>(__builtin_ia32_pmovmskb128((Chars)equal));
#else
  uint64_t bits = 0;
  for (int j = 0; j < kBytes; ++j) bits |= static_cast<uint64_t>(equal[j] & 1) << j;
  return bits;
#endif
}

// to[j] = min(from[j], most) for `count` bytes; nothing beyond them is read.
FASTUDA_INLINE void copy_bytes(const uint8_t* from, int64_t count, uint8_t most, uint8_t* to) {
  if (count < kBytes) {
    for (int64_t j = 0; j < count; ++j) to[j] = std::min(from[j], most);
    return;
  }
  const Bytes limit = Bytes{} + most;
  for (int64_t next = 0; next < count; next += kBytes) {
    const int64_t j = std::min(next, count - kBytes);  // the last vector overlaps the one before
    Bytes b;
    std::memcpy(&b, from + j, kBytes);
    b = b < limit ? b : limit;
    std::memcpy(to + j, &b, kBytes);
  }
}

// members[k * per_class + m] = bits of the pixels i of `valid` with near[i][k] = m. near: 64 rows of `pitch` bytes, a
// multiple of 16.
FASTUDA_INLINE void find_members(
    const uint8_t* near, int64_t pitch, int64_t classes, int64_t per_class, uint64_t valid, uint64_t* members) {
  for (int64_t first = 0; first < classes; first += kBytes) {
    Bytes block[4][kBytes];
    for (int q = 0; q < 4; ++q) {
      for (int i = 0; i < kBytes; ++i) std::memcpy(&block[q][i], near + (q * kBytes + i) * pitch + first, kBytes);
      transpose_bytes(block[q]);
    }
    for (int64_t k = first; k < std::min(first + kBytes, classes); ++k)
      for (int64_t m = 0; m < per_class; ++m) {
        uint64_t bits = 0;
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q)
          bits |= equal_bits(block[q][k - first], static_cast<uint8_t>(m)) << (q * kBytes);
        *members++ = bits & valid;
      }
  }
}

}  // namespace fastuda
