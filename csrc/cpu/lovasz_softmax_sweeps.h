// Lovász-Softmax over upsampled scores: what each sweep does with a row of a tile, and the order of a class's errors.
//
// Exact: a first sweep keeps the largest logit and the scale of each pixel's softmax, so that later sweeps need one
// class at a time. Errors of a class that are below all errors of its own pixels have no weight in the loss. The others
// are sorted with the numbers of their pixels, and the weight of each is written to a plane of the class. Binned: one
// sweep counts the errors in bins, a second one computes them again and reads their weights from a table.
#pragma once

#include <cstring>

#include "cpu/upsample_tile.h"

namespace fastuda {

template <class Acc>
struct LovaszProblem {
  Upsampling<Acc> up;
  bool probabilities, with_slope;
  // Exact: largest logit, scale and the sum of p dL/dp, of (N, H, W), null with probabilities; planes of dL/dp by
  // class, those of absent classes null.
  Acc *most, *scale, *sum;
  Acc* const* toward;
  const Acc* least;  // of each class: an error that none of its own pixels is below
  int64_t first_class;  // of the scores: which label is the first one's
  // Binned: what an error of (class, bin) counts for.
  int64_t bins;
  const Acc* table;

  // The distance between the counts of two classes. It is not a multiple of 4 KiB, which would map the same bin of all
  // classes to the same set of the cache.
  int64_t bin_pitch() const { return bins + 16; }
};

template <class Derived, class Acc, Isa isa>
class LovaszTile : public UpsampleTile<Acc, isa> {
 protected:
  using Tile = UpsampleTile<Acc, isa>;
  friend Tile;
  using typename Tile::Label;
  using typename Tile::Mask;
  using typename Tile::V;
  using Tile::kVecs, Tile::kStep, Tile::kTile, Tile::image_, Tile::u_, Tile::count_;

 public:
  explicit LovaszTile(const LovaszProblem<Acc>& p) : Tile(p.up), p_(p) {}
  FASTUDA_INLINE void run(int64_t image, int64_t begin, int64_t end, const SlopePlace<Acc>& to) {
    Tile::run_tiles(static_cast<Derived&>(*this), image, begin, end, to);
  }
  FASTUDA_INLINE void done() {}

 protected:
  FASTUDA_INLINE int64_t pixel(int64_t y, int64_t x) const { return (image_ * u_.down.size + y) * u_.along.size + x; }
  FASTUDA_INLINE void read_plane(const Acc* from, V (&to)[kVecs]) const {
    if (count_ == kTile) {
      for (int v = 0; v < kVecs; ++v) load(from + v * kStep, to[v]);
      return;
    }
    Acc values[kTile] = {};
    for (int i = 0; i < count_; ++i) values[i] = from[i];
    for (int v = 0; v < kVecs; ++v) load(values + v * kStep, to[v]);
  }
  FASTUDA_INLINE void write_plane(const V (&from)[kVecs], Acc* to) const {
    if (count_ == kTile) {
      for (int v = 0; v < kVecs; ++v) store(from[v], to + v * kStep);
      return;
    }
    Acc values[kTile];
    for (int v = 0; v < kVecs; ++v) store(from[v], values + v * kStep);
    for (int i = 0; i < count_; ++i) to[i] = values[i];
  }
  FASTUDA_INLINE V probability(const V& z, const V& most, const V& scale) const {
    if (p_.probabilities) return z;
    V power;
    power_negative(z - most, power);
    return power * scale;
  }

  const LovaszProblem<Acc>& p_;
};

// Exact, first: the softmax of each pixel, and the least error of each class's own pixels. All classes.
template <class Acc, Isa isa>
class NormTile : public LovaszTile<NormTile<Acc, isa>, Acc, isa> {
  using Base = LovaszTile<NormTile<Acc, isa>, Acc, isa>;
  using typename Base::V;
  using Base::kVecs, Base::kStep, Base::kTile;

 public:
  Acc* least;

  using Base::Base;
  FASTUDA_INLINE bool row(int64_t y, int64_t x) {
    this->read_labels(y, x);
    V most[kVecs], sum[kVecs], none[kVecs] = {}, own[kVecs];
    this->template powers<true>(this->values(y), most, sum, own);
    Acc errors[kTile];
    for (int v = 0; v < kVecs; ++v) {
      sum[v] = 1 / sum[v];
      store(1 - this->probability(own[v], most[v], sum[v]), errors + v * kStep);
    }
    for (int i = 0; i < this->count_; ++i)
      if (const int64_t k = this->label_[i]; k < this->u_.classes) least[k] = std::min(least[k], errors[i]);
    const int64_t at = this->pixel(y, x);
    this->write_plane(most, this->p_.most + at);
    this->write_plane(sum, this->p_.scale + at);
    this->write_plane(none, this->p_.sum + at);
    return false;
  }
};

template <class Acc>
struct ErrorBits {
  using type = std::conditional_t<sizeof(Acc) == sizeof(double), uint64_t, uint32_t>;
  static constexpr type infinity = sizeof(Acc) == sizeof(double) ? type(0x7ff0000000000000u) : type(0x7f800000u);
};

// An error by its distance from infinity, in its bits, so that the largest comes first; and its pixel, twice, and 1 for
// the class's own.
template <class Acc>
struct ErrorItem {
  using Key = typename ErrorBits<Acc>::type;
  Key key;
  Key at;

  Acc error() const {
    const Key bits = ErrorBits<Acc>::infinity - key;
    Acc value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

constexpr int kDigit = 11;
template <class Acc>
constexpr int kPasses = (sizeof(Acc) * 8 - 1 + kDigit - 1) / kDigit;

// Exact, second: the errors of a class with the counts of each digit. One class.
template <class Acc, Isa isa>
class ErrorTile : public LovaszTile<ErrorTile<Acc, isa>, Acc, isa> {
  using Base = LovaszTile<ErrorTile<Acc, isa>, Acc, isa>;
  using typename Base::V;
  using Base::kVecs, Base::kStep, Base::kTile;
  using Key = typename ErrorBits<Acc>::type;

 public:
  ErrorItem<Acc>* items;  // one more than there are pixels
  int64_t size = 0;
  uint32_t (*counts)[1 << kDigit];
  bool poisoned = false;  // whether an error is NaN
  Acc* plane;  // set to 0, unless it is null

  using Base::Base;
  FASTUDA_INLINE bool row(int64_t y, int64_t x) {
    if (!this->read_labels(y, x)) return false;
    const typename Base::Values z = this->values(y);
    const int64_t at = this->pixel(y, x);
    const auto own = static_cast<typename Base::Label>(this->p_.first_class);
    V most[kVecs] = {}, scale[kVecs] = {};
    if (!this->p_.probabilities) {
      this->read_plane(this->p_.most + at, most);
      this->read_plane(this->p_.scale + at, scale);
    }
    if (plane) {
      const V none[kVecs] = {};
      this->write_plane(none, plane + at);
    }
    const Acc least = this->p_.least[this->p_.first_class];
    Acc errors[kTile];
    for (int v = 0; v < kVecs; ++v) {
      const V p = this->probability(z(0, v), most[v], scale[v]);
      store(this->labels(v) == own ? 1 - p : p, errors + v * kStep);
    }
    for (int i = 0; i < this->count_; ++i) {
      // Smaller errors than those of all own pixels have no weight. No branch, as it would be mispredicted.
      const bool counts_for = (this->label_[i] < this->u_.classes) & !(errors[i] < least);
      Key bits;
      std::memcpy(&bits, errors + i, sizeof(bits));
      bits &= ~Key(0) >> 1;
      poisoned |= counts_for & (bits > ErrorBits<Acc>::infinity);
      const Key key = ErrorBits<Acc>::infinity - std::min(bits, ErrorBits<Acc>::infinity);
      items[size] = {key, static_cast<Key>(2 * (at + i) + (this->label_[i] == own))};
      size += counts_for;
      for (int d = 0; d < kPasses<Acc>; ++d) counts[d][key >> (d * kDigit) & ((1 << kDigit) - 1)] += counts_for;
    }
    return false;
  }
};

// Sorts by key, equal ones in their order; the result is in the one or the other.
template <class Acc>
ErrorItem<Acc>* sort_errors(
    ErrorItem<Acc>* items, ErrorItem<Acc>* other, int64_t size, uint32_t (*counts)[1 << kDigit]) {
  for (int d = 0; d < kPasses<Acc>; ++d) {
    uint32_t* next = counts[d];
    const int shift = d * kDigit;
    constexpr uint32_t mask = (1 << kDigit) - 1;
    if (size == 0 || next[items[0].key >> shift & mask] == size) continue;  // all alike
    uint32_t before = 0;
    for (int i = 0; i < 1 << kDigit; ++i) {
      const uint32_t count = next[i];
      next[i] = before;
      before += count;
    }
    for (int64_t i = 0; i < size; ++i) other[next[items[i].key >> shift & mask]++] = items[i];
    std::swap(items, other);
  }
  return items;
}

// sum_i m_i g_i of sorted errors; with a plane, writes dL/dp = -g at the class's own pixels and g elsewhere, times
// `share`.
template <class Acc>
double weigh_errors(const ErrorItem<Acc>* items, int64_t size, int64_t total, Acc share, Acc* plane) {
  double loss = 0;
  int64_t left = total, wrong = 0;  // own pixels not yet counted as wrong, and others that are
  for (int64_t i = 0; i < size; ++i) {
    const bool own = items[i].at & 1;
    left -= own;
    wrong += !own;
    const Acc size_of_union = static_cast<Acc>(total + wrong);
    const Acc increment = own ? 1 / size_of_union : static_cast<Acc>(left) / ((size_of_union - 1) * size_of_union);
    loss += static_cast<double>(items[i].error()) * static_cast<double>(increment);
    if (plane) plane[items[i].at >> 1] = own ? -increment * share : increment * share;
  }
  return loss;
}

// Exact, third: the part p dL/dp of the gradient, of some classes, and its sum over them. Last, with kRest: the part
// -p sum, of all.
template <class Acc, Isa isa, bool kRest>
class SlopeTile : public LovaszTile<SlopeTile<Acc, isa, kRest>, Acc, isa> {
  using Base = LovaszTile<SlopeTile<Acc, isa, kRest>, Acc, isa>;
  using typename Base::V;
  using Base::kVecs, Base::kStep, Base::kTile;

 public:
  using Base::Base;
  FASTUDA_INLINE bool row(int64_t y, int64_t x) {
    if (!this->read_labels(y, x)) return false;
    const typename Base::Values z = this->values(y);
    const int64_t at = this->pixel(y, x);
    V most[kVecs] = {}, scale[kVecs] = {}, sum[kVecs] = {};
    if (!this->p_.probabilities) {
      this->read_plane(this->p_.most + at, most);
      this->read_plane(this->p_.scale + at, scale);
      this->read_plane(this->p_.sum + at, sum);
    }
    for (int64_t k = 0; k < this->classes_; ++k) {
      if (!kRest && !this->p_.toward[k]) continue;
      V toward[kVecs];
      if constexpr (!kRest) this->read_plane(this->p_.toward[k] + at, toward);
      for (int v = 0; v < kVecs; ++v) {
        const int64_t to = k * kTile + v * kStep;
        V slope;
        if constexpr (kRest) {
          slope = -this->probability(z(k, v), most[v], scale[v]) * sum[v];
        } else if (this->p_.probabilities) {
          slope = toward[v];
        } else {
          slope = this->probability(z(k, v), most[v], scale[v]) * toward[v];
          sum[v] += slope;
        }
        slope = kept(this->valid(v), slope);
        this->add_slope(slope, z.down, this->top_.data() + to, this->bottom_.data() + to);
      }
    }
    if (!kRest && !this->p_.probabilities) this->write_plane(sum, this->p_.sum + at);
    return true;
  }
};

// Binned: counts errors, or computes them again with what they count for. All classes.
template <class Acc, Isa isa, bool kCount>
class BinTile : public LovaszTile<BinTile<Acc, isa, kCount>, Acc, isa> {
  using Base = LovaszTile<BinTile<Acc, isa, kCount>, Acc, isa>;
  using typename Base::Label;
  using typename Base::Mask;
  using typename Base::V;
  using Base::kVecs, Base::kStep, Base::kTile;

 public:
  uint32_t *pixels = nullptr, *own = nullptr;  // (class, bin): how many errors, how many of the class's own pixels

  explicit BinTile(const LovaszProblem<Acc>& p)
      : Base(p), place_(p.up.scores.classes * kTile), weight_(p.up.scores.classes * kTile) {}

  double take_loss() {
    double sum = 0;
    for (int i = 0; i < kLanes<double>; ++i) sum += losses_[i];
    losses_ = Vec<double>{};
    return sum;
  }
  FASTUDA_INLINE void done() {
    for (int v = 0; v < kVecs; ++v) {
      this->add_lanes(loss_[v], losses_);
      loss_[v] = V{};
    }
  }

  FASTUDA_INLINE bool row(int64_t y, int64_t x) {
    if (!this->read_labels(y, x)) return false;
    const typename Base::Values z = this->values(y);
    V scale[kVecs] = {};
    if (!this->p_.probabilities) {
      V most[kVecs], sum[kVecs], own[kVecs];
      this->template powers<false>(z, most, sum, own);
      for (int v = 0; v < kVecs; ++v) scale[v] = 1 / sum[v];
    }
    places(z, scale);
    if constexpr (kCount) {
      count();
      return false;
    }
    const Acc* const table = this->p_.table;
    const Label* const place = place_.data();
    Acc* const weight = weight_.data();
    for (int64_t i = 0; i < this->classes_ * kTile; ++i) weight[i] = table[place[i]];
    weigh(z.down);
    return true;
  }

 private:
  // Leaves the probabilities in power_ and where their errors are counted in place_.
  FASTUDA_INLINE void places(const typename Base::Values& z, const V (&scale)[kVecs]) {
    const Acc bins = static_cast<Acc>(this->p_.bins), last = bins - 1;
    const int64_t pitch = this->p_.bin_pitch();
    Acc* const powers = this->power_.data();
    Label* const place = place_.data();
    for (int64_t k = 0; k < this->classes_; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = k * kTile + v * kStep;
        V p;
        if (this->p_.probabilities) {
          p = z(k, v);
        } else {
          load(powers + at, p);
          p *= scale[v];
        }
        store(p, powers + at);
        V bin = (this->labels(v) == static_cast<Label>(k) ? 1 - p : p) * bins;
        bin = bin < last ? bin : V{} + last;
        bin = bin > 0 ? bin : V{};
        const Mask whole = __builtin_convertvector(bin, Mask) + static_cast<Label>(k * pitch);
        std::memcpy(place + at, &whole, sizeof(whole));
      }
    }
  }

  // Pixel by pixel: consecutive increments are of different classes, so none waits for the one before.
  FASTUDA_INLINE void count() {
    const int64_t classes = this->classes_;
    for (int i = 0; i < this->count_; ++i) {
      const int64_t label = this->label_[i];
      if (label >= this->u_.classes) continue;
      const Label* place = place_.data() + i;
      for (int64_t k = 0; k < classes; ++k) ++pixels[place[k * kTile]];
      ++own[place[label * kTile]];
    }
  }

  FASTUDA_INLINE void weigh(Acc down) {
    const Acc* const probability = this->power_.data();
    Acc* const weight = weight_.data();
    V sum[kVecs] = {};
    for (int64_t k = 0; k < this->classes_; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = k * kTile + v * kStep;
        const Mask own = this->labels(v) == static_cast<Label>(k);
        V p, w;
        load(probability + at, p);
        load(weight + at, w);
        const V error = own ? 1 - p : p;
        loss_[v] += kept(this->valid(v), error * w);
        w = own ? -w : w;
        store(w, weight + at);
        sum[v] += p * w;
      }
    }
    if (!this->p_.with_slope) return;
    for (int64_t k = 0; k < this->classes_; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = k * kTile + v * kStep;
        V p, w;
        load(probability + at, p);
        load(weight + at, w);
        const V slope = this->p_.probabilities ? w : p * (w - sum[v]);
        this->add_slope(kept(this->valid(v), slope), down, this->top_.data() + at, this->bottom_.data() + at);
      }
    }
  }

  Buffer<Label> place_;
  Buffer<Acc> weight_;
  V loss_[kVecs] = {};
  Vec<double> losses_{};
};

}  // namespace fastuda
