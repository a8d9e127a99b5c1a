// The most likely class of a vector of upsampled pixels, pixels in lanes, and counts of its confidence.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/products.h"
#include "cpu/scaled_exp.h"
#include "cpu/upsample_rows.h"
#include "cpu/vector_math.h"

namespace fastuda {

// read_scores for scores of another type than the sums: float64 for float32 sums, or the reverse.
template <class Acc>
void convert_scores(const ScoreView& s, int64_t image, int64_t row, Acc* to, int64_t pitch) {
  const auto convert = [&]<class T>() {
    const T* from = static_cast<const T*>(s.data) + image * s.image_stride + row * s.row_stride;
    for (int64_t k = 0; k < s.classes; ++k)
      for (int64_t x = 0; x < pitch; ++x)
        to[k * pitch + x] = static_cast<Acc>(from[k * s.class_stride + std::min(x, s.width - 1) * s.column_stride]);
  };
  if (s.type == torch::headeronly::ScalarType::Double) convert.template operator()<double>();
  else with_type<float>(s.type, convert);
}

// Whether any bit of a mask is set.
template <class Mask>
FASTUDA_INLINE bool any_lane(const Mask& mask) {
  typedef int64_t Four __attribute__((vector_size(32)));
  Four half[2];
  std::memcpy(half, &mask, sizeof(half));
  const Four some = half[0] | half[1];
  return (some[0] | some[1] | some[2] | some[3]) != 0;
}

// Rows of one tensor of scores (N, K, h, w), interpolated down the columns: [class][pitch] of one output row at a time.
// Next to each other in memory, and of the same kind as the sums, whatever the tensor is.
template <class Acc>
class DenseRows {
 public:
  DenseRows(const ScoreView& scores, const Taps<Acc>& down)
      : scores_(scores), down_(down), pitch_(row_pitch<Acc>(scores.width)), space_(3 * scores.classes * pitch_) {
    for (int i = 0; i < 2; ++i) row_[i] = space_.data() + i * scores.classes * pitch_;
    out_ = space_.data() + 2 * scores.classes * pitch_;
  }

  int64_t pitch() const { return pitch_; }

  // Compiled once in a file for each instruction set, and not inlined wherever a row is read.
  template <Isa isa>
  const Acc* at(int64_t image, int64_t y) {
    const int64_t lower = down_.lower[y], upper = std::min(lower + 1, scores_.height - 1);
    if (image == image_ && lower == held_[1]) {  // the next two rows: the lower one is here
      std::swap(row_[0], row_[1]);
      std::swap(held_[0], held_[1]);
    }
    const int64_t wanted[2] = {lower, upper};
    for (int i = 0; i < 2; ++i) {
      if (image == image_ && wanted[i] == held_[i]) continue;
      on_isa<Acc, isa>([&]() FASTUDA_INLINED { read<isa>(i, image, wanted[i]); });
    }
    image_ = image;
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { blend(down_.weight[y]); });
    return out_;
  }

  // Whether all of the row that at() returned last is.
  bool finite() const { return finite_; }

 private:
  template <Isa isa>
  FASTUDA_INLINE void read(int i, int64_t image, int64_t row) {
    const bool wide = scores_.type == torch::headeronly::ScalarType::Double;
    if (wide == (sizeof(Acc) == sizeof(double))) read_scores<Acc, isa>(scores_, image, row, row_[i], pitch_);
    else convert_scores(scores_, image, row, row_[i], pitch_);
    held_[i] = row;
  }

  // The row `weight` below the upper one of the two that are held.
  FASTUDA_INLINE void blend(Acc weight) {
    const Acc *a = row_[0], *b = row_[1];
    Vec<Acc> odd[2] = {}, x, z;  // two chains of additions, not one
    Acc* out = out_;
    // A pitch is two vectors at least, but their number may be odd: the last is then made twice.
    const int64_t step = 2 * kLanes<Acc>, end = scores_.classes * pitch_;
    for (int64_t at = 0; at < end; at += step) {
      at = std::min(at, end - step);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        load(a + at + i * kLanes<Acc>, x);
        load(b + at + i * kLanes<Acc>, z);
        x += weight * (z - x);
        store(x, out + at + i * kLanes<Acc>);
        odd[i] += x * Acc(0);
      }
    }
    finite_ = !any_lane(odd[0] + odd[1] != Vec<Acc>{});
  }

  const ScoreView scores_;
  const Taps<Acc>& down_;
  int64_t pitch_, image_ = -1, held_[2] = {-1, -1};
  bool finite_ = true;
  Buffer<Acc> space_;
  Acc *row_[2], *out_;
};

// A vector of upsampled positions along a row, as a weighted sum of four low-resolution scores. It needs no shuffles,
// so it is cheaper than Along where a vector of positions lies between four scores. The scores must be finite, as some
// of the weights are 0.
template <class Acc>
struct Nodes {
  static constexpr int kCount = 4;
  static constexpr bool kNeedsFinite = true;
  using Mask = typename VecOf<Acc>::mask;
  Vec<Acc> weight[kCount];
  int64_t base;

  static bool serve(const Taps<Acc>& taps) {
    const int64_t last = static_cast<int64_t>(taps.lower.size()) - kLanes<Acc>;
    for (int64_t i = 0; i <= last; ++i)
      if (taps.lower[i + kLanes<Acc> - 1] - taps.lower[i] > kCount - 2) return false;
    return true;
  }

  FASTUDA_INLINE void set(const Taps<Acc>& taps, int64_t position) {
    typedef int32_t Lower __attribute__((vector_size(4 * kLanes<Acc>)));
    Lower lower;
    std::memcpy(&lower, taps.lower.data() + position, sizeof(lower));
    base = taps.lower[position];
    const Mask node = __builtin_convertvector(lower - taps.lower[position], Mask);
    Vec<Acc> upper, none = {};
    load(taps.weight.data() + position, upper);
    const Vec<Acc> own = Acc(1) - upper;
    weight[0] = node == 0 ? own : none;
    weight[1] = node == 1 ? own : node == 0 ? upper : none;
    weight[2] = node == 2 ? own : node == 1 ? upper : none;
    weight[3] = node == 2 ? upper : none;
  }

  // Leaves 0 in the other lanes.
  FASTUDA_INLINE void keep(const Mask& inside) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) weight[i] = inside ? weight[i] : Vec<Acc>{};
  }

  FASTUDA_INLINE void operator()(const Acc* row, Vec<Acc>& out) const {
    out = Vec<Acc>{};
    add(row, out);
  }

  FASTUDA_INLINE void add(const Acc* row, Vec<Acc>& sum) const {
    const Acc* from = row + base;
    sum += from[0] * weight[0];
    sum += from[1] * weight[1];
    sum += from[2] * weight[2];
    sum += from[3] * weight[3];
  }
};

// Along, for what Nodes cannot do: smaller upsampling, and rows that are not finite.
template <class Acc, Isa isa>
struct AnyNodes : Along<Acc, isa> {
  static constexpr bool kNeedsFinite = false;
};

// Writes the first `count` labels of a vector, 0..255 each.
template <class Mask>
FASTUDA_INLINE void store_labels(const Mask& label, uint8_t* to, int64_t count) {
  constexpr int lanes = sizeof(Mask) / sizeof(label[0]);
  typedef uint8_t Bytes __attribute__((vector_size(lanes)));
  const Bytes bytes = __builtin_convertvector(label, Bytes);
  std::memcpy(to, &bytes, std::min<int64_t>(count, lanes));
}

template <class Acc>
FASTUDA_INLINE void store_some(const Vec<Acc>& value, Acc* to, int64_t count) {
  std::memcpy(to, &value, std::min<int64_t>(count, kLanes<Acc>) * sizeof(Acc));
}

constexpr int64_t kMostClasses = 255;  // of a uint8 label beside the ignored one
constexpr int kIgnored = 255;

// Output rows are handed to threads at least this many at a time: neighbours read the same rows of scores.
constexpr int64_t kRowGrain = 16;

template <class Acc>
struct Best {
  using Mask = typename VecOf<Acc>::mask;
  using Lane = std::conditional_t<sizeof(Acc) == sizeof(float), int32_t, int64_t>;
  Vec<Acc> confidence;  // NaN where a score is
  Mask label;

  // Takes the classes in rising order: ties go to the first class, and NaN is never the largest.
  FASTUDA_INLINE static void take(const Vec<Acc>& x, int64_t k, Vec<Acc>& most, Mask& label) {
    const Mask above = x > most;
    most = above ? x : most;
    label = above ? Mask{} + static_cast<Lane>(k) : label;
  }
};

template <class Acc>
FASTUDA_INLINE Vec<Acc> nan_where(const typename VecOf<Acc>::mask& bad, const Vec<Acc>& x) {
  return bad ? Vec<Acc>{} + static_cast<Acc>(NAN) : x;
}

// stage[k] = x_k of logits along a row, with the largest and its class.
template <class Acc, class Along>
FASTUDA_INLINE void stage_logits(
    const Acc* row, int64_t pitch, int64_t classes, const Along& along, Acc* stage, Vec<Acc>& most,
    typename VecOf<Acc>::mask& label) {
  along(row, most);
  store(most, stage);
  label = typename VecOf<Acc>::mask{};
  for (int64_t k = 1; k < classes; ++k) {
    Vec<Acc> x;
    along(row + k * pitch, x);
    store(x, stage + k * kLanes<Acc>);
    Best<Acc>::take(x, k, most, label);
  }
}

// exp(x) for x <= 0, not NaN, within 2e-7 of the largest of a softmax; 1 for 0.
FASTUDA_INLINE void softmax_exp(const Vec<float>& x, Vec<float>& out) {
  constexpr float magic = 0x1.8p23f;  // the last bit of a sum with it is worth 1
  const Vec<float> y = x < -87.0f ? Vec<float>{} - 87.0f : x;
  const Vec<float> sum = y * 1.44269504f + magic;
  const Vec<float> power = power_of_fraction(y * 1.44269504f - (sum - magic));
  Words bits, exponent;
  std::memcpy(&bits, &power, sizeof(bits));
  std::memcpy(&exponent, &sum, sizeof(exponent));
  bits += exponent << 23;
  std::memcpy(&out, &bits, sizeof(out));
}

FASTUDA_INLINE void softmax_exp(const Vec<double>& x, Vec<double>& out) { exp_negative(x, out); }

// stage[k] = exp(x_k - most), and their sum, NaN where any is, which `may_be_nan` says.
template <class Acc, bool may_be_nan>
FASTUDA_INLINE void exponentials(int64_t classes, const Vec<Acc>& most, Acc* stage, Vec<Acc>& sum) {
  sum = Vec<Acc>{};
  for (int64_t k = 0; k < classes; ++k) {
    Vec<Acc> x, e;
    load(stage + k * kLanes<Acc>, x);
    softmax_exp(x - most, e);
    if constexpr (may_be_nan) e = x - most <= 0 ? e : x - most;
    store(e, stage + k * kLanes<Acc>);
    sum += e;
  }
}

// Of logits (their softmax) or probabilities at [class][pitch]; with factors, of probability times factor[k].
// stage: room for K vectors. The branches on the arguments are the same for all pixels and cost nothing.
template <class Acc, class Along>
FASTUDA_INLINE Best<Acc> best_of(
    const Acc* row, int64_t pitch, int64_t classes, const Along& along, bool probabilities, const Acc* factor,
    Acc* stage) {
  using Mask = typename VecOf<Acc>::mask;
  Best<Acc> best;
  if (!probabilities) {
    Vec<Acc> most, sum;
    stage_logits<Acc>(row, pitch, classes, along, stage, most, best.label);
    exponentials<Acc, !Along::kNeedsFinite>(classes, most, stage, sum);
    if (!factor) {
      best.confidence = Acc(1) / sum;
      return best;
    }
    Vec<Acc> own, e;
    load(stage, own);
    most = own * factor[0];
    best.label = Mask{};
    for (int64_t k = 1; k < classes; ++k) {
      load(stage + k * kLanes<Acc>, e);
      const Vec<Acc> x = e * factor[k];
      own = x > most ? e : own;
      Best<Acc>::take(x, k, most, best.label);
    }
    best.confidence = own / sum;
  } else {
    Vec<Acc> p, own, most;
    along(row, own);
    most = factor ? own * factor[0] : own;
    best.label = Mask{};
    Mask bad = own != own;
    for (int64_t k = 1; k < classes; ++k) {
      along(row + k * pitch, p);
      bad |= p != p;
      const Vec<Acc> x = factor ? p * factor[k] : p;
      own = x > most ? p : own;
      Best<Acc>::take(x, k, most, best.label);
    }
    best.confidence = nan_where<Acc>(bad, own);
  }
  return best;
}

constexpr int64_t kMostBins = int64_t(1) << 30;  // of all classes together: indices of 32 bits

// Counts [class][bin] of confidences, of one thread; add() joins them with the others'.
class BinCounts {
 public:
  BinCounts(int64_t classes, int64_t bins) : bins_(bins), counts_(classes * bins) {}

  // The first `count` lanes of labels 0..K-1 where `counted`, without NaN.
  template <class Acc>
  FASTUDA_INLINE void take(const Best<Acc>& best, const typename VecOf<Acc>::mask& counted, int64_t count) {
    using Mask = typename VecOf<Acc>::mask;
    using Lane = typename Best<Acc>::Lane;
    constexpr int lanes = kLanes<Acc>;
    const Acc last = static_cast<Acc>(bins_ - 1);
    Vec<Acc> place = best.confidence * static_cast<Acc>(bins_);
    place = place > 0 ? place : Vec<Acc>{};
    place = place < last ? place : Vec<Acc>{} + last;
    const Mask valid = counted & (best.confidence == best.confidence);
    const Mask index = best.label * static_cast<Lane>(bins_) + __builtin_convertvector(place, Mask);
    const Mask other = (index ^ index[0]) | ~valid;
    if (count >= lanes && !any_lane(other)) {  // most pixels are like their neighbours: one addition instead of a chain
      counts_[index[0]] += lanes;
      return;
    }
    for (int i = 0; i < std::min<int64_t>(count, lanes); ++i)
      if (valid[i]) ++counts_[index[i]];
  }

  void add(int64_t* to) const {
    for (size_t i = 0; i < counts_.size(); ++i)
      if (counts_[i]) __atomic_fetch_add(to + i, counts_[i], __ATOMIC_RELAXED);
  }

 private:
  int64_t bins_;
  std::vector<int64_t> counts_;
};

}  // namespace fastuda
