// Cross entropy of bilinearly upsampled logits on the CPU. cpu/upsample_tile.h describes the method.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/parallel.h"
#include "cpu/upsample_nodes.h"
#include "cpu/upsample_tile.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

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

template <class Acc>
struct Run {
  const LossProblem<Acc>& p;
  NodeSums<Acc> nodes;
  double* sums;  // loss and divisor of each chunk of each image
};

template <class Acc, Isa isa>
FASTUDA_INLINE void losses(const Run<Acc>& r, int64_t begin, int64_t end) {
  LossTile<Acc, isa> work(r.p);
  for (int64_t i = begin; i < end; ++i) {
    work.run(r.nodes.image(i), r.nodes.chunk(i).begin, r.nodes.chunk(i).end, r.nodes.place(i));
    r.sums[2 * i] = work.take_loss();
    r.sums[2 * i + 1] = work.take_divisor();
  }
}

template <class Acc>
void sweep(const Run<Acc>& r) {
  parallel<Acc>(r.nodes.items(), 1, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    losses<Acc, isa>(r, begin, end);
  });
  if (!r.p.with_slope) return;
  const ScoreView& view = r.p.up.scores;
  parallel<Acc>(view.images * view.height, 8, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    gather_rows(r.nodes, begin, end);
  });
}

template <class Acc>
std::vector<Acc> class_weights(const std::optional<Tensor>& weight, int64_t classes) {
  std::vector<Acc> values(classes + 1, Acc(1));
  if (weight) {
    const int64_t step = weight->stride(0);
    const bool wide = is_double(*weight, "weight");
    for (int64_t k = 0; k < classes; ++k)
      values[k] = wide ? static_cast<Acc>(static_cast<const double*>(weight->const_data_ptr())[k * step])
                       : static_cast<Acc>(static_cast<const float*>(weight->const_data_ptr())[k * step]);
  }
  values[classes] = 0;  // of an ignored pixel
  return values;
}

struct Options {
  bool align_corners;
  int64_t ignore_index;
  double smoothing;
  bool with_map, with_slope;
};

template <class Acc>
std::tuple<Tensor, Tensor, Tensor> run(
    const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& pixel_weight, const Options& o) {
  constexpr ScalarType type = kTypeOf<Acc>;
  const ScoreView view = score_view(logits);
  const std::vector<Acc> weights = class_weights<Acc>(weight, view.classes);
  double even = 0;
  for (const Acc w : weights) even += w * o.smoothing / static_cast<double>(view.classes);
  const int64_t n = view.images, height = target.size(1), width = target.size(2);
  const auto make = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(logits, std::vector<int64_t>(shape), type);
  };
  Tensor total = make({2});
  Tensor losses = o.with_map ? make({n, height, width}) : make({0});
  Tensor slope = o.with_slope ? make({n, view.classes, view.height, view.width}) : make({0});
  const LossProblem<Acc> p{
      {view, Taps<Acc>(height, view.height, o.align_corners), Taps<Acc>(width, view.width, o.align_corners),
       pixel_plane(target), view.classes, o.ignore_index, static_cast<Acc>(1.44269504088896340736)},
      pixel_weight ? pixel_plane(*pixel_weight) : PixelPlane{}, weights.data(), weight.has_value(),
      static_cast<Acc>(o.smoothing), static_cast<Acc>(even),
      o.with_map ? static_cast<Acc*>(losses.mutable_data_ptr()) : nullptr, o.with_slope};
  const std::vector<RowChunk> chunks = width > 0 ? row_chunks(p.up.down) : std::vector<RowChunk>{};
  std::vector<double> sums(2 * n * chunks.size());
  Tensor partials = make({o.with_slope ? NodeSums<Acc>::size(p.up, chunks) : 0});
  Acc* const partial = o.with_slope ? static_cast<Acc*>(partials.mutable_data_ptr()) : nullptr;
  Acc* const to = static_cast<Acc*>(slope.mutable_data_ptr());
  const Run<Acc> r{p, {p.up, chunks, partial, to, 0, view.classes, false}, sums.data()};
  sweep(r);
  double loss = 0, divisor = 0;
  for (size_t i = 0; i < sums.size(); i += 2) {
    loss += sums[i];
    divisor += sums[i + 1];
  }
  Acc* out = static_cast<Acc*>(total.mutable_data_ptr());
  out[0] = static_cast<Acc>(loss);
  out[1] = static_cast<Acc>(divisor);
  return {total, losses, slope};
}

std::tuple<Tensor, Tensor, Tensor> upsample_cross_entropy(
    const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& pixel_weight, bool align_corners, int64_t ignore_index, double label_smoothing,
    bool with_map, bool with_slope) {
  STD_TORCH_CHECK(
      logits.dim() == 4 && target.dim() == 3 && target.size(0) == logits.size(0),
      "logits must be (N, K, h, w) and target (N, H, W)");
  label_bytes(target, "target");
  STD_TORCH_CHECK(!weight || (weight->dim() == 1 && weight->size(0) == logits.size(1)), "weight must be (K,)");
  if (pixel_weight) is_double(*pixel_weight, "pixel_weight");
  STD_TORCH_CHECK(
      !pixel_weight || (pixel_weight->dim() == 3 && pixel_weight->size(0) == target.size(0) &&
                        pixel_weight->size(1) == target.size(1) && pixel_weight->size(2) == target.size(2)),
      "pixel_weight must be (N, H, W)");
  const Options options{align_corners, ignore_index, label_smoothing, with_map, with_slope};
  return with_sums(
      logits.scalar_type(), [&]<class Acc>() { return run<Acc>(logits, target, weight, pixel_weight, options); });
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("upsample_cross_entropy", TORCH_BOX(&fastuda::upsample_cross_entropy));
}
