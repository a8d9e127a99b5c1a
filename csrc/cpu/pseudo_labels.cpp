// Pseudo labels on the CPU: rows of scores upsampled, softmax, arg max and threshold of sixteen pixels at a time.
//
// A thread takes rows of the label map. Two low-resolution rows become one by a lerp down the columns; a vector of
// pixels then reads it by lerps along the row, all classes one after another, and keeps its scores in the first cache.
#include <limits>
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

constexpr double kLeastThreshold = 1e-30;

template <class Acc>
struct Labelling {
  ScoreView scores;
  Taps<Acc> down, along;
  bool few_nodes;  // whether Nodes serve `along`
  std::vector<Acc> least, factor;
  bool probabilities, balanced;
  uint8_t* label;
  Acc* confidence;  // or null
};

template <class Acc, class Along>
FASTUDA_INLINE void label_row(const Labelling<Acc>& p, const Acc* row, int64_t pitch, int64_t at, Acc* stage) {
  constexpr int lanes = kLanes<Acc>;
  const int64_t width = p.along.size;
  const Acc *least = p.least.data(), *factor = p.balanced ? p.factor.data() : nullptr;
  for (int64_t x = 0; x < width; x += lanes) {
    Along along;
    along.set(p.along, x);
    const Best<Acc> best =
        best_of<Acc>(row, pitch, p.scores.classes, along, p.probabilities, factor, stage);
    Vec<Acc> limit;
    for (int i = 0; i < lanes; ++i) limit[i] = least[best.label[i]];
    const auto label = best.confidence >= limit ? best.label : decltype(best.label){} + kIgnored;
    store_labels(label, p.label + at + x, width - x);
    if (p.confidence) store_some<Acc>(best.confidence, p.confidence + at + x, width - x);
  }
}

// Output rows [begin, end) of all images.
template <class Acc, Isa isa>
FASTUDA_INLINE void label_rows(const Labelling<Acc>& p, int64_t begin, int64_t end) {
  DenseRows<Acc> rows(p.scores, p.down);
  Buffer<Acc> stage(p.scores.classes * kLanes<Acc>);
  for (int64_t i = begin; i < end; ++i) {
    const Acc* row = rows.template at<isa>(i / p.down.size, i % p.down.size);
    const int64_t at = i * p.along.size;
    if (p.few_nodes && rows.finite())
      label_row<Acc, Nodes<Acc>>(p, row, rows.pitch(), at, stage.data());
    else label_row<Acc, AnyNodes<Acc, isa>>(p, row, rows.pitch(), at, stage.data());
  }
}

struct Options {
  int64_t height, width;
  bool probabilities, balanced, align_corners;
};

template <class Acc>
void run(const ScoreView& scores, const Tensor& threshold, const Options& o, uint8_t* label, void* confidence) {
  Labelling<Acc> p{scores, {o.height, scores.height, o.align_corners}, {o.width, scores.width, o.align_corners},
                   false, {}, {}, o.probabilities, o.balanced, label, static_cast<Acc*>(confidence)};
  p.few_nodes = Nodes<Acc>::serve(p.along);
  const bool wide = is_double(threshold, "threshold");
  for (int64_t k = 0; k < scores.classes; ++k) {
    const int64_t at = k * threshold.stride(0);
    const Acc given = wide ? static_cast<Acc>(static_cast<const double*>(threshold.const_data_ptr())[at])
                           : static_cast<Acc>(static_cast<const float*>(threshold.const_data_ptr())[at]);
    const bool none = o.balanced && !(given > static_cast<Acc>(kLeastThreshold));
    p.least.push_back(none ? std::numeric_limits<Acc>::infinity() : given);
    p.factor.push_back(1 / p.least.back());
  }
  parallel<Acc>(scores.images * o.height, kRowGrain, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    label_rows<Acc, isa>(p, begin, end);
  });
}

std::tuple<Tensor, Tensor> pseudo_labels(
    const Tensor& scores, const Tensor& threshold, int64_t height, int64_t width, bool probabilities, bool balanced,
    bool align_corners, bool with_confidence) {
  const ScoreView view = score_view(scores);
  STD_TORCH_CHECK(view.classes <= kMostClasses, "scores must have at most 255 classes");
  STD_TORCH_CHECK(threshold.dim() == 1 && threshold.size(0) == view.classes, "threshold must be (K,)");
  STD_TORCH_CHECK(height >= 1 && width >= 1, "height and width must be at least 1");
  Tensor label = torch::stable::new_empty(scores, {view.images, height, width}, ScalarType::Byte);
  const std::vector<int64_t> shape = with_confidence ? std::vector<int64_t>{view.images, height, width}
                                                     : std::vector<int64_t>{0};
  Tensor confidence = torch::stable::new_empty(scores, shape, sum_type(view.type));
  void* to = with_confidence ? confidence.mutable_data_ptr() : nullptr;
  const Options options{height, width, probabilities, balanced, align_corners};
  with_sums(view.type, [&]<class Acc>() {
    run<Acc>(view, threshold, options, static_cast<uint8_t*>(label.mutable_data_ptr()), to);
  });
  return {label, confidence};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("pseudo_labels", TORCH_BOX(&fastuda::pseudo_labels)); }
