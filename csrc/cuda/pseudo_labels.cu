// Pseudo labels on a GPU: scores upsampled, softmax, arg max and threshold in one launch, a thread a strip of four
// pixels of a column (dense_strip.h). Logits are upsampled twice, for the largest and for the sum of the exponentials:
// that is cheaper than keeping them. The result has the same bits on every card.
//
// Traffic: the labels (and confidences) once; the scores from the caches, four reads a class and strip at four times
// their size and more, twice. No scratch. Untuned, as no GPU was at hand: rows of a strip, threads of a block.
#include "cuda/dense_strip.h"

namespace fastuda::cuda {

constexpr double kLeastThreshold = 1e-30;  // of `balanced`: a class with a smaller one gets no label
constexpr int kNoLabel = 255;

template <class T>
struct PseudoLabels {
  Upsampling<Scores<T>> u;
  StripGrid grid;
  BestRule rule;
  bool balanced;
  Pointer<const float> float_threshold;  // one of the two is used
  Pointer<const double> double_threshold;
  bool double_thresholds;
  i64 threshold_stride;
  Pointer<u8> label;
  Pointer<Accumulate<T>> confidence;
  bool with_confidence;

  __device__ __forceinline__ Accumulate<T> threshold(int k) const {
    const i64 at = k * threshold_stride;
    const double of_class = double_thresholds ? double_threshold[at] : static_cast<double>(float_threshold[at]);
    return static_cast<Accumulate<T>>(of_class);
  }
};

// Shared memory: threshold and factor of each class.
template <class T>
__global__ void __launch_bounds__(kStripThreads, kStripBlocks) pseudo_labels_strips(PseudoLabels<T> p) {
  using Acc = Accumulate<T>;
  const int classes = p.u.scores.classes;
  const Pointer<Acc> least = shared<Acc>(0), factor = least + classes;
  for (int k = threadIdx.x; k < classes; k += kStripThreads) {
    const Acc given = p.threshold(k);
    const bool none = p.balanced && !(given > static_cast<Acc>(kLeastThreshold));
    const Acc never = -logarithm(Acc(0));
    least[k] = none ? never : given;
    factor[k] = !p.balanced ? Acc(1) : none ? Acc(0) : 1 / given;
  }
  __syncthreads();
  int image, row, column;
  if (!p.grid.find(blockIdx.x * kStripThreads + threadIdx.x, kStripRows, image, row, column)) return;
  Strip<Scores<T>, kStripRows> strip;
  strip.set(p.u, image * p.u.scores.image_stride, row, column);
  StripBest<Acc, kStripRows> best;
  if (p.rule == BestRule::largest) best.largest(strip, p.u.scores);
  else if (p.rule == BestRule::balanced) best.balanced(strip, p.u.scores, factor);
  else best.probabilities(strip, p.u.scores, factor);
  const int rows = static_cast<int>(p.grid.height) - row;
  i64 at = (static_cast<i64>(image) * p.grid.height + row) * p.grid.width + column;
#pragma unroll
  for (int r = 0; r < kStripRows; ++r, at += p.grid.width) {
    if (r >= rows) break;
    const Acc confidence = best.confidence[r];
    p.label[at] = static_cast<u8>(confidence >= least[best.label[r]] ? best.label[r] : kNoLabel);
    if (p.with_confidence) p.confidence[at] = confidence;
  }
}

#define FASTUDA_PSEUDO_LABELS(T) template __global__ void pseudo_labels_strips<T>(PseudoLabels<T>);
FASTUDA_PSEUDO_LABELS(float)
FASTUDA_PSEUDO_LABELS(Half)
FASTUDA_PSEUDO_LABELS(BFloat16)
FASTUDA_PSEUDO_LABELS(double)

#if !defined(FASTUDA_KERNELS_ONLY)

struct PseudoLabelsProblem {
  ScoreBuffer scores;
  Axis down, along;
  bool probabilities, balanced;
  Buffer threshold;
  bool double_thresholds;
  i64 threshold_stride;
};

// confidence: without memory where it is not wanted.
inline void run_pseudo_labels(const PseudoLabelsProblem& p, Buffer label, Buffer confidence, Stream stream) {
  const StripGrid grid = strip_grid(p.scores.images, p.down.size, p.along.size, kStripRows);
  const i64 threads = strip_threads(grid);
  if (threads == 0) return;
  with_type(p.scores.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const BestRule of_logits = p.balanced ? BestRule::balanced : BestRule::largest;
    const BestRule rule = p.probabilities ? BestRule::probabilities : of_logits;
    const PseudoLabels<T> labels{
        {make_scores<T>(p.scores), p.down, p.along}, grid, rule, p.balanced, global<const float>(p.threshold),
        global<const double>(p.threshold), p.double_thresholds, p.threshold_stride, global<u8>(label),
        global<Acc>(confidence), confidence.bytes > 0};
    const dim3 blocks(static_cast<u32>(ceil_div<i64>(threads, kStripThreads)));
    const int bytes = 2 * p.scores.classes * static_cast<int>(sizeof(Acc));
    launch(pseudo_labels_strips<T>, blocks, dim3(kStripThreads), bytes, stream, labels);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor> pseudo_labels_cuda(
    const Tensor& scores, const Tensor& threshold, int64_t height, int64_t width, bool probabilities, bool balanced,
    bool align_corners, bool with_confidence) {
  const Device device(scores);
  const ScoreBuffer view = score_buffer(scores, "scores");
  const bool wide = is_double(threshold, "threshold");
  STD_TORCH_CHECK(view.classes <= kNoLabel, "scores must have at most 255 classes");
  STD_TORCH_CHECK(
      threshold.is_cuda() && threshold.dim() == 1 && threshold.size(0) == view.classes,
      "threshold must be (K,) in the card's memory");
  STD_TORCH_CHECK(height >= 1 && width >= 1, "height and width must be at least 1");
  small(view.images * height * width);
  Tensor label = torch::stable::new_empty(scores, {view.images, height, width}, ScalarType::Byte);
  Tensor confidence = with_confidence
      ? torch::stable::new_empty(scores, {view.images, height, width}, statistic_type(view.type))
      : torch::stable::new_empty(scores, {0}, statistic_type(view.type));
  const PseudoLabelsProblem problem{
      view, upsample_axis(height, view.height, align_corners), upsample_axis(width, view.width, align_corners),
      probabilities, balanced, buffer(threshold), wide, threshold.stride(0)};
  run_pseudo_labels(problem, buffer(label), buffer(confidence), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {label, confidence};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("pseudo_labels_cuda", TORCH_BOX(&fastuda::cuda::pseudo_labels_cuda));
}
#endif
