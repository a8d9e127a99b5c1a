// Rectified pseudo labels on the CPU: arg max of score / T + log of soft label, both upsampled on the way.
//
// One sweep over the classes keeps the best of them. The denominator of the softmax is the same for all classes and is
// not needed.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/dense_labels.h"
#include "cpu/parallel.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Acc>
struct Rectifying {
  ScoreView scores, soft;
  Taps<Acc> down, along, soft_down, soft_along;
  bool few_nodes;  // whether Nodes serve both along
  Acc scale;       // 1 / T
  uint8_t* label;
};

// log(x) of any positive number, subnormal ones too; -infinity for 0 and below, NaN for NaN.
FASTUDA_INLINE Vec<float> log_of(const Vec<float>& x) {
  Ints exponent;
  Vec<float> part;
  split_log(x * 0x1p64f, exponent, part);
  const Vec<float> whole = __builtin_convertvector(exponent - 64, Vec<float>);
  const Vec<float> log = whole * 0.693359375f + (part - whole * 2.12194440e-4f);
  return x > 0 ? log : x - INFINITY;
}

FASTUDA_INLINE Vec<double> log_of(const Vec<double>& x) {
  Vec<double> out;
  for (int i = 0; i < kLanes<double>; ++i) out[i] = x[i] > 0 ? std::log(x[i]) : x[i] - INFINITY;
  return out;
}

// Of [class][pitch] rows of both.
template <class Acc, class Along>
FASTUDA_INLINE void rectify_row(
    const Rectifying<Acc>& p, const Acc* scores, int64_t pitch, const Acc* soft, int64_t soft_pitch, uint8_t* to) {
  using Mask = typename VecOf<Acc>::mask;
  const int64_t width = p.along.size;
  for (int64_t x = 0; x < width; x += kLanes<Acc>) {
    Along along, soft_along;
    along.set(p.along, x);
    soft_along.set(p.soft_along, x);
    Vec<Acc> most = Vec<Acc>{} - static_cast<Acc>(INFINITY), score, share;
    Mask label = Mask{} + kIgnored, bad = Mask{};
    for (int64_t k = 0; k < p.scores.classes; ++k) {
      along(scores + k * pitch, score);
      soft_along(soft + k * soft_pitch, share);
      const Vec<Acc> key = score * p.scale + log_of(share);
      bad |= key != key;
      Best<Acc>::take(key, k, most, label);
    }
    store_labels(bad ? Mask{} + kIgnored : label, to + x, width - x);
  }
}

// Output rows [begin, end) of all images.
template <class Acc, Isa isa>
FASTUDA_INLINE void rectify_rows(const Rectifying<Acc>& p, int64_t begin, int64_t end) {
  DenseRows<Acc> scores(p.scores, p.down), soft(p.soft, p.soft_down);
  for (int64_t i = begin; i < end; ++i) {
    const Acc* score_row = scores.template at<isa>(i / p.down.size, i % p.down.size);
    const Acc* soft_row = soft.template at<isa>(i / p.down.size, i % p.down.size);
    uint8_t* to = p.label + i * p.along.size;
    if (p.few_nodes && scores.finite() && soft.finite())
      rectify_row<Acc, Nodes<Acc>>(p, score_row, scores.pitch(), soft_row, soft.pitch(), to);
    else rectify_row<Acc, AnyNodes<Acc, isa>>(p, score_row, scores.pitch(), soft_row, soft.pitch(), to);
  }
}

template <class Acc>
void run(
    const ScoreView& scores, const ScoreView& soft, int64_t height, int64_t width, double temperature, bool align,
    uint8_t* label) {
  Rectifying<Acc> p{scores, soft, {height, scores.height, align}, {width, scores.width, align},
                    {height, soft.height, align}, {width, soft.width, align}, false,
                    static_cast<Acc>(1 / temperature), label};
  p.few_nodes = Nodes<Acc>::serve(p.along) && Nodes<Acc>::serve(p.soft_along);
  parallel<Acc>(scores.images * height, kRowGrain, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    rectify_rows<Acc, isa>(p, begin, end);
  });
}

Tensor prototype_rectify(
    const Tensor& scores, const Tensor& soft, int64_t height, int64_t width, double temperature, bool align_corners) {
  const ScoreView view = score_view(scores), shares = score_view(soft);
  STD_TORCH_CHECK(view.classes <= kMostClasses, "scores must have at most 255 classes");
  STD_TORCH_CHECK(
      shares.images == view.images && shares.classes == view.classes,
      "soft must have the images and classes of scores");
  STD_TORCH_CHECK(height >= 1 && width >= 1 && temperature > 0, "height, width and temperature must be positive");
  Tensor label = torch::stable::new_empty(scores, {view.images, height, width}, ScalarType::Byte);
  with_sums(view.type, [&]<class Acc>() {
    run<Acc>(
        view, shares, height, width, temperature, align_corners, static_cast<uint8_t*>(label.mutable_data_ptr()));
  });
  return label;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("prototype_rectify", TORCH_BOX(&fastuda::prototype_rectify));
}
