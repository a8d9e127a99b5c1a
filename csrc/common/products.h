// Register-blocked products of a tile [channel][pixel] with rows of statistics, one broadcast number a product.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "common/simd.h"

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

// Asks for the lines of the next tile a few at a time, while this one is multiplied.
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

// acc[b][v] = sum over c < depth of rows[c][b] * x[c][v], or * x[c][v]^2.
template <int kVectors, int kRows, bool kSquare, class Acc>
FASTUDA_INLINE void dot(
    const Acc* x, int64_t depth, const Acc* rows, Vec<Acc> (&acc)[kRows][kVectors], Ahead& ahead) {
  constexpr int pixels = kVectors * kLanes<Acc>;
  for (int b = 0; b < kRows; ++b)
    for (int v = 0; v < kVectors; ++v) acc[b][v] = Vec<Acc>{};
  for (int64_t c = 0; c < depth; ++c) {
    Vec<Acc> q[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      load(x + c * pixels + v * kLanes<Acc>, q[v]);
      if constexpr (kSquare) q[v] *= q[v];
    }
    ahead.next();
#pragma GCC unroll 16
    for (int b = 0; b < kRows; ++b)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[b][v] += q[v] * rows[c * kRows + b];
  }
}

// to[b][pixel] += the products above.
template <int kVectors, int kRows, bool kSquare, class Acc>
FASTUDA_INLINE void add_dot(const Acc* x, int64_t depth, const Acc* rows, Acc* to, Ahead& ahead) {
  Vec<Acc> acc[kRows][kVectors], before;
  dot<kVectors, kRows, kSquare>(x, depth, rows, acc, ahead);
  for (int b = 0; b < kRows; ++b)
    for (int v = 0; v < kVectors; ++v) {
      Acc* at = to + (b * kVectors + v) * kLanes<Acc>;
      load(at, before);
      store(before += acc[b][v], at);
    }
}

// The same for a number of rows known at run time, 1 to kRows.
template <int kVectors, int kRows, bool kSquare, class Acc>
FASTUDA_INLINE void add_dot_of(int64_t n, const Acc* x, int64_t depth, const Acc* rows, Acc* to, Ahead& ahead) {
  if (n == kRows) return add_dot<kVectors, kRows, kSquare>(x, depth, rows, to, ahead);
  if constexpr (kRows > 1) add_dot_of<kVectors, kRows - 1, kSquare>(n, x, depth, rows, to, ahead);
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

}  // namespace fastuda
