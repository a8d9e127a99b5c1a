// The most likely class of a vector of upsampled pixels, pixels in lanes, and counts of its confidence.
#pragma once

#include <type_traits>
#include <vector>

#include "cpu/dense_rows.h"
#include "cpu/scaled_exp.h"
#include "cpu/vector_math.h"

namespace fastuda {

template <class Acc>
struct Best {
  using Mask = typename VecOf<Acc>::mask;
  using Lane = std::conditional_t<sizeof(Acc) == sizeof(float), int32_t, int64_t>;
  Vec<Acc> confidence;  // NaN where a score is
  Mask label;

  // Of classes in rising order; what is not larger than the best, NaN included, leaves it alone.
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
// stage: K vectors. What a call asks for is the same for all its pixels: a branch a vector costs nothing.
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
