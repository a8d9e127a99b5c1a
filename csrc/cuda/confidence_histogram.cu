// Histograms of the confidence of upsampled scores on a GPU: the strips of pseudo labels (dense_strip.h), counted by
// block in shared memory (cell_counts.h) instead of written. Two launches, of which the first clears the result.
//
// Traffic: the scores from the caches, as of pseudo labels; 8 bytes of the result for each cell that a block counted.
// Up to 24576 cells of class and bin are counted in shared memory, more of them in the result itself. No scratch.
// Untuned, as no GPU was at hand: threads of a block, blocks of a multiprocessor.
#include "cuda/cell_counts.h"
#include "cuda/dense_strip.h"

namespace fastuda::cuda {

constexpr int kBinThreads = 512;  // many, since few blocks fit beside each other's counts

template <class T>
struct ConfidenceBins {
  Upsampling<Scores<T>> u;
  StripGrid grid;
  bool probabilities;
  int bins;
  CellCounts counts;
};

template <class T>
__global__ void __launch_bounds__(kBinThreads, 1) confidence_bins(ConfidenceBins<T> p) {
  using Acc = Accumulate<T>;
  p.counts.begin();
  const u32 threads = p.grid.images * p.grid.strips * p.grid.width;
  for (u32 first = blockIdx.x * kBinThreads; first < threads; first += gridDim.x * kBinThreads) {
    int image, row, column;
    const bool inside = p.grid.find(first + threadIdx.x, kStripRows, image, row, column);
    StripBest<Acc, kStripRows> best;
    if (inside) {
      Strip<Scores<T>, kStripRows> strip;
      strip.set(p.u, image * p.u.scores.image_stride, row, column);
      if (p.probabilities) best.probabilities(strip, p.u.scores, Ones<Acc>());
      else best.largest(strip, p.u.scores);
    }
#pragma unroll
    for (int r = 0; r < kStripRows; ++r) {
      const Acc x = inside ? best.confidence[r] : Acc(0);
      const bool counts = inside && row + r < static_cast<int>(p.grid.height) && x == x;
      p.counts.add(counts ? best.label[r] * p.bins + bin_of(x, p.bins) : -1);
    }
  }
  p.counts.end();
}

#define FASTUDA_CONFIDENCE_BINS(T) template __global__ void confidence_bins<T>(ConfidenceBins<T>);
FASTUDA_CONFIDENCE_BINS(float)
FASTUDA_CONFIDENCE_BINS(Half)
FASTUDA_CONFIDENCE_BINS(BFloat16)
FASTUDA_CONFIDENCE_BINS(double)
template __global__ void clear_cells<kClearThreads>(Pointer<u64>, int);

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr int kBinTile = kBinThreads * kStripRows;
constexpr int kBinBlocks = 2;  // a multiprocessor

struct ConfidenceProblem {
  ScoreBuffer scores;
  Axis down, along;
  bool probabilities;
  int bins;
};

inline void run_confidence_histogram(const ConfidenceProblem& p, const Card& card, Buffer result, Stream stream) {
  const CellCounts counts = make_counts(result, p.scores.classes * p.bins, 0, card.shared_limit);
  clear_counts(counts, card, stream);
  const StripGrid grid = strip_grid(p.scores.images, p.down.size, p.along.size, kStripRows);
  const i64 threads = strip_threads(grid);
  if (threads == 0) return;
  with_type(p.scores.type, [&](auto value) {
    using T = decltype(value);
    const ConfidenceBins<T> bins{
        {make_scores<T>(p.scores), p.down, p.along}, grid, p.probabilities, p.bins, counts};
    const dim3 blocks = count_blocks(ceil_div<i64>(threads, kBinThreads), kBinTile, kBinBlocks, card);
    const int bytes = counts.in_shared ? static_cast<int>(cell_bytes(counts.cells)) : 0;
    launch(confidence_bins<T>, blocks, dim3(kBinThreads), bytes, stream, bins);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

Tensor confidence_histogram_cuda(
    const Tensor& scores, int64_t height, int64_t width, int64_t bins, bool probabilities, bool align_corners) {
  const Device device(scores);
  const ScoreBuffer view = score_buffer(scores, "scores");
  STD_TORCH_CHECK(height >= 1 && width >= 1, "height and width must be at least 1");
  STD_TORCH_CHECK(
      bins >= 1 && bins <= (int64_t(1) << 30) / view.classes, "bins must be 1 or more, at most 2^30 in all classes");
  small(view.images * height * width);
  Tensor counts = torch::stable::new_empty(scores, {view.classes, bins}, ScalarType::Long);
  const ConfidenceProblem problem{
      view, upsample_axis(height, view.height, align_corners), upsample_axis(width, view.width, align_corners),
      probabilities, static_cast<int>(bins)};
  run_confidence_histogram(problem, device.card(), buffer(counts), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return counts;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("confidence_histogram_cuda", TORCH_BOX(&fastuda::cuda::confidence_histogram_cuda));
}
#endif
