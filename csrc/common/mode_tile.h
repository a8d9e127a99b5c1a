// Pieces of a tile's work in mode_losses: reading it, its products of either kind, and where its results will lie.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/products.h"
#include "common/row_tile.h"
#include "common/simd.h"

namespace fastuda {

// block[j] = channel j of the pixels at `at`.
template <Isa isa, class T>
FASTUDA_INLINE void read_block(
    const T* from, const int64_t* at, Vec<Accumulate<T>> (&block)[kLanes<Accumulate<T>>]) {
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512 && std::is_same_v<T, float>) {
    // Quads of four rows meet in a register as they are loaded: half of the shuffles.
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      Vec<float> r[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const auto quad = [&](int row) __attribute__((always_inline)) {
          return reinterpret_cast<const char(*)[16]>(from + at[row] + 4 * q);
        };
        asm("vbroadcastf32x4 %1, %0" : "=v"(r[i]) : "m"(*quad(i)));
        asm("vbroadcastf32x4 %1, %0 %{%2%}" : "+v"(r[i]) : "m"(*quad(i + 4)), "Yk"(uint16_t(0x00f0)));
        asm("vbroadcastf32x4 %1, %0 %{%2%}" : "+v"(r[i]) : "m"(*quad(i + 8)), "Yk"(uint16_t(0x0f00)));
        asm("vbroadcastf32x4 %1, %0 %{%2%}" : "+v"(r[i]) : "m"(*quad(i + 12)), "Yk"(uint16_t(0xf000)));
      }
      transpose_quads(r);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) block[4 * q + i] = r[i];
    }
    return;
  }
#endif
#pragma GCC unroll 16
  for (int j = 0; j < kLanes<Accumulate<T>>; ++j) load(from + at[j], block[j]);
  transpose<Accumulate<T>>(block);
}

// add_dot of `n` rows, 1 to kRows; the `first` run of channels overwrites.
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void set_or_add_dot(
    int64_t n, bool first, const Acc* x, int64_t depth, const Acc* rows, Acc* to, Ahead& ahead) {
  if (n == kRows) {
    if (!first) return add_dot<kVectors, kRows, false>(x, depth, rows, to, ahead);
    Vec<Acc> acc[kRows][kVectors];
    dot<kVectors, kRows, false>(x, depth, rows, acc, ahead);
    for (int b = 0; b < kRows; ++b)
      for (int v = 0; v < kVectors; ++v) store(acc[b][v], to + (b * kVectors + v) * kLanes<Acc>);
    return;
  }
  if constexpr (kRows > 1) set_or_add_dot<kVectors, kRows - 1>(n, first, x, depth, rows, to, ahead);
}

// Asks for the lines that will be written, where they are not too many.
FASTUDA_INLINE void expect_writes(const void* first, int64_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(first);
  for (int64_t b = 0; b < std::min<int64_t>(bytes, 1 << 14); b += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(at + b), 1);
}

}  // namespace fastuda
