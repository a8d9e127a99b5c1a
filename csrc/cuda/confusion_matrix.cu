// Counts of (truth, prediction) pairs on a GPU: a block counts its pixels in shared memory (cell_counts.h), a thread
// four neighbours at a time. Two launches, of which the first clears the result; no scratch.
//
// Traffic: both labels once. Up to 156 classes are counted in shared memory, more of them in the result itself.
// Untuned, as no GPU was at hand: pixels of a thread, blocks of a multiprocessor.
#include "cuda/cell_counts.h"

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif

namespace fastuda::cuda {

constexpr int kPairThreads = 256;
constexpr int kPairRun = 4;  // pixels of a thread at a time
constexpr int kPairTile = kPairThreads * kPairRun;

struct Pairs {
  Labels truth, prediction;
  u32 pixels;
  bool truth_quads, prediction_quads;  // whether four neighbours can be read at once
  CellCounts counts;
};

template <class T>
__device__ __forceinline__ void quad_of(const Pointer<const T>& from, int classes, int (&k)[kPairRun]) {
  const Pack<T, kPairRun> labels = load_pack<kPairRun>(from);
#pragma unroll
  for (int i = 0; i < kPairRun; ++i) {
    const i64 label = labels.at[i];
    k[i] = label >= 0 && label < classes ? static_cast<int>(label) : -1;
  }
}

// The classes of four pixels, -1 where out of range.
__device__ __forceinline__ void read_run(const Labels& labels, bool quads, u32 pixel, u32 pixels, int (&k)[kPairRun]) {
  if (quads && pixel + kPairRun <= pixels) {
    if (labels.size == 1) quad_of(labels.bytes + pixel, labels.classes, k);
    else if (labels.size == 4) quad_of(labels.ints + pixel, labels.classes, k);
    else quad_of(labels.longs + pixel, labels.classes, k);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPairRun; ++i) k[i] = pixel + i < pixels ? read_class(labels, pixel + i) : -1;
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) confusion_count(Pairs p) {
  p.counts.begin();
  for (u32 first = blockIdx.x * kPairTile; first < p.pixels; first += gridDim.x * kPairTile) {
    const u32 pixel = first + threadIdx.x * kPairRun;
    int truth[kPairRun], prediction[kPairRun];
    read_run(p.truth, p.truth_quads, pixel, p.pixels, truth);
    read_run(p.prediction, p.prediction_quads, pixel, p.pixels, prediction);
#pragma unroll
    for (int i = 0; i < kPairRun; ++i) {
      const bool counts = truth[i] >= 0 && prediction[i] >= 0;
      p.counts.add(counts ? truth[i] * p.truth.classes + prediction[i] : -1);
    }
  }
  p.counts.end();
}

template __global__ void confusion_count<kPairThreads>(Pairs);
template __global__ void clear_cells<kClearThreads>(Pointer<u64>, int);

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr int kPairBlocks = 4;  // a multiprocessor

struct PairsProblem {
  PixelBuffer truth, prediction;
  int truth_bytes, prediction_bytes;
  u32 pixels;
  int classes;
};

// Pixels at equal distances are one row.
inline PixelBuffer one_row(const PixelBuffer& at, u32 pixels) {
  const PixelGrid& g = at.grid;
  const i64 row = g.width * g.column_stride;
  const bool even = (g.height == 1 || g.row_stride == row) &&
      (static_cast<i64>(g.height) * g.width >= pixels || g.image_stride == static_cast<i64>(g.height) * row);
  return even ? PixelBuffer{at.buffer, {1, pixels, 0, 0, g.column_stride}} : at;
}

inline bool pair_quads(const PixelBuffer& at, u32 pixels, int bytes) {
  return at.grid.width == pixels && at.grid.column_stride == 1 &&
      reinterpret_cast<unsigned long long>(at.buffer.data) % static_cast<u32>(kPairRun * bytes) == 0;
}

inline void run_confusion_matrix(const PairsProblem& p, const Card& card, Buffer result, Stream stream) {
  const CellCounts counts = make_counts(result, p.classes * p.classes, 0, card.shared_limit);
  clear_counts(counts, card, stream);
  if (p.pixels == 0) return;
  const PixelBuffer truth = one_row(p.truth, p.pixels), prediction = one_row(p.prediction, p.pixels);
  const Pairs pairs{
      make_labels(truth, p.truth_bytes, p.classes, -1), make_labels(prediction, p.prediction_bytes, p.classes, -1),
      p.pixels, pair_quads(truth, p.pixels, p.truth_bytes), pair_quads(prediction, p.pixels, p.prediction_bytes),
      counts};
  const dim3 blocks = count_blocks(ceil_div<i64>(p.pixels, kPairTile), kPairTile, kPairBlocks, card);
  const int bytes = counts.in_shared ? static_cast<int>(cell_bytes(counts.cells)) : 0;
  launch(confusion_count<kPairThreads>, blocks, dim3(kPairThreads), bytes, stream, pairs);
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

Tensor confusion_matrix_cuda(const Tensor& prediction, const Tensor& truth, int64_t num_classes) {
  const auto fits = [](const Tensor& t) { return t.dim() == 1 || t.dim() == 3; };
  STD_TORCH_CHECK(
      fits(prediction) && fits(truth) && prediction.numel() == truth.numel() && prediction.dim() == truth.dim(),
      "prediction and truth must be (N, H, W) or (P,) of one shape");
  STD_TORCH_CHECK(num_classes >= 1 && num_classes < 1 << 15, "num_classes must be between 1 and 32767");
  const Device device(truth);
  Tensor result = torch::stable::new_empty(truth, {num_classes, num_classes}, ScalarType::Long);
  const PairsProblem problem{
      pixel_buffer(truth, false), pixel_buffer(prediction, false), label_bytes(truth), label_bytes(prediction),
      static_cast<u32>(small(truth.numel())), small(num_classes)};
  run_confusion_matrix(problem, device.card(), buffer(result), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("confusion_matrix_cuda", TORCH_BOX(&fastuda::cuda::confusion_matrix_cuda));
}
#endif
