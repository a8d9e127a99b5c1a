// Bilinear upsampling of low-resolution scores on a GPU: the taps of fastuda/reference/_upsample.py in exact integers,
// and scores (N, K, h, w) of any strides and dtype, read as they lie and widened to the type of the sums.
//
//   kernel: const Tap<Acc> t = tap<Acc>(axis, i); value(s, image * s.image_stride + ... + t.lower * s.column_stride)
//   host:   const ScoreBuffer b = score_buffer(tensor, "logits"); const Scores<T> s = make_scores<T>(b);
#pragma once

#include "cuda/kernel.h"
#include "upsample_position.h"

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif

namespace fastuda::cuda {

// One dimension of an upsampling, `source` positions to `size`; size x source < 2^31 (upsample_axis).
struct Axis {
  int size, source;
  bool align_corners;
};

// Position i lies between two source positions (the same one at the end), at the upper one's weight, which is below 1.
template <class Acc>
struct Tap {
  int lower, upper;
  Acc weight;
};

// The weight is a quotient of integers below 2^24 rounded once: the definition's, bit for bit.
template <class Acc>
__device__ __forceinline__ Tap<Acc> tap(const Axis& axis, int i) {
  const u32 source = static_cast<u32>(axis.source);
  const auto p = upsample_position<u32>(static_cast<u32>(i), static_cast<u32>(axis.size), source, axis.align_corners);
  const Acc weight = static_cast<Acc>(p.numerator) / static_cast<Acc>(p.denominator);
  return {static_cast<int>(p.lower), static_cast<int>(p.lower + 1 < source ? p.lower + 1 : source - 1), weight};
}

template <class T>
struct Scores {
  using Acc = Accumulate<T>;
  Pointer<const T> data;
  i64 image_stride, class_stride, row_stride, column_stride;  // in elements
  int images, classes, height, width;
};

// An element widened to the type of the sums, read through the read-only cache, which cards before compute capability
// 7.0 use only for __ldg. A kernel that reads scores in this way must not write them.
#if defined(FASTUDA_EMULATION)
template <class Data>
auto read_wide(const Data& data, i64 at) {
  return widen(data[at]);
}
#else
__device__ __forceinline__ float read_only(const float* from) { return __ldg(from); }
__device__ __forceinline__ double read_only(const double* from) { return __ldg(from); }
__device__ __forceinline__ Half read_only(const Half* from) { return {__ldg(&from->bits)}; }
__device__ __forceinline__ BFloat16 read_only(const BFloat16* from) { return {__ldg(&from->bits)}; }

template <class T>
__device__ __forceinline__ Accumulate<T> read_wide(const T* data, i64 at) {
  return widen(read_only(data + at));
}
#endif

template <class T>
__device__ __forceinline__ Accumulate<T> value(const Scores<T>& s, i64 at) {
  return read_wide(s.data, at);
}

#if !defined(FASTUDA_KERNELS_ONLY)

// Scores before their type is known.
struct ScoreBuffer {
  Buffer buffer;
  Type type;
  i64 image_stride, class_stride, row_stride, column_stride;
  int images, classes, height, width;
};

template <class T>
Scores<T> make_scores(const ScoreBuffer& b) {
  return {global<const T>(b.buffer), b.image_stride, b.class_stride, b.row_stride, b.column_stride,
          b.images,                  b.classes,      b.height,       b.width};
}

#if !defined(FASTUDA_EMULATION)

// name: what the operator calls the tensor.
inline ScoreBuffer score_buffer(const Tensor& t, const char* name) {
  check_scores(t, name);
  return {buffer(t),   feature_type(t, name),   t.stride(0),        t.stride(1),        t.stride(2),
          t.stride(3), small(t.size(0)), small(t.size(1)), small(t.size(2)), small(t.size(3))};
}

inline Axis upsample_axis(int64_t size, int64_t source, bool align_corners) {
  STD_TORCH_CHECK(
      size >= 0 && size < int64_t(1) << 31 && size * source < int64_t(1) << 31,
      "upsampling needs a size whose product with the scores' own is below 2^31");
  return {static_cast<int>(size), static_cast<int>(source), align_corners};
}

#endif
#endif

}  // namespace fastuda::cuda
