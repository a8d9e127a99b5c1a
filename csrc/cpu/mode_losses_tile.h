// Pieces of a tile's work in mode_losses: reading it, its products of either kind, and where its results will lie.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/products.h"
#include "cpu/row_tile.h"
#include "cpu/widen.h"

namespace fastuda {

// block[j] = channel `column` + j of the pixels at `at`.
template <Isa isa, class Acc>
FASTUDA_INLINE void read_block(
    const void* data, torch::headeronly::ScalarType type, const int64_t* at, int64_t column,
    Vec<Acc> (&block)[kLanes<Acc>]) {
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512) if (type == torch::headeronly::ScalarType::Float) {
    const float* const from = static_cast<const float*>(data) + column;
    // Quads of four rows meet in a register as they are loaded: half of the shuffles.
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      Vec<float> r[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        const auto quad = [&](int row) FASTUDA_INLINED {
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
  load_square<isa, Acc>(data, type, at, column, block);
}

// block[k] = channel `channel` + k of a vector of pixels at `at`, which follow one another where `dense`; zeros from
// `width` on.
template <Isa isa, class Acc>
FASTUDA_INLINE void load_planes(
    const void* data, torch::headeronly::ScalarType type, const int64_t* at, bool dense, int64_t channel,
    int64_t stride, int64_t width, Vec<Acc> (&block)[kLanes<Acc>]) {
  constexpr int step = kLanes<Acc>;
  alignas(64) Acc copy[step * step];
  const Acc* from = copy;
  int64_t pitch = step;
  if (!dense) {
    read_scattered(data, type, at, step, channel * stride, stride, width, copy, step);
  } else if (type != kTypeOf<Acc>) {
    read_rows<Acc, isa>(data, type, {at[0] + channel * stride, nullptr, stride}, width, step, copy, step);
  } else {
    from = static_cast<const Acc*>(data) + at[0] + channel * stride;
    pitch = stride;
  }
  for (int64_t k = 0; k < step; ++k) {
    block[k] = Vec<Acc>{};
    if (k < width) load(from + k * pitch, block[k]);
  }
}

// The reverse, of the first `lanes` pixels, rounded to `type`.
template <Isa isa, class Acc>
FASTUDA_INLINE void store_planes(
    const Vec<Acc> (&block)[kLanes<Acc>], const int64_t* at, int64_t lanes, bool dense, int64_t channel,
    int64_t stride, int64_t width, void* data, torch::headeronly::ScalarType type) {
  constexpr int step = kLanes<Acc>;
  if (dense && type == kTypeOf<Acc>) {
    for (int64_t k = 0; k < width; ++k) store(block[k], static_cast<Acc*>(data) + at[0] + (channel + k) * stride);
    return;
  }
  alignas(64) Acc copy[step * step];
  for (int k = 0; k < step; ++k) store(block[k], copy + k * step);
  if (dense) write_rows<Acc, isa>(copy, step, {at[0] + channel * stride, nullptr, stride}, width, lanes, data, type);
  else write_scattered(copy, step, at, lanes, channel * stride, stride, width, data, type);
}

// to = the products of `n` rows, 1 to kRows.
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void set_dot_of(int64_t n, const Acc* x, int64_t depth, const Acc* rows, Acc* to, Ahead& ahead) {
  if (n == kRows) {
    Vec<Acc> acc[kRows][kVectors];
    dot<kVectors, kRows>(x, depth, rows, false, acc, ahead);
#pragma GCC unroll 16
    for (int b = 0; b < kRows; ++b)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) store(acc[b][v], to + (b * kVectors + v) * kLanes<Acc>);
    return;
  }
  if constexpr (kRows > 1) set_dot_of<kVectors, kRows - 1>(n, x, depth, rows, to, ahead);
}

// Asks for the lines that will be written, where they are not too many.
FASTUDA_INLINE void expect_writes(const void* first, int64_t bytes) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(first);
  for (int64_t b = 0; b < std::min<int64_t>(bytes, 1 << 14); b += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(at + b), 1);
}

}  // namespace fastuda
