// Register-blocked products of a tile [channel][pixel] with rows of statistics, one broadcast number a product.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "cpu/simd.h"

namespace fastuda {

// Scratch that starts on a cache line.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) { resize(size); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(); }

  // Contents are zeros.
  void resize(int64_t size) {
    release();
    const size_t bytes = std::max<int64_t>(size, 1) * sizeof(T);
    data_ = static_cast<T*>(::operator new(bytes, std::align_val_t(64)));
    std::memset(static_cast<void*>(data_), 0, bytes);
  }
  FASTUDA_INLINE T* data() const { return data_; }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t(64));
    data_ = nullptr;
  }
  T* data_ = nullptr;
};

// Writes a vector to an address on a cache line past the caches; fence_streams() before another thread may read it.
template <Isa isa, class V, class T>
FASTUDA_INLINE void stream_out(const V& from, T* to) {
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512 && sizeof(T) >= sizeof(float)) {
    asm volatile("vmovntps %1, %0" : "=m"(*reinterpret_cast<V*>(to)) : "v"(from));
    return;
  }
#endif
  store(from, to);
}
FASTUDA_INLINE void fence_streams() {
#if defined(__x86_64__)
  asm volatile("sfence" ::: "memory");
#endif
}

// Prefetches the cache lines of the next tile one at a time while the current tile is multiplied.
struct Ahead {
  uintptr_t at = 0;
  int64_t lines = 0;

  FASTUDA_INLINE void next() {
    if (lines <= 0) return;
    __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
    at += 64;
    --lines;
  }
};

// The sums of a product that stay in registers: vectors of pixels, rows of statistics.
template <Isa isa>
struct ProductBlock {
  static constexpr int vectors = by_isa<isa>(2, 1, 1), rows = by_isa<isa>(12, 6, 3);
};

// Items (rows, or vectors of channels) in blocks of at most `most`, whose sizes differ by one at most.
struct Blocks {
  int64_t items, count, base, larger;  // the first `larger` blocks have one item more than the base

  Blocks(int64_t all, int64_t most)
      : items(all), count((all + most - 1) / most), base(count ? all / count : 0), larger(count ? all % count : 0) {}
  FASTUDA_INLINE int64_t first(int64_t i) const { return i * base + std::min(i, larger); }
  FASTUDA_INLINE int64_t size(int64_t i) const { return base + (i < larger); }
};

// acc[b][v] = sum over c < depth of rows[c][b] * x[c][v], or * x[c][v]^2.
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void dot(
    const Acc* x, int64_t depth, const Acc* rows, bool square, Vec<Acc> (&acc)[kRows][kVectors], Ahead& ahead) {
  constexpr int pixels = kVectors * kLanes<Acc>;
#pragma GCC unroll 16
  for (int b = 0; b < kRows; ++b)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) acc[b][v] = Vec<Acc>{};
  for (int64_t c = 0; c < depth; ++c) {
    Vec<Acc> q[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) load(x + c * pixels + v * kLanes<Acc>, q[v]);
    if (square) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) q[v] *= q[v];
    }
    ahead.next();
#pragma GCC unroll 16
    for (int b = 0; b < kRows; ++b)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[b][v] += q[v] * rows[c * kRows + b];
  }
}

// to[b][pixel] += the products above.
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void add_dot(const Acc* x, int64_t depth, const Acc* rows, bool square, Acc* to, Ahead& ahead) {
  Vec<Acc> acc[kRows][kVectors], before;
  dot<kVectors, kRows>(x, depth, rows, square, acc, ahead);
#pragma GCC unroll 16
  for (int b = 0; b < kRows; ++b)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      Acc* at = to + (b * kVectors + v) * kLanes<Acc>;
      load(at, before);
      store(before += acc[b][v], at);
    }
}

// The same for a number of rows known at run time, 1 to kRows.
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void add_dot_of(
    int64_t n, const Acc* x, int64_t depth, const Acc* rows, bool square, Acc* to, Ahead& ahead) {
  if (n == kRows) return add_dot<kVectors, kRows>(x, depth, rows, square, to, ahead);
  if constexpr (kRows > 1) add_dot_of<kVectors, kRows - 1>(n, x, depth, rows, square, to, ahead);
}

// to[c][v] = sum over k of first[k][c] * w[k][v], plus scale[v] * x[c][v] * sum over k of second[k][c] * p[k][v],
// for kChannels channels; along[v] += to[c][v] * x[c][v]. rows[k] = first[k][0..], then second[k][0..].
template <int kVectors, int kChannels, bool kSecond, class Acc>
FASTUDA_INLINE void blend(
    const Acc* w, const Acc* p, int64_t classes, const Acc* rows, const Acc* x, const Vec<Acc> (&scale)[kVectors],
    Acc* to, Vec<Acc> (&along)[kVectors], Ahead& ahead) {
  constexpr int step = kLanes<Acc>, pixels = kVectors * step;
  Vec<Acc> a[kChannels][kVectors], b[kSecond ? kChannels : 1][kVectors];
  for (int c = 0; c < kChannels; ++c)
    for (int v = 0; v < kVectors; ++v) a[c][v] = b[kSecond ? c : 0][v] = Vec<Acc>{};
  for (int64_t k = 0; k < classes; ++k) {
    Vec<Acc> wk[kVectors], pk[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      load(w + k * pixels + v * step, wk[v]);
      if constexpr (kSecond) load(p + k * pixels + v * step, pk[v]);
    }
    ahead.next();
    const Acc* row = rows + k * kChannels * (kSecond ? 2 : 1);
#pragma GCC unroll 16
    for (int c = 0; c < kChannels; ++c)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        a[c][v] += wk[v] * row[c];
        if constexpr (kSecond) b[c][v] += pk[v] * row[kChannels + c];
      }
  }
  for (int c = 0; c < kChannels; ++c)
    for (int v = 0; v < kVectors; ++v) {
      Vec<Acc> q;
      load(x + c * pixels + v * step, q);
      if constexpr (kSecond) a[c][v] += b[c][v] * (q * scale[v]);
      along[v] += a[c][v] * q;
      store(a[c][v], to + c * pixels + v * step);
    }
}

// to[pixel] += sum over rows i and columns c < depth of own[i] t[c][i] x[c].
template <int kVectors, int kRows, class Acc>
FASTUDA_INLINE void add_quadratic(const Acc* x, int64_t depth, const Acc* t, const Acc* own, Acc* to) {
  constexpr int step = kLanes<Acc>, pixels = kVectors * step;
  Vec<Acc> acc[kRows][kVectors], q;
  Ahead none;
  dot<kVectors, kRows>(x, depth, t, false, acc, none);
  for (int v = 0; v < kVectors; ++v) {
    Vec<Acc> sum;
    load(to + v * step, sum);
    for (int i = 0; i < kRows; ++i) {
      load(own + i * pixels + v * step, q);
      sum += acc[i][v] * q;
    }
    store(sum, to + v * step);
  }
}

// With m[c][i] = sum over k of p[k] t[k][c][i]: to_rows[i] += sum of m[c][i] x_columns[c], then
// to_columns[c] += sum of m[c][i] x_rows[i]. A row may be a column too.
template <int kVectors, int kRows, int kColumns, class Acc>
FASTUDA_INLINE void add_symmetric(
    const Acc* p, int64_t classes, const Acc* t, const Acc* x_rows, const Acc* x_columns, Acc* to_rows,
    Acc* to_columns) {
  constexpr int step = kLanes<Acc>, pixels = kVectors * step;
  Vec<Acc> m[kColumns][kRows][kVectors];
  for (int c = 0; c < kColumns; ++c)
    for (int i = 0; i < kRows; ++i)
      for (int v = 0; v < kVectors; ++v) m[c][i][v] = Vec<Acc>{};
  for (int64_t k = 0; k < classes; ++k, t += kRows * kColumns) {
    Vec<Acc> pk[kVectors];
    for (int v = 0; v < kVectors; ++v) load(p + k * pixels + v * step, pk[v]);
#pragma GCC unroll 16
    for (int c = 0; c < kColumns; ++c)
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) m[c][i][v] += pk[v] * t[c * kRows + i];
  }
  Vec<Acc> x, sum;
  for (int v = 0; v < kVectors; ++v) {
    for (int i = 0; i < kRows; ++i) {
      load(to_rows + i * pixels + v * step, sum);
      Vec<Acc> part{};
      for (int c = 0; c < kColumns; ++c) {
        load(x_columns + c * pixels + v * step, x);
        part += m[c][i][v] * x;
      }
      store(sum += part, to_rows + i * pixels + v * step);
    }
    for (int c = 0; c < kColumns; ++c) {
      load(to_columns + c * pixels + v * step, sum);
      Vec<Acc> part{};
      for (int i = 0; i < kRows; ++i) {
        load(x_rows + i * pixels + v * step, x);
        part += m[c][i][v] * x;
      }
      store(sum += part, to_columns + c * pixels + v * step);
    }
  }
}

constexpr int64_t kWeights = 32;  // factors of a pixel that lie side by side, at offsets known to the compiler

// Loads a vector that stays in a register. Without the asm the compiler would load it again for every product.
template <Isa isa, class Acc>
FASTUDA_INLINE void load_kept(const Acc* from, Vec<Acc>& to) {
  Vec<Acc> x;
  load(from, x);
#if defined(__x86_64__)
  if constexpr (isa == Isa::avx512) asm("" : "+v"(x));
#endif
  to = x;
}

// Channels across the lanes: to[p] = sum over k of w[p][k] first[k], plus q[p] times the sum of p[p][k] second[k], for
// kPixels pixels and kWidth vectors of channels from `channel` on; along[p] += to[p] * q[p].
// rows[k] = first[k], then second[k]; weights[k / 32][pixel of `pitch`][w of 32 classes, p of 32 classes].
template <Isa isa, int kPixels, int kWidth, bool kSecond, class Acc>
FASTUDA_INLINE void blend_rows(
    const Acc* weights, int64_t pitch, int64_t classes, const Acc* rows, const Acc* const* q, int64_t channel, Acc* to,
    int64_t to_pitch, Vec<Acc>* along, Ahead& ahead) {
  constexpr int step = kLanes<Acc>;
  Vec<Acc> a[kPixels][kWidth], b[kSecond ? kPixels : 1][kWidth];
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 16
    for (int c = 0; c < kWidth; ++c) a[p][c] = b[kSecond ? p : 0][c] = Vec<Acc>{};
  for (int64_t first = 0; first < classes; first += kWeights, weights += 2 * kWeights * pitch) {
    const int64_t some = std::min(kWeights, classes - first);
    for (int64_t k = 0; k < some; ++k, rows += kWidth * step * (kSecond ? 2 : 1)) {
      Vec<Acc> row[kWidth];
      ahead.next();
#pragma GCC unroll 16
      for (int c = 0; c < kWidth; ++c) load_kept<isa>(rows + c * step, row[c]);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) a[p][c] += row[c] * weights[p * 2 * kWeights + k];
      if constexpr (kSecond) {
#pragma GCC unroll 16
        for (int c = 0; c < kWidth; ++c) load_kept<isa>(rows + (kWidth + c) * step, row[c]);
#pragma GCC unroll 16
        for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 16
          for (int c = 0; c < kWidth; ++c) b[p][c] += row[c] * weights[(p * 2 + 1) * kWeights + k];
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < kPixels; ++p) {
    Vec<Acc> sum = along[p];
#pragma GCC unroll 16
    for (int c = 0; c < kWidth; ++c) {
      Vec<Acc> x;
      load(q[p] + channel + c * step, x);
      if constexpr (kSecond) a[p][c] += b[p][c] * x;
      sum += a[p][c] * x;
      store(a[p][c], to + p * to_pitch + c * step);
    }
    along[p] = sum;
  }
}

// The same for a number of vectors known at run time, 1 to kWidth.
template <Isa isa, int kPixels, int kWidth, bool kSecond, class Acc, class... Others>
FASTUDA_INLINE void blend_rows_of(int64_t n, const Acc* weights, Others&&... others) {
  if (n == kWidth) return blend_rows<isa, kPixels, kWidth, kSecond>(weights, others...);
  if constexpr (kWidth > 1) blend_rows_of<isa, kPixels, kWidth - 1, kSecond>(n, weights, others...);
}

}  // namespace fastuda
