// Cross entropy of bilinearly upsampled logits, and its gradient: a row of a tile at a time.
#pragma once

#include "cpu/upsample_tile.h"

namespace fastuda {

template <class Acc>
struct LossProblem {
  Upsampling<Acc> up;
  PixelPlane scale;  // weights of pixels; its data is null without
  const Acc* weight;  // of each class, 0 behind the last
  bool weighted;  // whether any differs from 1
  Acc smoothing, even_sum;
  Acc* losses;  // (N, H, W), or null
  bool with_slope;
};

template <class Acc, Isa isa>
class LossTile : public UpsampleTile<Acc, isa> {
  using Tile = UpsampleTile<Acc, isa>;
  friend Tile;
  using Tile::kVecs, Tile::kStep, Tile::kTile, Tile::u_, Tile::classes_, Tile::label_, Tile::power_, Tile::top_,
      Tile::bottom_, Tile::image_, Tile::count_;
  using typename Tile::Label;
  using typename Tile::Mask;
  using typename Tile::V;

 public:
  explicit LossTile(const LossProblem<Acc>& p) : Tile(p.up), p_(p) {}
  FASTUDA_INLINE void run(int64_t image, int64_t begin, int64_t end, const SlopePlace<Acc>& to) {
    Tile::run_tiles(*this, image, begin, end, to);
  }

  // Sums over the pixels since the last call.
  double take_loss() { return take(losses_); }
  double take_divisor() { return take(shares_); }

  FASTUDA_INLINE bool row(int64_t y, int64_t x) {
    if (!this->read_labels(y, x)) {
      if (p_.losses) std::memset(loss_at(y, x), 0, count_ * sizeof(Acc));
      return false;
    }
    weigh(y, x);
    p_.even_sum != 0 ? softmax<true>(y, x) : softmax<false>(y, x);
    return true;
  }

  // The tile's sums over its rows go on in double precision.
  FASTUDA_INLINE void done() {
    for (int v = 0; v < kVecs; ++v) {
      this->add_lanes(loss_sum_[v], losses_);
      this->add_lanes(share_sum_[v], shares_);
      loss_sum_[v] = share_sum_[v] = V{};
    }
  }

 private:
  static double take(Vec<double>& from) {
    double sum = 0;
    for (int i = 0; i < kLanes<double>; ++i) sum += from[i];
    from = Vec<double>{};
    return sum;
  }

  Acc* loss_at(int64_t y, int64_t x) const { return p_.losses + (image_ * u_.down.size + y) * u_.along.size + x; }

  // Each pixel's class weight and its own one, both 0 where it is ignored.
  FASTUDA_INLINE void weigh(int64_t y, int64_t x) {
    for (int v = 0; v < kVecs; ++v) share_[v] = scale_[v] = kept(this->valid(v), V{} + 1);
    if (p_.weighted)
      for (int i = 0; i < kTile; ++i) share_[i / kStep][i % kStep] = p_.weight[label_[i]];
    if (!p_.scale.data) return;
    const int64_t at = image_ * p_.scale.image_stride + y * p_.scale.row_stride + x * p_.scale.column_stride;
    const bool wide = p_.scale.type == torch::headeronly::ScalarType::Double;
    for (int i = 0; i < count_; ++i) {
      if (label_[i] >= classes_) continue;
      const int64_t from = at + i * p_.scale.column_stride;
      scale_[i / kStep][i % kStep] = wide ? static_cast<Acc>(static_cast<const double*>(p_.scale.data)[from])
                                          : static_cast<Acc>(static_cast<const float*>(p_.scale.data)[from]);
    }
  }

  template <bool kSmooth>
  FASTUDA_INLINE void softmax(int64_t y, int64_t x) {
    const typename Tile::Values z = this->values(y);
    Mask label[kVecs];
    V most[kVecs], sum[kVecs], own[kVecs], even[kVecs] = {};
    for (int v = 0; v < kVecs; ++v) label[v] = this->labels(v);
    this->template powers<true>(z, most, sum, own);
    if constexpr (kSmooth)
      for (int64_t k = 0; k < classes_; ++k)
        for (int v = 0; v < kVecs; ++v) even[v] += p_.weight[k] * (z(k, v) - most[v]);
    V part[kVecs], wanted[kVecs];
    finish<kSmooth>(label, most, own, sum, even, y, x, part, wanted);
    if (p_.with_slope) slopes<kSmooth>(label, part, wanted, z.down);
  }

  // The losses of a row of the tile; `part` scales the powers to the gradient, from which `wanted` goes off at the
  // label.
  template <bool kSmooth>
  FASTUDA_INLINE void finish(
      const Mask (&label)[kVecs], const V (&most)[kVecs], const V (&own)[kVecs], const V (&sum)[kVecs],
      const V (&even)[kVecs], int64_t y, int64_t x, V (&part)[kVecs], V (&wanted)[kVecs]) {
    const Acc natural = 1 / u_.unit;
    Acc values[kTile];
    Mask spoilt{};
    for (int v = 0; v < kVecs; ++v) {
      const Mask valid = label[v] < static_cast<Label>(classes_);
      const V scale = scale_[v], share = share_[v];
      V log_sum;
      log_from_one(sum[v], log_sum);
      const V certain = share * (1 - p_.smoothing);
      V value = certain * (log_sum - natural * (own[v] - most[v]));
      if constexpr (kSmooth) value += p_.even_sum * log_sum - (natural * p_.smoothing / classes_) * even[v];
      value = kept(valid, value * scale);
      store(value, values + v * kStep);
      wanted[v] = certain * scale;
      part[v] = kept(valid, (certain + p_.even_sum) * scale / sum[v]);
      spoilt |= ~valid & ~(sum[v] < std::numeric_limits<Acc>::infinity());
      loss_sum_[v] += value;
      share_sum_[v] += share;
    }
    this->clean(spoilt);
    if (p_.losses) std::memcpy(loss_at(y, x), values, count_ * sizeof(Acc));
  }

  template <bool kSmooth>
  FASTUDA_INLINE void slopes(const Mask (&label)[kVecs], const V (&part)[kVecs], const V (&wanted)[kVecs], Acc down) {
    const Acc *const powers = power_.data(), *const weight = p_.weight;
    Acc *const top = top_.data(), *const bottom = bottom_.data();
    const int64_t classes = classes_;
    V even[kVecs] = {};
    if constexpr (kSmooth)
      for (int v = 0; v < kVecs; ++v) even[v] = scale_[v] * (p_.smoothing / classes);
    for (int64_t k = 0; k < classes; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        const int64_t at = k * kTile + v * kStep;
        V slope;
        load(powers + at, slope);
        slope *= part[v];
        if constexpr (kSmooth) slope -= weight[k] * even[v];
        slope = label[v] == static_cast<Label>(k) ? slope - wanted[v] : slope;
        this->add_slope(slope, down, top + at, bottom + at);
      }
    }
  }

  const LossProblem<Acc>& p_;
  V share_[kVecs], scale_[kVecs], loss_sum_[kVecs] = {}, share_sum_[kVecs] = {};
  Vec<double> losses_{}, shares_{};
};

}  // namespace fastuda
