// What every kernel on pixels needs: 16-bit numbers, strided pixels, labels that may be out of range.
#pragma once

#include "cuda/launch.h"
#include "labels.h"
#include "portable.h"

namespace fastuda::cuda {

constexpr int kWarp = 32;
constexpr u32 kFullWarp = 0xffffffffu;

// Storage only: arithmetic is in float on every card.
struct Half {
  unsigned short bits;
};
struct BFloat16 {
  unsigned short bits;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }

// The bits of a number as a whole number, and back.
#if defined(FASTUDA_EMULATION)
inline u32 bits_of(float x) { return std::bit_cast<u32>(x); }
inline u64 bits_of(double x) { return std::bit_cast<u64>(x); }
inline float number_of(u32 bits) { return std::bit_cast<float>(bits); }
inline double number_of(u64 bits) { return std::bit_cast<double>(bits); }
#else
__device__ __forceinline__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ __forceinline__ u64 bits_of(double x) { return static_cast<u64>(__double_as_longlong(x)); }
__device__ __forceinline__ float number_of(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ double number_of(u64 bits) { return __longlong_as_double(static_cast<i64>(bits)); }
#endif

__device__ __forceinline__ float widen(BFloat16 x) { return number_of(static_cast<u32>(x.bits) << 16); }

__device__ __forceinline__ float widen(Half x) {
#if defined(FASTUDA_EMULATION)
  return static_cast<float>(std::bit_cast<_Float16>(x.bits));
#else
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#endif
}

__device__ __forceinline__ void narrow(float x, float& to) { to = x; }
__device__ __forceinline__ void narrow(double x, double& to) { to = x; }

__device__ __forceinline__ void narrow(float x, Half& to) {
#if defined(FASTUDA_EMULATION)
  to.bits = std::bit_cast<unsigned short>(static_cast<_Float16>(x));
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x));
#endif
}

// To nearest, ties to even; by integers, since cards before compute capability 8.0 have no instruction for it.
__device__ __forceinline__ void narrow(float x, BFloat16& to) {
  const u32 bits = bits_of(x);
  const u32 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  to.bits = static_cast<unsigned short>(x != x ? 0x7fc0u : rounded);
}

// Overloads, because the <cmath> of each compiler names them differently.
__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }

template <class T>
constexpr __host__ __device__ T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

// fastuda::PixelGrid as kernels take it. There are fewer than 2^31 pixels, so that divisions are of 32 bits.
struct PixelGrid {
  u32 height, width;
  i64 image_stride, row_stride, column_stride;
};

__device__ __forceinline__ i64 locate(const PixelGrid& grid, u32 pixel) {
  const u32 row = pixel / grid.width, column = pixel - row * grid.width;
  const u32 image = row / grid.height;
  return image * grid.image_stride + (row - image * grid.height) * grid.row_stride + column * grid.column_stride;
}

// One of the three pointers is used: the branch is uniform and costs less than three times as many kernels.
struct Labels {
  Pointer<const u8> bytes;
  Pointer<const int> ints;
  Pointer<const i64> longs;
  int size;  // of a label, in bytes
  int classes;
  i64 ignore_index;
  PixelGrid grid;
};

// The class that lies at an offset, or -1 where it is ignored or out of range.
__device__ __forceinline__ int class_at(const Labels& labels, i64 at) {
  const i64 label = labels.size == 1 ? labels.bytes[at] : labels.size == 4 ? labels.ints[at] : labels.longs[at];
  return static_cast<int>(class_or<i64>(label, labels.classes, labels.ignore_index, -1));
}

// The class of a pixel in the order of the grid, or -1.
__device__ __forceinline__ int read_class(const Labels& labels, u32 pixel) {
  return class_at(labels, locate(labels.grid, pixel));
}

#if !defined(__CUDACC_RTC__)

// Where labels or one channel of the features lie, before the type is known.
struct PixelBuffer {
  Buffer buffer;
  PixelGrid grid;
};

inline Labels make_labels(const PixelBuffer& at, int size, int classes, i64 ignore_index) {
  return {global<const u8>(at.buffer), global<const int>(at.buffer), global<const i64>(at.buffer), size, classes,
          ignore_index, at.grid};
}

// What a launch depends on beside the shapes; results are the same bits for the same card.
struct Card {
  int multiprocessors;
  int shared_limit;  // dynamic shared memory that one block can have, in bytes
};

enum class Type { float32, float16, bfloat16, float64 };

// Calls run(T()) with the storage type.
template <class Run>
void with_type(Type type, const Run& run) {
  if (type == Type::float32) run(float());
  else if (type == Type::float16) run(Half());
  else if (type == Type::bfloat16) run(BFloat16());
  else run(double());
}

// Whether each pixel's channels lie side by side as aligned quads of T.
template <class T>
bool in_quads(const PixelBuffer& at, i64 channel_stride, int channels) {
  const auto fits = [](i64 value) { return value % 4 == 0; };
  return channel_stride == 1 && fits(channels) && fits(at.grid.image_stride) && fits(at.grid.row_stride) &&
      fits(at.grid.column_stride) && reinterpret_cast<unsigned long long>(at.buffer.data) % (4 * sizeof(T)) == 0;
}

// Hands out parts of one buffer, or only counts their bytes where its data is null.
struct Scratch {
  Buffer whole;
  i64 used = 0;

  Buffer take(i64 elements, i64 size) {
    const i64 at = used, bytes = elements * size;
    used += (bytes + 255) / 256 * 256;
    return {whole.data ? static_cast<char*>(whole.data) + at : nullptr, bytes};
  }
};

#endif

}  // namespace fastuda::cuda
