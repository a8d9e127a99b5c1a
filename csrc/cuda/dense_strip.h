// A strip: a few output rows of one output column, the pixels of one thread. Its classes are upsampled one after the
// other: two scores of the column, lerped along the row, serve all its rows until the next low-resolution row begins.
// Of each pixel only a few numbers are kept, such as the largest score, so that any number of classes fits.
#pragma once

#include "cuda/upsample.h"

namespace fastuda::cuda {

constexpr int kStripThreads = 128;
constexpr int kStripRows = 4;
constexpr int kStripBlocks = 4;  // a multiprocessor at least: of as many registers as they need

// Scores of any dtype, told apart at each read: for a second tensor of an operator, where a kernel for each pair of
// dtypes would be too many. Acc: of the sums, whatever is read.
template <class A>
struct AnyScores {
  using Acc = A;
  Pointer<const float> floats;
  Pointer<const Half> halves;
  Pointer<const BFloat16> bfloats;
  Pointer<const double> doubles;
  int type;  // as of enum Type
  i64 image_stride, class_stride, row_stride, column_stride;
  int images, classes, height, width;
};

template <class Acc>
__device__ __forceinline__ Acc value(const AnyScores<Acc>& s, i64 at) {
  if (s.type == 0) return static_cast<Acc>(read_wide(s.floats, at));
  if (s.type == 1) return static_cast<Acc>(read_wide(s.halves, at));
  if (s.type == 2) return static_cast<Acc>(read_wide(s.bfloats, at));
  return static_cast<Acc>(read_wide(s.doubles, at));
}

template <class S>
struct Upsampling {
  S scores;
  Axis down, along;
};

// Which strip of (images, height, width) pixels a thread has: neighbours in a warp are neighbours in a row.
struct StripGrid {
  u32 images, height, width, strips;  // strips: of a column

  __device__ __forceinline__ bool find(u32 thread, int rows, int& image, int& row, int& column) const {
    const u32 strip = thread / width, of = strip / strips;
    column = static_cast<int>(thread - strip * width);
    row = static_cast<int>(strip - of * strips) * rows;
    image = static_cast<int>(of);
    return of < images;
  }
};

// torch.lerp, also where a value is not finite, with its branch taken before: from the nearer of a and b by the farther
// one's weight, which is below 0 where b is the nearer.
template <class Acc>
__device__ __forceinline__ Acc step_of(Acc weight) {
  return weight < Acc(0.5) ? weight : weight - 1;
}

template <class Acc>
__device__ __forceinline__ Acc stepped(Acc a, Acc b, Acc step) {
  return (step < 0 ? b : a) + step * (b - a);
}

template <class S, int kRows>
struct Strip {
  using Acc = typename S::Acc;
  i64 left, right;  // the column's two scores, in row 0 of class 0
  Acc along;        // steps
  int lower[kRows];
  Acc down[kRows];

  // The strip's rows from `row` on. Rows beyond the image repeat its last row; their results must not be used.
  __device__ __forceinline__ void set(const Upsampling<S>& u, i64 from, int row, int column) {
    const Tap<Acc> t = tap<Acc>(u.along, column);
    left = from + t.lower * u.scores.column_stride;
    right = from + t.upper * u.scores.column_stride;
    along = step_of(t.weight);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      int at = row + r;
      at = at < 0 ? 0 : at < u.down.size ? at : u.down.size - 1;
      const Tap<Acc> of_row = tap<Acc>(u.down, at);
      lower[r] = of_row.lower;
      down[r] = step_of(of_row.weight);
    }
  }

  // visit(row of the strip, upsampled score) of class k.
  template <class Visit>
  __device__ __forceinline__ void each(const S& s, int k, const Visit& visit) const {
    const auto of_row = [&](int row) {
      const i64 at = k * s.class_stride + row * s.row_stride;
      return stepped(value(s, at + left), value(s, at + right), along);
    };
    Acc top = 0, bottom = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r == 0 || lower[r] != lower[r - 1]) {
        if (r > 0 && lower[r] == lower[r - 1] + 1) top = bottom;
        else top = of_row(lower[r]);
        bottom = of_row(lower[r] + 1 < s.height ? lower[r] + 1 : lower[r]);
      }
      visit(r, stepped(top, bottom, down[r]));
    }
  }
};

// The largest of values in the order of their classes: the first of equals; NaN is larger than all, as in argmax.
template <class Acc>
__device__ __forceinline__ bool is_larger(Acc x, Acc most) {
  return x > most || x != x;
}

enum class BestRule { largest, balanced, probabilities };

// Factors that change nothing.
template <class Acc>
struct Ones {
  __device__ __forceinline__ Acc operator[](int) const { return 1; }
};

// Of each row of a strip: the most likely class and its probability, NaN where a score is.
//   largest: softmax of logits; balanced: of the softmax times factor[k]; probabilities: of p itself times factor[k]
template <class Acc, int kRows>
struct StripBest {
  Acc confidence[kRows];
  int label[kRows];

  template <class S>
  __device__ __forceinline__ void largest(const Strip<S, kRows>& strip, const S& s) {
    Acc most[kRows], sum[kRows];
    softmax(strip, s, most, sum);
#pragma unroll
    for (int r = 0; r < kRows; ++r) confidence[r] = 1 / sum[r];
  }

  template <class S, class Factor>
  __device__ __forceinline__ void balanced(const Strip<S, kRows>& strip, const S& s, const Factor& factor) {
    Acc most[kRows], sum[kRows], key[kRows];
    peak(strip, s, most);
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = 0;
#pragma unroll 1
    for (int k = 0; k < s.classes; ++k) {
      const Acc f = factor[k];
      strip.each(s, k, [&](int r, Acc x) {
        const Acc e = exponential(x - most[r]);
        sum[r] += e;
        take(r, k, e * f, e, key[r]);
      });
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) confidence[r] /= sum[r];
  }

  template <class S, class Factor>
  __device__ __forceinline__ void probabilities(const Strip<S, kRows>& strip, const S& s, const Factor& factor) {
    Acc key[kRows];
#pragma unroll 1
    for (int k = 0; k < s.classes; ++k) {
      const Acc f = factor[k];
      strip.each(s, k, [&](int r, Acc x) { take(r, k, x * f, x, key[r]); });
    }
  }

  // The largest logits, whose classes are the labels, and the sums of exp(x - largest).
  template <class S>
  __device__ __forceinline__ void softmax(
      const Strip<S, kRows>& strip, const S& s, Acc (&most)[kRows], Acc (&sum)[kRows]) {
    peak(strip, s, most);
#pragma unroll
    for (int r = 0; r < kRows; ++r) sum[r] = 0;
#pragma unroll 1
    for (int k = 0; k < s.classes; ++k)
      strip.each(s, k, [&](int r, Acc x) { sum[r] += exponential(x - most[r]); });
  }

 private:
  template <class S>
  __device__ __forceinline__ void peak(const Strip<S, kRows>& strip, const S& s, Acc (&most)[kRows]) {
#pragma unroll 1
    for (int k = 0; k < s.classes; ++k) strip.each(s, k, [&](int r, Acc x) { take(r, k, x, x, most[r]); });
  }

  __device__ __forceinline__ void take(int r, int k, Acc x, Acc probability, Acc& most) {
    if (k > 0 && !is_larger(x, most)) return;
    most = x;
    confidence[r] = probability;
    label[r] = k;
  }
};

#if !defined(FASTUDA_KERNELS_ONLY)

template <class Acc>
AnyScores<Acc> make_any_scores(const ScoreBuffer& b) {
  return {global<const float>(b.buffer), global<const Half>(b.buffer), global<const BFloat16>(b.buffer),
          global<const double>(b.buffer), static_cast<int>(b.type), b.image_stride, b.class_stride, b.row_stride,
          b.column_stride, b.images, b.classes, b.height, b.width};
}

// Threads of all strips of `rows` rows.
inline i64 strip_threads(const StripGrid& grid) { return static_cast<i64>(grid.images) * grid.strips * grid.width; }

inline StripGrid strip_grid(int images, int height, int width, int rows) {
  return {static_cast<u32>(images), static_cast<u32>(height), static_cast<u32>(width),
          static_cast<u32>(ceil_div(height, rows))};
}

#endif
}  // namespace fastuda::cuda
