// Overlapping patches averaged into labels on the CPU: every pixel gathers the votes of the patches that cover it.
//
// A thread takes rows of the image. Each patch that crosses a row is lerped down to it once; a vector of pixels then
// adds up the votes of its patches in their order, all classes in the first cache, and becomes labels at once: the
// volume of votes never exists unless it is asked for.
#include <cmath>
#include <memory>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/dense_labels.h"
#include "cpu/parallel.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kTileColumns = 256;  // of an image's row, for which the patches are listed at once

template <class Acc>
struct Aggregation {
  ScoreView scores;  // images x patches as one dimension, see patch_of()
  int64_t images, patches;
  int64_t image_stride, patch_stride;
  const int64_t* offsets;
  int64_t offset_strides[3];
  int64_t height, width;
  Taps<Acc> down, along;  // of a patch; along has a vector of positions before its first
  ScoreView full;
  Taps<Acc> full_down, full_along;
  bool few_nodes;  // whether Nodes serve both along
  bool with_full, probabilities;
  int64_t bins;
  uint8_t* label;
  Acc *confidence, *volume;
  int64_t* counts;

  ScoreView patch_of(int64_t image, int64_t patch) const {
    ScoreView view = scores;
    const int64_t at = image * image_stride + patch * patch_stride;
    view.data = static_cast<const char*>(view.data) + at * bytes_of(view.type);
    return view;
  }
  int64_t offset(int64_t image, int64_t patch, int64_t axis) const {
    return offsets[image * offset_strides[0] + patch * offset_strides[1] + axis * offset_strides[2]];
  }
};

// A patch on the current row: its scores there, and the image column of its first pixel.
template <class Acc>
struct Crossing {
  const Acc* row;
  int64_t column;
};

// A vector's votes of one set of scores: sums[k] += p_k, in the lanes of `inside` only.
template <class Acc, class Along>
FASTUDA_INLINE void vote(
    const Acc* row, int64_t pitch, int64_t classes, Along& along, bool probabilities, bool whole,
    const typename VecOf<Acc>::mask& inside, Acc* stage, Acc* sums) {
  constexpr int lanes = kLanes<Acc>;
  const Vec<Acc> none = {};
  Vec<Acc> p, sum, scale;
  if constexpr (Along::kNeedsFinite)
    if (probabilities) {
      if (!whole) along.keep(inside);
      for (int64_t k = 0; k < classes; ++k) {
        load(sums + k * lanes, sum);
        along.add(row + k * pitch, sum);
        store(sum, sums + k * lanes);
      }
      return;
    }
  scale = Vec<Acc>{} + 1;
  if (!probabilities) {
    Vec<Acc> most;
    typename VecOf<Acc>::mask label;
    stage_logits<Acc>(row, pitch, classes, along, stage, most, label);
    exponentials<Acc, !Along::kNeedsFinite>(classes, most, stage, scale);
    scale = Acc(1) / scale;
    if (!whole) scale = inside ? scale : none;
  }
  for (int64_t k = 0; k < classes; ++k) {
    load(sums + k * lanes, sum);
    if (probabilities) along(row + k * pitch, p);
    else load(stage + k * lanes, p);
    p *= scale;
    if constexpr (!Along::kNeedsFinite)
      if (!whole) p = inside ? p : none;  // NaN beyond the patch's edge is not 0 times anything
    sum += p;
    store(sum, sums + k * lanes);
  }
}

// Labels, confidences, counts and means of a vector from its sums and the number of its votes.
template <class Acc>
FASTUDA_INLINE void decide(
    const Aggregation<Acc>& a, const Acc* sums, const typename VecOf<Acc>::mask& votes, int64_t image, int64_t pixel,
    int64_t count, BinCounts& counts) {
  using Mask = typename VecOf<Acc>::mask;
  constexpr int lanes = kLanes<Acc>;
  const Mask covered = votes > 0, divisor = votes + (votes == 0 ? Mask{} + 1 : Mask{});
  const Vec<Acc> scale = Acc(1) / __builtin_convertvector(divisor, Vec<Acc>);
  const int64_t pixels = a.height * a.width;
  Best<Acc> best;
  Vec<Acc> most, sum;
  load(sums, most);
  best.label = Mask{};
  Mask bad = most != most;
  for (int64_t k = 1; k < a.scores.classes; ++k) {
    load(sums + k * lanes, sum);
    bad |= sum != sum;
    Best<Acc>::take(sum, k, most, best.label);
  }
  best.confidence = nan_where<Acc>(bad, most * scale);
  if (a.bins) counts.take<Acc>(best, covered, count);
  store_labels(covered & ~bad ? best.label : Mask{} + kIgnored, a.label + image * pixels + pixel, count);
  store_some<Acc>(best.confidence, a.confidence + image * pixels + pixel, count);
  if (!a.volume) return;
  for (int64_t k = 0; k < a.scores.classes; ++k) {
    load(sums + k * lanes, sum);
    store_some<Acc>(sum * scale, a.volume + (image * a.scores.classes + k) * pixels + pixel, count);
  }
}

// Row y of an image from the patches that cross it.
template <class Acc, class Along>
FASTUDA_INLINE void aggregate_row(
    const Aggregation<Acc>& a, const std::vector<Crossing<Acc>>& crossing, std::vector<Crossing<Acc>>& near,
    const Acc* full_row, int64_t image, int64_t y, Acc* stage, Acc* sums, BinCounts& counts) {
  using Mask = typename VecOf<Acc>::mask;
  using Lane = typename Best<Acc>::Lane;
  constexpr int lanes = kLanes<Acc>;
  const int64_t classes = a.scores.classes, length = a.along.size, pitch = row_pitch<Acc>(a.scores.width);
  Mask lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  for (int64_t x = 0; x < a.width; x += lanes) {
    if (x % kTileColumns == 0) {
      near.clear();
      for (const Crossing<Acc>& c : crossing)
        if (c.column < x + kTileColumns && c.column + length > x) near.push_back(c);
    }
    std::fill(sums, sums + classes * lanes, Acc(0));
    Mask votes = {};
    for (const Crossing<Acc>& c : near) {
      const int64_t from = x - c.column;  // the vector's first position in the patch
      if (from <= -lanes || from >= length) continue;
      const bool whole = from >= 0 && from + lanes <= length;
      Mask inside = ~Mask{};
      if (!whole) {
        const Mask place = lane + static_cast<Lane>(from);
        inside = (place >= 0) & (place < static_cast<Lane>(length));
      }
      Along along;
      along.set(a.along, from + lanes);
      vote<Acc>(c.row, pitch, classes, along, a.probabilities, whole, inside, stage, sums);
      votes -= inside;  // its lanes are -1
    }
    if (a.with_full) {
      Along along;
      along.set(a.full_along, x);
      vote<Acc>(
          full_row, row_pitch<Acc>(a.full.width), classes, along, a.probabilities, true, ~Mask{}, stage, sums);
      votes += 1;
    }
    decide<Acc>(a, sums, votes, image, y * a.width + x, a.width - x, counts);
  }
}

// Rows [begin, end) of all images.
template <class Acc, Isa isa>
FASTUDA_INLINE void aggregate_rows(const Aggregation<Acc>& a, int64_t begin, int64_t end) {
  Buffer<Acc> stage(a.scores.classes * kLanes<Acc>), sums(a.scores.classes * kLanes<Acc>);
  BinCounts counts(a.scores.classes, a.bins);
  std::vector<std::unique_ptr<DenseRows<Acc>>> rows(a.patches + a.with_full);
  std::vector<Crossing<Acc>> crossing, near;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t image = i / a.height, y = i % a.height;
    crossing.clear();
    bool few_nodes = a.few_nodes;
    const Acc* full_row = nullptr;
    for (int64_t p = 0; p < a.patches + a.with_full; ++p) {
      const bool is_full = p == a.patches;
      if (y == 0 && !is_full) rows[p] = nullptr;  // of another image
      const int64_t line = is_full ? 0 : a.offset(image, p, 0), column = is_full ? 0 : a.offset(image, p, 1);
      if (!is_full && (line > y || line <= y - a.down.size || column >= a.width || column <= -a.along.size)) continue;
      if (!rows[p])
        rows[p] = is_full ? std::make_unique<DenseRows<Acc>>(a.full, a.full_down)
                          : std::make_unique<DenseRows<Acc>>(a.patch_of(image, p), a.down);
      const Acc* row = rows[p]->template at<isa>(is_full ? image : 0, y - line);
      few_nodes &= rows[p]->finite();
      if (is_full) full_row = row;
      else crossing.push_back({row, column});
    }
    if (few_nodes)
      aggregate_row<Acc, Nodes<Acc>>(
          a, crossing, near, full_row, image, y, stage.data(), sums.data(), counts);
    else
      aggregate_row<Acc, AnyNodes<Acc, isa>>(
          a, crossing, near, full_row, image, y, stage.data(), sums.data(), counts);
  }
  counts.add(a.counts);
}

struct Request {
  const Tensor &scores, &offsets;
  const ScoreView *patch, *full;  // full may be null
  int64_t height, width, patch_height, patch_width;
  bool probabilities, align_corners;
  int64_t bins;
};

template <class Acc>
void run(const Request& r, Tensor& label, Tensor& confidence, Tensor& counts, void* volume) {
  const Tensor &s = r.scores, &o = r.offsets;
  const ScoreView& full = r.full ? *r.full : *r.patch;
  Taps<Acc> along(r.patch_width, r.patch->width, r.align_corners);
  along.lower.insert(along.lower.begin(), kLanes<Acc>, along.lower[0]);
  along.weight.insert(along.weight.begin(), kLanes<Acc>, along.weight[0]);
  Aggregation<Acc> a{
      *r.patch, s.size(0), s.size(1), s.stride(0), s.stride(1), static_cast<const int64_t*>(o.const_data_ptr()),
      {o.stride(0), o.stride(1), o.stride(2)}, r.height, r.width,
      {r.patch_height, r.patch->height, r.align_corners}, along, full, {r.height, full.height, r.align_corners},
      {r.width, full.width, r.align_corners}, false, r.full != nullptr, r.probabilities, r.bins,
      static_cast<uint8_t*>(label.mutable_data_ptr()), static_cast<Acc*>(confidence.mutable_data_ptr()),
      static_cast<Acc*>(volume), static_cast<int64_t*>(counts.mutable_data_ptr())};
  a.few_nodes = Nodes<Acc>::serve(a.along) && (!r.full || Nodes<Acc>::serve(a.full_along));
  parallel<Acc>(a.images * a.height, kRowGrain, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    aggregate_rows<Acc, isa>(a, begin, end);
  });
}

ScoreView patch_view(const Tensor& t) {
  check_numbers(t, "scores");
  STD_TORCH_CHECK(
      t.dim() == 5 && t.size(2) >= 1 && t.size(3) >= 1 && t.size(4) >= 1 && t.size(2) <= kMostClasses,
      "scores must be (B, P, K, h, w) of K, h, w >= 1 and at most 255 classes");
  return {t.const_data_ptr(), t.scalar_type(), 1, t.size(2), t.size(3), t.size(4), 0, t.stride(2), t.stride(3),
          t.stride(4)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> aggregate_patches(
    const Tensor& scores, const Tensor& offsets, const std::optional<Tensor>& full, int64_t height, int64_t width,
    int64_t patch_height, int64_t patch_width, bool probabilities, bool align_corners, int64_t bins,
    bool with_volume) {
  const ScoreView patch = patch_view(scores);
  const int64_t images = scores.size(0);
  STD_TORCH_CHECK(
      offsets.scalar_type() == ScalarType::Long && offsets.dim() == 3 && offsets.size(0) == images &&
          offsets.size(1) == scores.size(1) && offsets.size(2) == 2,
      "offsets must be int64 (B, P, 2)");
  STD_TORCH_CHECK(
      height >= 1 && width >= 1 && patch_height >= 1 && patch_width >= 1 && bins >= 0 &&
          bins <= kMostBins / patch.classes,
      "sizes must be at least 1, and bins at least 0 and at most 2^30 in all classes");
  ScoreView whole;
  if (full) {
    whole = score_view(*full);
    STD_TORCH_CHECK(
        whole.images == images && whole.classes == patch.classes, "full must have the images and classes of scores");
  }
  const ScalarType type = sum_type(patch.type);
  Tensor label = torch::stable::new_empty(scores, {images, height, width}, ScalarType::Byte);
  Tensor confidence = torch::stable::new_empty(scores, {images, height, width}, type);
  Tensor counts = torch::stable::new_zeros(scores, {patch.classes, bins}, ScalarType::Long);
  const std::vector<int64_t> shape = with_volume ? std::vector<int64_t>{images, patch.classes, height, width}
                                                 : std::vector<int64_t>{0};
  Tensor volume = torch::stable::new_empty(scores, shape, type);
  void* to = with_volume ? volume.mutable_data_ptr() : nullptr;
  const Request request{scores, offsets, &patch, full ? &whole : nullptr, height, width, patch_height, patch_width,
                        probabilities, align_corners, bins};
  with_sums(patch.type, [&]<class Acc>() { run<Acc>(request, label, confidence, counts, to); });
  return {label, confidence, counts, volume};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("aggregate_patches", TORCH_BOX(&fastuda::aggregate_patches)); }
