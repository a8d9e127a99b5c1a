// Lovász-Softmax of bilinearly upsampled scores on the CPU. cpu/lovasz_softmax_sweeps.h describes the method.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/lovasz_softmax_sweeps.h"
#include "cpu/parallel.h"
#include "cpu/upsample_nodes.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGroup = 8;  // classes whose planes are held at once

struct Options {
  int64_t bins;
  bool probabilities, align_corners;
  int64_t ignore_index;
  bool with_slope;
};

// The errors of one class, sorted and weighed.
template <class Acc, Isa isa>
FASTUDA_INLINE void errors_tiles(
    const LovaszProblem<Acc>& p, const std::vector<RowChunk>& chunks, ErrorItem<Acc>* const (&items)[2],
    uint32_t (*counts)[1 << kDigit], Acc* plane, int64_t& size, bool& poisoned) {
  ErrorTile<Acc, isa> tile(p);
  tile.plane = plane;
  tile.items = items[0];
  tile.counts = counts;
  for (int64_t n = 0; n < p.up.scores.images; ++n)
    for (const RowChunk& c : chunks) tile.run(n, c.begin, c.end, {});
  size = tile.size;
  poisoned = tile.poisoned;
}

// The softmax of the pixels; `least` is lowered to the least error of each class's own pixels.
template <class Acc, Isa isa>
FASTUDA_INLINE void norm_tiles(
    const LovaszProblem<Acc>& p, const NodeSums<Acc>& s, Acc* least, int64_t begin, int64_t end) {
  NormTile<Acc, isa> tile(p);
  tile.least = least;
  for (int64_t i = begin; i < end; ++i) tile.run(s.image(i), s.chunk(i).begin, s.chunk(i).end, {});
}

// A sweep over the items of `s` with a tile that keeps no sums.
template <class Tile, class Acc>
FASTUDA_INLINE void sweep_tiles(const LovaszProblem<Acc>& p, const NodeSums<Acc>& s, int64_t begin, int64_t end) {
  Tile tile(p);
  for (int64_t i = begin; i < end; ++i) tile.run(s.image(i), s.chunk(i).begin, s.chunk(i).end, s.place(i));
}

template <class Acc, Isa isa>
FASTUDA_INLINE void count_tiles(
    const LovaszProblem<Acc>& p, const NodeSums<Acc>& s, uint32_t* pixels, uint32_t* own, int64_t begin, int64_t end) {
  BinTile<Acc, isa, true> tile(p);
  tile.pixels = pixels;
  tile.own = own;
  for (int64_t i = begin; i < end; ++i) tile.run(s.image(i), s.chunk(i).begin, s.chunk(i).end, {});
}

template <class Acc, Isa isa>
FASTUDA_INLINE void weigh_tiles(
    const LovaszProblem<Acc>& p, const NodeSums<Acc>& s, double* losses, int64_t begin, int64_t end) {
  BinTile<Acc, isa, false> tile(p);
  for (int64_t i = begin; i < end; ++i) {
    tile.run(s.image(i), s.chunk(i).begin, s.chunk(i).end, s.place(i));
    losses[i] = tile.take_loss();
  }
}

// One call: what its sweeps share.
template <class Acc, Isa isa>
class Lovasz {
  static constexpr ScalarType kType = kTypeOf<Acc>;

 public:
  Lovasz(const Tensor& logits, const Tensor& target, const Options& o)
      : o_(o), like_(logits), view_(score_view(logits)), height_(target.size(1)), width_(target.size(2)),
        p_{{view_, Taps<Acc>(height_, view_.height, o.align_corners), Taps<Acc>(width_, view_.width, o.align_corners),
            pixel_plane(target), view_.classes, o.ignore_index,
            o.probabilities ? Acc(1) : static_cast<Acc>(1.44269504088896340736)},
           o.probabilities, o.with_slope, nullptr, nullptr, nullptr, nullptr, nullptr, 0, o.bins, nullptr},
        chunks_(width_ > 0 ? row_chunks(p_.up.down) : std::vector<RowChunk>{}),
        slope_(make(o.with_slope ? view_.images * view_.classes * view_.height * view_.width : 0)),
        totals_(count_labels()) {
    for (int64_t count : totals_) present_ += count > 0;
  }

  std::tuple<Tensor, Tensor> run() {
    Tensor loss = torch::stable::new_empty(like_, std::vector<int64_t>{}, kType);
    const double sum = o_.bins > 0 ? binned() : exact();
    *static_cast<Acc*>(loss.mutable_data_ptr()) = static_cast<Acc>(present_ > 0 ? sum : 0);
    if (o_.with_slope)
      slope_ = torch::stable::view(slope_, {view_.images, view_.classes, view_.height, view_.width});
    return {loss, slope_};
  }

 private:
  Tensor make(int64_t size) const { return torch::stable::new_empty(like_, {size}, kType); }
  static Acc* data(Tensor& t) { return static_cast<Acc*>(t.mutable_data_ptr()); }
  int64_t pixels() const { return view_.images * height_ * width_; }
  int64_t divisor() const { return std::max<int64_t>(present_, 1); }

  // Valid pixels of each class.
  std::vector<int64_t> count_labels() const {
    std::vector<int64_t> totals(view_.classes + 1);
    std::mutex lock;
    torch::stable::parallel_for(0, view_.images * height_, 64, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> mine(view_.classes + 1);
      std::vector<int32_t> label(width_);
      for (int64_t i = begin; i < end; ++i) {
        read_label_row(
            p_.up.labels, i / height_, i % height_, 0, width_, view_.classes, o_.ignore_index, label.data());
        for (const int32_t k : label) ++mine[k];
      }
      const std::lock_guard<std::mutex> guard(lock);
      for (size_t k = 0; k < mine.size(); ++k) totals[k] += mine[k];
    });
    totals.pop_back();  // of ignored pixels
    return totals;
  }

  NodeSums<Acc> sums(const LovaszProblem<Acc>& p, Tensor& partials, int64_t first, bool more) {
    if (o_.with_slope) {
      const int64_t size = NodeSums<Acc>::size(p.up, chunks_);
      if (partials.numel() < size) partials = make(size);
    }
    return {p.up, chunks_, o_.with_slope ? data(partials) : nullptr, data(slope_), first, view_.classes, more};
  }

  template <class Body>
  void each(const NodeSums<Acc>& s, const Body& body) {
    parallel_on<Acc, isa>(s.items(), 1, body);
  }
  void gather(const NodeSums<Acc>& s) {
    parallel_on<Acc, isa>(view_.images * view_.height, 8, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
      gather_rows(s, begin, end);
    });
  }

  double exact() {
    STD_TORCH_CHECK(pixels() < int64_t(1) << 31, "target must have fewer than 2^31 pixels for an exact loss");
    const int64_t planes = o_.probabilities ? 0 : pixels();
    Tensor most = make(planes), scale = make(planes), sum = make(planes), partials = make(0);
    p_.most = data(most);
    p_.scale = data(scale);
    p_.sum = data(sum);
    const std::vector<Acc> least = planes > 0 ? norms() : std::vector<Acc>(view_.classes);
    p_.least = least.data();
    Tensor toward = make(o_.with_slope ? std::min(kGroup, view_.classes) * pixels() : 0);
    double loss = 0;
    for (int64_t first = 0; first < view_.classes; first += kGroup) loss += group(first, toward, partials);
    if (o_.with_slope && !o_.probabilities) {
      const NodeSums<Acc> s = sums(p_, partials, 0, true);
      each(s, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
        sweep_tiles<SlopeTile<Acc, isa, true>>(p_, s, begin, end);
      });
      gather(s);
    }
    return loss / divisor();
  }

  // Fills the planes of the softmax; the least error of each class's own pixels, less what rounding may do to it.
  std::vector<Acc> norms() {
    const NodeSums<Acc> none{p_.up, chunks_, nullptr, nullptr, 0, view_.classes, false};
    std::vector<Acc> least(view_.classes, Acc(2));
    std::mutex lock;
    torch::stable::parallel_for(0, none.items(), 1, [&](int64_t begin, int64_t end) {
      std::vector<Acc> mine(view_.classes, Acc(2));
      on_isa<Acc, isa>([&]() FASTUDA_INLINED { norm_tiles<Acc, isa>(p_, none, mine.data(), begin, end); });
      const std::lock_guard<std::mutex> guard(lock);
      for (int64_t k = 0; k < view_.classes; ++k) least[k] = std::min(least[k], mine[k]);
    });
    for (Acc& x : least) x -= 8 * std::numeric_limits<Acc>::epsilon();
    return least;
  }

  // The problem of `count` classes from `first` on.
  LovaszProblem<Acc> part(int64_t first, int64_t count) const {
    LovaszProblem<Acc> p = p_;
    p.up.scores.data = static_cast<const char*>(view_.data) + first * view_.class_stride * bytes_of(view_.type);
    p.up.scores.classes = count;
    p.first_class = first;
    return p;
  }

  double group(int64_t first, Tensor& toward, Tensor& partials) {
    const int64_t count = std::min(kGroup, view_.classes - first);
    Acc* planes[kGroup] = {};
    double losses[kGroup] = {};
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      std::unique_ptr<ErrorItem<Acc>[]> scratch[2];
      std::vector<uint32_t> counts(kPasses<Acc> << kDigit);
      for (int64_t k = begin; k < end; ++k) {
        if (totals_[first + k] == 0) continue;
        if (!scratch[0])
          for (auto& items : scratch) items.reset(new ErrorItem<Acc>[pixels() + 1]);
        if (o_.with_slope) planes[k] = data(toward) + k * pixels();
        ErrorItem<Acc>* const items[2] = {scratch[0].get(), scratch[1].get()};
        std::fill(counts.begin(), counts.end(), 0);
        losses[k] = sort(part(first + k, 1), items, counts.data(), totals_[first + k], planes[k]);
      }
    });
    if (o_.with_slope) {
      LovaszProblem<Acc> p = part(first, count);
      p.toward = planes;
      const NodeSums<Acc> s = sums(p, partials, first, false);
      each(s, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
        sweep_tiles<SlopeTile<Acc, isa, false>>(p, s, begin, end);
      });
      gather(s);
    }
    double loss = 0;
    for (int64_t k = 0; k < count; ++k) loss += losses[k];
    return loss;
  }

  double sort(
      const LovaszProblem<Acc>& p, ErrorItem<Acc>* const (&items)[2], uint32_t* flat, int64_t total, Acc* plane) {
    auto* counts = reinterpret_cast<uint32_t(*)[1 << kDigit]>(flat);
    int64_t size = 0;
    bool poisoned = false;
    on_isa<Acc, isa>([&]() FASTUDA_INLINED {
      errors_tiles<Acc, isa>(p, chunks_, items, counts, plane, size, poisoned);
    });
    const ErrorItem<Acc>* sorted = sort_errors<Acc>(items[0], items[1], size, counts);
    const double loss = weigh_errors<Acc>(sorted, size, total, Acc(1) / static_cast<Acc>(divisor()), plane);
    return poisoned ? std::numeric_limits<double>::quiet_NaN() : loss;
  }

  double binned() {
    const int64_t entries = view_.classes * p_.bin_pitch();
    std::vector<int64_t> counts(entries), own(entries);
    std::mutex lock;
    const NodeSums<Acc> none{p_.up, chunks_, nullptr, nullptr, 0, view_.classes, false};
    torch::stable::parallel_for(0, none.items(), 1, [&](int64_t begin, int64_t end) {
      std::vector<uint32_t> mine(2 * entries);
      on_isa<Acc, isa>([&]() FASTUDA_INLINED {
        count_tiles<Acc, isa>(p_, none, mine.data(), mine.data() + entries, begin, end);
      });
      const std::lock_guard<std::mutex> guard(lock);
      for (int64_t i = 0; i < entries; ++i) {
        counts[i] += mine[i];
        own[i] += mine[entries + i];
      }
    });
    const std::vector<Acc> table = weigh_bins(counts, own);
    p_.table = table.data();
    Tensor partials = make(0);
    const NodeSums<Acc> s = sums(p_, partials, 0, false);
    std::vector<double> losses(s.items());
    each(s, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
      weigh_tiles<Acc, isa>(p_, s, losses.data(), begin, end);
    });
    if (o_.with_slope) gather(s);
    double loss = 0;
    for (const double x : losses) loss += x;
    return loss;
  }

  // The step of a class's Jaccard loss over each bin, from the largest errors down, by the bin's pixels.
  std::vector<Acc> weigh_bins(const std::vector<int64_t>& counts, const std::vector<int64_t>& own) const {
    std::vector<Acc> table(counts.size());
    for (int64_t k = 0; k < view_.classes; ++k) {
      if (totals_[k] == 0) continue;
      int64_t left = totals_[k], together = totals_[k];
      double before = 0;
      const int64_t first = k * p_.bin_pitch();
      for (int64_t i = first + o_.bins - 1; i >= first; --i) {
        if (counts[i] == 0) continue;
        left -= own[i];
        together += counts[i] - own[i];
        const double loss = 1 - static_cast<double>(left) / static_cast<double>(together);
        table[i] = static_cast<Acc>((loss - before) / static_cast<double>(counts[i] * divisor()));
        before = loss;
      }
    }
    return table;
  }

  const Options& o_;
  const Tensor& like_;
  ScoreView view_;
  int64_t height_, width_;
  LovaszProblem<Acc> p_;
  std::vector<RowChunk> chunks_;
  Tensor slope_;
  std::vector<int64_t> totals_;
  int64_t present_ = 0;
};

std::tuple<Tensor, Tensor> lovasz_softmax(
    const Tensor& logits, const Tensor& target, int64_t bins, bool probabilities, bool align_corners,
    int64_t ignore_index, bool with_slope) {
  STD_TORCH_CHECK(
      logits.dim() == 4 && target.dim() == 3 && target.size(0) == logits.size(0),
      "logits must be (N, K, h, w) and target (N, H, W)");
  label_bytes(target, "target");
  STD_TORCH_CHECK(0 <= bins && bins <= 65536, "bins must be between 0 and 65536");
  const Options options{bins, probabilities, align_corners, ignore_index, with_slope};
  return with_sums(logits.scalar_type(), [&]<class Acc>() {
    return with_isa<Acc>([&]<Isa isa>() { return Lovasz<Acc, isa>(logits, target, options).run(); });
  });
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("lovasz_softmax", TORCH_BOX(&fastuda::lovasz_softmax)); }
