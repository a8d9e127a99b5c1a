// Rectified pseudo labels on a GPU: arg max of score / T + log of soft label in one sweep over the classes, both
// tensors upsampled on the way; a thread has a strip of four pixels of a column (dense_strip.h). The denominator of the
// softmax is the same for all classes and is not needed. One launch, no scratch, the same bits on all cards.
//
// Traffic: the labels once; scores and soft labels from the caches. Untuned, as no GPU was at hand.
#include "cuda/dense_strip.h"

namespace fastuda::cuda {

template <class T>
struct Rectify {
  Upsampling<Scores<T>> u;
  Upsampling<AnyScores<Accumulate<T>>> soft;
  StripGrid grid;
  Accumulate<T> scale;  // 1 / T
  Pointer<u8> label;
};

template <class T>
__global__ void __launch_bounds__(kStripThreads, kStripBlocks) rectify_strips(Rectify<T> p) {
  using Acc = Accumulate<T>;
  int image, row, column;
  if (!p.grid.find(blockIdx.x * kStripThreads + threadIdx.x, kStripRows, image, row, column)) return;
  Strip<Scores<T>, kStripRows> strip;
  Strip<AnyScores<Acc>, kStripRows> soft;
  strip.set(p.u, image * p.u.scores.image_stride, row, column);
  soft.set(p.soft, image * p.soft.scores.image_stride, row, column);
  Acc best[kStripRows];
  int label[kStripRows];
#pragma unroll 1
  for (int k = 0; k < p.u.scores.classes; ++k) {
    Acc key[kStripRows];
    strip.each(p.u.scores, k, [&](int r, Acc x) { key[r] = x * p.scale; });
    soft.each(p.soft.scores, k, [&](int r, Acc x) {
      const Acc sum = key[r] + logarithm(x < 0 ? Acc(0) : x);
      if (k > 0 && !is_larger(sum, best[r])) return;
      best[r] = sum;
      label[r] = k;
    });
  }
  const Acc nothing = logarithm(Acc(0));
  const int rows = static_cast<int>(p.grid.height) - row;
  i64 at = (static_cast<i64>(image) * p.grid.height + row) * p.grid.width + column;
#pragma unroll
  for (int r = 0; r < kStripRows; ++r, at += p.grid.width) {
    if (r >= rows) break;
    p.label[at] = static_cast<u8>(best[r] > nothing ? label[r] : 255);
  }
}

#define FASTUDA_RECTIFY(T) template __global__ void rectify_strips<T>(Rectify<T>);
FASTUDA_RECTIFY(float)
FASTUDA_RECTIFY(Half)
FASTUDA_RECTIFY(BFloat16)
FASTUDA_RECTIFY(double)

#if !defined(FASTUDA_KERNELS_ONLY)

struct RectifyProblem {
  ScoreBuffer scores, soft;
  Axis down, along, soft_down, soft_along;
  double temperature;
};

inline void run_prototype_rectify(const RectifyProblem& p, Buffer label, Stream stream) {
  const StripGrid grid = strip_grid(p.scores.images, p.down.size, p.along.size, kStripRows);
  const i64 threads = strip_threads(grid);
  if (threads == 0) return;
  with_type(p.scores.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const Rectify<T> rectify{
        {make_scores<T>(p.scores), p.down, p.along}, {make_any_scores<Acc>(p.soft), p.soft_down, p.soft_along}, grid,
        static_cast<Acc>(1 / p.temperature), global<u8>(label)};
    const dim3 blocks(static_cast<u32>(ceil_div<i64>(threads, kStripThreads)));
    launch(rectify_strips<T>, blocks, dim3(kStripThreads), 0, stream, rectify);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

Tensor prototype_rectify_cuda(
    const Tensor& scores, const Tensor& soft, int64_t height, int64_t width, double temperature, bool align_corners) {
  const Device device(scores);
  const ScoreBuffer view = score_buffer(scores, "scores"), shares = score_buffer(soft, "soft");
  STD_TORCH_CHECK(view.classes <= 255, "scores must have at most 255 classes");
  STD_TORCH_CHECK(
      soft.is_cuda() && shares.images == view.images && shares.classes == view.classes,
      "soft must have the images and classes of scores");
  STD_TORCH_CHECK(height >= 1 && width >= 1 && temperature > 0, "height, width and temperature must be positive");
  small(view.images * height * width);
  Tensor label = torch::stable::new_empty(scores, {view.images, height, width}, ScalarType::Byte);
  const auto axis = [&](int64_t size, int source) { return upsample_axis(size, source, align_corners); };
  const RectifyProblem problem{
      view, shares, axis(height, view.height), axis(width, view.width), axis(height, shares.height),
      axis(width, shares.width), temperature};
  run_prototype_rectify(problem, buffer(label), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return label;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("prototype_rectify_cuda", TORCH_BOX(&fastuda::cuda::prototype_rectify_cuda));
}
#endif
