// Means or sums of one or two losses over the pixels that count, and their number, on a GPU.
//
// Two launches: a block adds up a stretch of pixels, a thread every kMeanThreads-th of them; one block adds the
// stretches. Sums are float64, in an order that depends on the number of pixels alone: the same bits on every card.
//
// Traffic: losses and labels once. Scratch: 24 bytes a block, at most 6 KB. Untuned, as no GPU was at hand: blocks.
#include "cuda/kernel.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

constexpr int kMeanThreads = 256;

// What the pixels of a thread, a block or all add up to.
struct LossSums {
  double first, second;
  i64 count;

  __device__ __forceinline__ void add(const LossSums& other) {
    first += other.first;
    second += other.second;
    count += other.count;
  }
};

template <class T>
struct LossPixels {
  Pointer<const T> first, second;  // second: null if there is one loss
  PixelGrid first_grid, second_grid;
  Labels labels;
  bool flat;  // the pixels of each follow one another at its column stride
  u32 pixels, block_pixels;
  Pointer<LossSums> sums;  // (blocks)

  __device__ __forceinline__ i64 at(const PixelGrid& grid, u32 pixel) const {
    return flat ? static_cast<i64>(pixel) * grid.column_stride : locate(grid, pixel);
  }
};

// The sums of all threads, in a fixed tree, for thread 0.
__device__ __forceinline__ LossSums sum_over_threads(const LossSums& own) {
  const Pointer<LossSums> sums = shared<LossSums>(0);
  sums[threadIdx.x] = own;
  __syncthreads();
  for (u32 step = kMeanThreads / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) {
      LossSums total = sums[threadIdx.x];
      total.add(sums[threadIdx.x + step]);
      sums[threadIdx.x] = total;
    }
    __syncthreads();
  }
  return sums[0];
}

template <class T>
__global__ void __launch_bounds__(kMeanThreads) mean_sums(LossPixels<T> p) {
  const u32 begin = blockIdx.x * p.block_pixels;
  const u32 end = p.pixels - begin < p.block_pixels ? p.pixels : begin + p.block_pixels;
  LossSums own{0, 0, 0};
#pragma unroll 4
  for (u32 pixel = begin + threadIdx.x; pixel < end; pixel += kMeanThreads) {
    // What an ignored pixel holds, be it NaN, reaches no sum.
    if (class_at(p.labels, p.at(p.labels.grid, pixel)) < 0) continue;
    const double second = p.second ? static_cast<double>(p.second[p.at(p.second_grid, pixel)]) : 0.0;
    own.add({static_cast<double>(p.first[p.at(p.first_grid, pixel)]), second, 1});
  }
  const LossSums total = sum_over_threads(own);
  if (threadIdx.x == 0) p.sums[blockIdx.x] = total;
}

template <class T>
struct LossResults {
  Pointer<const LossSums> sums;  // (blocks)
  int blocks;
  bool mean;
  Pointer<T> first, second;  // second: null if there is one loss
  Pointer<i64> divisor;
};

template <class T>
__global__ void __launch_bounds__(kMeanThreads) mean_results(LossResults<T> r) {
  const int t = threadIdx.x;
  const LossSums total = sum_over_threads(t < r.blocks ? LossSums(r.sums[t]) : LossSums{0, 0, 0});
  if (t != 0) return;
  const i64 divisor = r.mean && total.count < 1 ? 1 : total.count;
  const double by = r.mean ? static_cast<double>(divisor) : 1.0;
  *r.divisor = divisor;
  *r.first = static_cast<T>(total.first / by);
  if (r.second) *r.second = static_cast<T>(total.second / by);
}

#define FASTUDA_PIXEL_MEAN(T)                              \
  template __global__ void mean_sums<T>(LossPixels<T>);    \
  template __global__ void mean_results<T>(LossResults<T>);
FASTUDA_PIXEL_MEAN(float)
FASTUDA_PIXEL_MEAN(double)

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr int kMeanStretch = 2048;             // pixels that are worth a block
constexpr int kMostMeanBlocks = kMeanThreads;  // a thread of the second launch adds one block's sums

struct MeanProblem {
  bool wide;  // losses in double
  PixelBuffer first, second, labels;  // second: without data if there is one loss
  int label_bytes, classes;
  i64 ignore_index;
  u32 pixels;
  bool mean;

  u32 blocks() const { return std::clamp<u32>(ceil_div<u32>(pixels, kMeanStretch), 1, kMostMeanBlocks); }
  i64 scratch() const { return static_cast<i64>(blocks()) * static_cast<i64>(sizeof(LossSums)); }
  bool flat(const PixelGrid& g) const {
    const i64 row = g.width * g.column_stride;
    return (g.height == 1 || g.row_stride == row) &&
        (static_cast<i64>(g.height) * g.width >= pixels || g.image_stride == static_cast<i64>(g.height) * row);
  }
};

struct MeanResults {
  Buffer first, second, divisor;
};

template <class T>
void run_pixel_mean(const MeanProblem& p, const Buffer& scratch, const MeanResults& to, Stream stream) {
  const int bytes = kMeanThreads * static_cast<int>(sizeof(LossSums));
  const bool flat = p.flat(p.first.grid) && p.flat(p.labels.grid) && (!p.second.buffer.data || p.flat(p.second.grid));
  const LossPixels<T> pixels{
      global<const T>(p.first.buffer), global<const T>(p.second.buffer), p.first.grid, p.second.grid,
      make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index), flat, p.pixels,
      ceil_div<u32>(p.pixels, p.blocks()), global<LossSums>(scratch)};
  launch(mean_sums<T>, dim3(p.blocks()), dim3(kMeanThreads), bytes, stream, pixels);
  const LossResults<T> results{
      global<const LossSums>(scratch), static_cast<int>(p.blocks()), p.mean, global<T>(to.first),
      global<T>(to.second), global<i64>(to.divisor)};
  launch(mean_results<T>, dim3(1), dim3(kMeanThreads), bytes, stream, results);
}

inline void run_pixel_mean(const MeanProblem& p, const Buffer& scratch, const MeanResults& to, Stream stream) {
  if (p.wide) run_pixel_mean<double>(p, scratch, to, stream);
  else run_pixel_mean<float>(p, scratch, to, stream);
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor, Tensor> pixel_mean_cuda(
    const Tensor& losses, std::optional<Tensor> others, const Tensor& labels, int64_t num_classes,
    int64_t ignore_index, bool mean) {
  const ScalarType type = losses.scalar_type();
  is_double(losses, "losses");
  for (const Tensor& t : {losses, others ? *others : losses})
    STD_TORCH_CHECK(
        t.scalar_type() == type && (t.dim() == 1 || t.dim() == 3) && t.dim() == labels.dim() &&
            t.numel() == labels.numel(),
        "losses and labels must be (N, H, W) or (P,) of one shape, and both losses of one dtype");
  const Device device(losses);
  const MeanProblem p{
      type == ScalarType::Double, pixel_buffer(losses, false), others ? pixel_buffer(*others, false) : PixelBuffer{},
      pixel_buffer(labels, false), label_bytes(labels), small(num_classes), ignore_index,
      static_cast<u32>(small(labels.numel())), mean};
  Tensor scratch = torch::stable::new_empty(losses, {p.scratch()}, ScalarType::Byte);
  const auto scalar = [&](ScalarType of) { return torch::stable::new_empty(losses, {}, of); };
  Tensor value = scalar(type), divisor = scalar(ScalarType::Long);
  Tensor other = others ? scalar(type) : torch::stable::new_empty(losses, {0}, type);
  const MeanResults to{buffer(value), others ? buffer(other) : Buffer{}, buffer(divisor)};
  run_pixel_mean(p, buffer(scratch), to, device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {value, other, divisor};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) { m.impl("pixel_mean_cuda", TORCH_BOX(&fastuda::cuda::pixel_mean_cuda)); }
#endif
