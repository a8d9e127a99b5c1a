// Blocks of 16 rows of a matrix as [column][16] float32 and back, for matrices of few columns: no column is padded.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/widen.h"

namespace fastuda {

constexpr int64_t kTileRows = 16;

typedef float Quad __attribute__((vector_size(16)));
typedef float Oct __attribute__((vector_size(32)));

// Four vectors of four quads: transposes quad i of all four vectors as a 4 x 4 block.
FASTUDA_INLINE void transpose_quads(Vec<float> (&r)[4]) {
  const Vec<float> a = __builtin_shufflevector(
      r[0], r[1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  const Vec<float> b = __builtin_shufflevector(
      r[0], r[1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  const Vec<float> c = __builtin_shufflevector(
      r[2], r[3], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  const Vec<float> d = __builtin_shufflevector(
      r[2], r[3], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  r[0] = __builtin_shufflevector(a, c, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
  r[1] = __builtin_shufflevector(a, c, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
  r[2] = __builtin_shufflevector(b, d, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
  r[3] = __builtin_shufflevector(b, d, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}

FASTUDA_INLINE void join_quads(const float* const (&from)[4], Vec<float>& to) {
  Quad q[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&q[i], from[i], sizeof(Quad));
  const Oct low = __builtin_shufflevector(q[0], q[1], 0, 1, 2, 3, 4, 5, 6, 7);
  const Oct high = __builtin_shufflevector(q[2], q[3], 0, 1, 2, 3, 4, 5, 6, 7);
  to = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Four columns from c on.
FASTUDA_INLINE void four_columns(const float* at, int64_t pitch, float* to) {
  Vec<float> r[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const float* const rows[4] = {at + i * pitch, at + (4 + i) * pitch, at + (8 + i) * pitch, at + (12 + i) * pitch};
    join_quads(rows, r[i]);
  }
  transpose_quads(r);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) store(r[i], to + i * kTileRows);
}

// Sixteen columns: quads change places between rows 4 apart, then each 4 x 4 block is transposed.
FASTUDA_INLINE void sixteen_columns(const float* at, int64_t pitch, float* to) {
  Vec<float> quads[4][4];  // [columns / 4][row % 4]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    Vec<float> r[4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) load(at + (4 * j + i) * pitch, r[j]);
    const Vec<float> a = __builtin_shufflevector(r[0], r[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    const Vec<float> b =
        __builtin_shufflevector(r[0], r[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    const Vec<float> c = __builtin_shufflevector(r[2], r[3], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
    const Vec<float> d =
        __builtin_shufflevector(r[2], r[3], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
    quads[0][i] = __builtin_shufflevector(a, c, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    quads[1][i] = __builtin_shufflevector(a, c, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    quads[2][i] = __builtin_shufflevector(b, d, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    quads[3][i] = __builtin_shufflevector(b, d, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
  }
#pragma GCC unroll 4
  for (int q = 0; q < 4; ++q) {
    transpose_quads(quads[q]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) store(quads[q][i], to + (4 * q + i) * kTileRows);
  }
}

// A 4 x 4 block, for machines without registers of 64 bytes: rows and columns `pitch` apart.
FASTUDA_INLINE void four_by_four(const float* from, int64_t from_pitch, float* to, int64_t to_pitch) {
  Quad r[4], t[4];
  for (int i = 0; i < 4; ++i) __builtin_memcpy(&r[i], from + i * from_pitch, sizeof(Quad));
  t[0] = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
  t[1] = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  t[2] = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  t[3] = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  r[0] = __builtin_shufflevector(t[0], t[2], 0, 1, 4, 5);
  r[1] = __builtin_shufflevector(t[0], t[2], 2, 3, 6, 7);
  r[2] = __builtin_shufflevector(t[1], t[3], 0, 1, 4, 5);
  r[3] = __builtin_shufflevector(t[1], t[3], 2, 3, 6, 7);
  for (int i = 0; i < 4; ++i) __builtin_memcpy(to + i * to_pitch, &r[i], sizeof(Quad));
}

// to[column][16] = 16 rows, `pitch` apart, of at least 4 adjacent columns. The last four columns may overlap others.
template <Isa isa>
FASTUDA_INLINE void rows_to_tile(const float* from, int64_t pitch, int64_t columns, float* to) {
  int64_t c = 0;
  for (; isa == Isa::avx512 && c + 16 <= columns; c += 16) sixteen_columns(from + c, pitch, to + c * kTileRows);
  for (; c < columns; c += 4) {
    const int64_t at = std::min(c, columns - 4);
    if constexpr (isa == Isa::avx512) {
      four_columns(from + at, pitch, to + at * kTileRows);
    } else {
      for (int i = 0; i < kTileRows; i += 4)
        four_by_four(from + i * pitch + at, pitch, to + at * kTileRows + i, kTileRows);
    }
  }
}

// The reverse: 16 rows of at least 4 adjacent columns, `pitch` apart.
FASTUDA_INLINE void tile_to_rows(const float* from, int64_t columns, float* to, int64_t pitch) {
  for (int64_t next = 0; next < columns; next += 4) {
    const int64_t c = std::min(next, columns - 4);
    for (int i = 0; i < kTileRows; i += 4) four_by_four(from + c * kTileRows + i, kTileRows, to + i * pitch + c, pitch);
  }
}

// A strided matrix of float32 or 16-bit numbers.
struct RowSource {
  const void* data;
  torch::headeronly::ScalarType type;
  int64_t row_stride, column_stride;
};

// to[column][16] = `count` rows from `first`, as float32; the last row repeats up to 16. stage: 16 rows of
// columns, padded to whole vectors.
template <Isa isa>
FASTUDA_INLINE void load_rows(
    const RowSource& s, int64_t first, int64_t columns, int64_t count, float* stage, float* to) {
  const bool adjacent = s.column_stride == 1 && columns >= 4 && count == kTileRows;
  const bool wide = s.type == torch::headeronly::ScalarType::Float;
  if (adjacent && (wide || columns >= kTileRows)) {
    const float* from = static_cast<const float*>(s.data) + first * s.row_stride;
    const int64_t stage_pitch = (columns + kTileRows - 1) / kTileRows * kTileRows;
    int64_t pitch = s.row_stride;
    if (!wide) {
      if constexpr (kWholeVectors<isa>) {
        with_type<float>(s.type, [&]<class T>() FASTUDA_INLINED {
          const T* const rows = static_cast<const T*>(s.data) + first * s.row_stride;
          for (int64_t i = 0; i < kTileRows; ++i)
            for (int64_t next = 0; next < columns; next += kTileRows) {
              const int64_t c = std::min(next, columns - kTileRows);
              Vec<float> x;
              load(rows + i * s.row_stride + c, x);
              store(x, stage + i * stage_pitch + c);
            }
        });
      } else {
        const Rows rows{first * s.row_stride, nullptr, s.row_stride};
        read_rows<float, isa>(s.data, s.type, rows, kTileRows, columns, stage, stage_pitch);
      }
      from = stage;
      pitch = stage_pitch;
    }
    return rows_to_tile<isa>(from, pitch, columns, to);
  }
  if (s.row_stride == 1 && count == kTileRows) {
    const Rows planes{first, nullptr, s.column_stride};
    return read_rows<float, isa>(s.data, s.type, planes, columns, kTileRows, to, kTileRows);
  }
  int64_t offsets[kTileRows];
  for (int64_t i = 0; i < kTileRows; ++i) offsets[i] = (first + std::min(i, count - 1)) * s.row_stride;
  read_scattered(s.data, s.type, offsets, kTileRows, 0, s.column_stride, columns, to, kTileRows);
}

}  // namespace fastuda
