// 16-bit numbers are widened to float32 as they are read, and narrowed as they are written.
//
// All arithmetic is float32. Where a vector of 64 bytes is one register (AVX-512), a conversion is a few instructions
// and is inlined. Elsewhere a conversion is so much code that inlining it took most of the compile time: there it is a
// function of its own, and the converted rows pass through a few lines of the L1 cache.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/simd.h"

namespace fastuda {

template <Isa isa>
inline constexpr bool kWholeVectors = isa == Isa::avx512;

// with_type where conversions are inlined; elsewhere run.operator()<Acc>() alone.
template <class Acc, Isa isa, class Run>
FASTUDA_INLINE void with_type_on(torch::headeronly::ScalarType type, const Run& run) {
  if constexpr (kWholeVectors<isa>) with_type<Acc>(type, run);
  else run.template operator()<Acc>();
}

// Where rows of numbers begin in a tensor: at offsets, or a stride from each other. Numbers of a row are `step` apart.
struct Rows {
  int64_t first;
  const int64_t* offsets;  // null: a stride
  int64_t stride = 0, step = 1;

  FASTUDA_INLINE int64_t at(int64_t row) const { return first + (offsets ? offsets[row] : row * stride); }
};

// to[row][column], `pitch` apart, with zeros up to a whole vector.
template <class Acc, Isa isa>
void read_rows(
    const void* data, torch::headeronly::ScalarType type, const Rows& rows, int64_t count, int64_t columns, Acc* to,
    int64_t pitch) {
  constexpr int lanes = kLanes<Acc>;
  on_isa<Acc, isa>([&]() FASTUDA_INLINED {
    with_type<Acc>(type, [&]<class T>() FASTUDA_INLINED {
      for (int64_t i = 0; i < count; ++i) {
        const T* const from = static_cast<const T*>(data) + rows.at(i);
        Acc* const out = to + i * pitch;
        const int64_t end = (columns + lanes - 1) / lanes * lanes;
        if (end > columns) store(Vec<Acc>{}, out + end - lanes);
        if (rows.step == 1 && columns >= lanes) {
          for (int64_t next = 0; next < columns; next += lanes) {
            const int64_t c = std::min(next, columns - lanes);  // the last vector overlaps the one before
            Vec<Acc> x;
            load(from + c, x);
            store(x, out + c);
          }
          continue;
        }
        for (int64_t c = 0; c < columns; ++c) out[c] = static_cast<Acc>(from[c * rows.step]);
      }
    });
  });
}

// The reverse, rounded to `type`; nothing is written beyond the columns.
template <class Acc, Isa isa>
void write_rows(
    const Acc* from, int64_t pitch, const Rows& rows, int64_t count, int64_t columns, void* data,
    torch::headeronly::ScalarType type) {
  constexpr int lanes = kLanes<Acc>;
  on_isa<Acc, isa>([&]() FASTUDA_INLINED {
    with_type<Acc>(type, [&]<class T>() FASTUDA_INLINED {
      for (int64_t i = 0; i < count; ++i) {
        T* const to = static_cast<T*>(data) + rows.at(i);
        const Acc* const numbers = from + i * pitch;
        Vec<Acc> x;
        int64_t c = 0;
        for (; rows.step == 1 && c + lanes <= columns; c += lanes) {
          load(numbers + c, x);
          store(x, to + c);
        }
        for (; c < columns; ++c) to[c * rows.step] = static_cast<T>(numbers[c]);
      }
    });
  });
}

// The same where the numbers of a row lie anywhere: at offsets, the rows a stride from each other.
template <class Acc>
void read_scattered(
    const void* data, torch::headeronly::ScalarType type, const int64_t* offsets, int64_t columns, int64_t first,
    int64_t stride, int64_t count, Acc* to, int64_t pitch) {
  with_type<Acc>(type, [&]<class T>() {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < columns; ++c)
        to[i * pitch + c] = static_cast<Acc>(static_cast<const T*>(data)[first + offsets[c] + i * stride]);
  });
}

template <class Acc>
void write_scattered(
    const Acc* from, int64_t pitch, const int64_t* offsets, int64_t columns, int64_t first, int64_t stride,
    int64_t count, void* data, torch::headeronly::ScalarType type) {
  with_type<Acc>(type, [&]<class T>() {
    for (int64_t i = 0; i < count; ++i)
      for (int64_t c = 0; c < columns; ++c)
        static_cast<T*>(data)[first + offsets[c] + i * stride] = static_cast<T>(from[i * pitch + c]);
  });
}

// block[j] = one vector of the row at offsets[j] + column; transposed, it is a square of [column][row].
template <Isa isa, class Acc>
FASTUDA_INLINE void load_square(
    const void* data, torch::headeronly::ScalarType type, const int64_t* offsets, int64_t column,
    Vec<Acc> (&block)[kLanes<Acc>]) {
  constexpr int step = kLanes<Acc>;
  if (kWholeVectors<isa> || type == kTypeOf<Acc>) {
    with_type_on<Acc, isa>(type, [&]<class T>() FASTUDA_INLINED {
      const T* const from = static_cast<const T*>(data) + column;
#pragma GCC unroll 16
      for (int j = 0; j < step; ++j) load(from + offsets[j], block[j]);
      transpose<Acc>(block);
    });
    return;
  }
  alignas(64) Acc copy[step * step];
  read_rows<Acc, isa>(data, type, {column, offsets}, step, step, copy, step);
#pragma GCC unroll 16
  for (int j = 0; j < step; ++j) load(copy + j * step, block[j]);
  transpose<Acc>(block);
}

}  // namespace fastuda
