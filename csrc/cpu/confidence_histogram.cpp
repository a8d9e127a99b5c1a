// Histograms of the confidence of upsampled scores on the CPU: as pseudo_labels.cpp, but confidences are counted
// instead of labels written.
//
// A thread counts its rows of pixels in a table of its own, which it then adds to the result. Sums of integers are the
// same in any order.
#include <cstring>

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
struct Counting {
  ScoreView scores;
  Taps<Acc> down, along;
  bool few_nodes;  // whether Nodes serve `along`
  int64_t bins;
  bool probabilities;
  int64_t* counts;
};

template <class Acc, class Along>
FASTUDA_INLINE void count_row(const Counting<Acc>& p, const Acc* row, int64_t pitch, Acc* stage, BinCounts& counts) {
  const int64_t width = p.along.size;
  for (int64_t x = 0; x < width; x += kLanes<Acc>) {
    Along along;
    along.set(p.along, x);
    const Best<Acc> best =
        best_of<Acc>(row, pitch, p.scores.classes, along, p.probabilities, nullptr, stage);
    counts.take<Acc>(best, ~typename VecOf<Acc>::mask{}, width - x);
  }
}

// Output rows [begin, end) of all images.
template <class Acc, Isa isa>
FASTUDA_INLINE void count_rows(const Counting<Acc>& p, int64_t begin, int64_t end) {
  DenseRows<Acc> rows(p.scores, p.down);
  Buffer<Acc> stage(p.scores.classes * kLanes<Acc>);
  BinCounts counts(p.scores.classes, p.bins);
  for (int64_t i = begin; i < end; ++i) {
    const Acc* row = rows.template at<isa>(i / p.down.size, i % p.down.size);
    if (p.few_nodes && rows.finite())
      count_row<Acc, Nodes<Acc>>(p, row, rows.pitch(), stage.data(), counts);
    else count_row<Acc, AnyNodes<Acc, isa>>(p, row, rows.pitch(), stage.data(), counts);
  }
  counts.add(p.counts);
}

template <class Acc>
void run(const ScoreView& s, int64_t height, int64_t width, int64_t bins, bool probabilities, bool align, int64_t* to) {
  Counting<Acc> p{s, {height, s.height, align}, {width, s.width, align}, false, bins, probabilities, to};
  p.few_nodes = Nodes<Acc>::serve(p.along);
  parallel<Acc>(s.images * height, kRowGrain, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    count_rows<Acc, isa>(p, begin, end);
  });
}

Tensor confidence_histogram(
    const Tensor& scores, int64_t height, int64_t width, int64_t bins, bool probabilities, bool align_corners) {
  const ScoreView view = score_view(scores);
  STD_TORCH_CHECK(height >= 1 && width >= 1, "height and width must be at least 1");
  STD_TORCH_CHECK(bins >= 1 && bins <= kMostBins / view.classes, "bins must be 1 or more, at most 2^30 in all classes");
  Tensor counts = torch::stable::new_zeros(scores, {view.classes, bins}, ScalarType::Long);
  with_sums(view.type, [&]<class Acc>() {
    run<Acc>(view, height, width, bins, probabilities, align_corners, static_cast<int64_t*>(counts.mutable_data_ptr()));
  });
  return counts;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("confidence_histogram", TORCH_BOX(&fastuda::confidence_histogram));
}
