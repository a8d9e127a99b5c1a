// Diagonal class moments on a GPU: one read of the features, the same bits in every run on a card (the only atomic is a
// minimum of integers).
//
// A warp owns 32 V fixed channels (V = 4 where addresses allow it) and walks over a run of pixels, 32 at a time: each
// lane fetches one label and one address, shuffles hand them round. The label is thus uniform over the warp and "the
// label changed" never diverges. Sum and sum of squares of x - pivot stay in registers while the label stays; then, and
// at least every 32 pixels, they are added to the warp's own table of classes in shared memory. The pivot of a class is
// its first pixel in the block's chunk, so nothing large cancels and a class of one pixel is exact. Where the tables do
// not fit (many classes) they lie in global memory. NCHW: the warp stages 32 channels x 32 pixels in shared memory,
// read along pixels, so that one loop serves all layouts. The warps of a block, then the blocks, are added in a fixed
// order, brought to one pivot: with d the difference of pivots, sum + n d and squares + 2 d sum + n d^2.
//
// Traffic: the features once, the labels twice; partial sums of at most 5 % of fp32 features, written and read once.
// Untuned, as no GPU was at hand: V, pixels in flight (kAhead), warps and blocks per multiprocessor.
#include "cuda/class_moments_problem.h"
#include "cuda/class_moments_walk.h"

namespace fastuda::cuda {

constexpr int kMergeLanes = 8;  // threads that share the chunks of one class and channel

// Sums of x - pivot of n pixels.
template <class Acc>
struct Sums {
  Acc n = 0, pivot = 0, sum = 0, square = 0;

  __device__ __forceinline__ void add(Acc other_n, Acc other_pivot, Acc other_sum, Acc other_square) {
    if (n == 0) pivot = other_pivot;
    const Acc d = other_pivot - pivot;
    n += other_n;
    sum += other_sum + other_n * d;
    square += other_square + d * (2 * other_sum + other_n * d);
  }
};

template <class Acc>
struct Merge {
  Pointer<const Acc> partials;
  Pointer<const int> counts;
  int channels, classes, chunks, slice_channels, blocks;  // blocks: of 32 channels
  Pointer<i64> count;
  Pointer<Acc> mean, m2;
};

// One class and 32 channels a block; thread (x, y) adds every 8th chunk in order, then the 8 are added in a tree.
template <class Acc>
__global__ void __launch_bounds__(kWarp* kMergeLanes) moments_merge(Merge<Acc> m) {
  const int x = threadIdx.x, y = threadIdx.y, k = blockIdx.x / m.blocks, channel = blockIdx.x % m.blocks * kWarp + x;
  const bool live = channel < m.channels;
  const i64 slice = live ? channel / m.slice_channels : 0;
  Sums<Acc> mine;
  i64 count = 0;
  for (int chunk = y; chunk < m.chunks; chunk += kMergeLanes) {
    const int n = m.counts[(slice * m.chunks + chunk) * m.classes + k];
    const i64 at = (static_cast<i64>(chunk) * m.classes + k) * 3 * m.channels + channel;
    if (n && live)
      mine.add(static_cast<Acc>(n), m.partials[at], m.partials[at + m.channels], m.partials[at + 2 * m.channels]);
    count += n;
  }
  constexpr int threads = kWarp * kMergeLanes;
  const Pointer<Acc> all = shared<Acc>(0);
  const Pointer<i64> all_counts = shared<i64>(4 * threads * static_cast<int>(sizeof(Acc)));
  const int at = y * kWarp + x;
  for (int step = kMergeLanes; step > 1; step /= 2) {  // y in [step/2, step) hands over to y - step/2
    if (y >= step / 2 && y < step) {
      all[at] = mine.n;
      all[threads + at] = mine.pivot;
      all[2 * threads + at] = mine.sum;
      all[3 * threads + at] = mine.square;
      all_counts[at] = count;
    }
    __syncthreads();
    if (y < step / 2) {
      const int other = at + step / 2 * kWarp;
      if (all[other] != 0)
        mine.add(all[other], all[threads + other], all[2 * threads + other], all[3 * threads + other]);
      count += all_counts[other];
    }
  }
  if (y != 0) return;
  if (live) {
    const Acc shift = mine.n == 0 ? Acc(0) : mine.sum / mine.n, m2 = mine.square - mine.sum * shift;
    m.mean[static_cast<i64>(k) * m.channels + channel] = mine.pivot + shift;
    m.m2[static_cast<i64>(k) * m.channels + channel] = m2 < 0 ? Acc(0) : m2;
  }
  if (blockIdx.x % m.blocks == 0 && x == 0) m.count[k] = count;
}

// double is there for completeness and tests: narrow.
template <class T>
constexpr int kWide = sizeof(T) == 8 ? 1 : 4;

#define FASTUDA_MOMENTS(T)                                         \
  template __global__ void moments_walk<T, 1, false>(Walk<T>);     \
  template __global__ void moments_walk<T, 1, true>(Walk<T>);
FASTUDA_MOMENTS(float)
FASTUDA_MOMENTS(Half)
FASTUDA_MOMENTS(BFloat16)
FASTUDA_MOMENTS(double)
template __global__ void moments_walk<float, 4, false>(Walk<float>);
template __global__ void moments_walk<Half, 4, false>(Walk<Half>);
template __global__ void moments_walk<BFloat16, 4, false>(Walk<BFloat16>);
template __global__ void moments_merge<float>(Merge<float>);
template __global__ void moments_merge<double>(Merge<double>);

#if !defined(FASTUDA_KERNELS_ONLY)

// How a problem is cut on a card. The partial sums need partials and counts elements of scratch.
struct MomentsPlan {
  int width;  // V
  bool staged, in_shared;
  int warps, shared_bytes, slices, chunks;
  u32 warp_pixels;
  i64 partials, counts;
};

template <class T, int V, bool kStaged>
MomentsPlan cut(const MomentsProblem& p, const Card& card) {
  MomentsPlan plan{V, kStaged};
  using Block = Tables<T, V, kStaged>;
  const i64 once = Block::block_bytes(p.classes), each = Block::warp_bytes(p.classes);
  plan.in_shared = once + each <= card.shared_limit;
  plan.warps = plan.in_shared ? static_cast<int>(std::min<i64>((card.shared_limit - once) / each, kMostWarps)) : 1;
  plan.shared_bytes = plan.in_shared ? static_cast<int>(once + plan.warps * each) : Block::tile;
  plan.slices = std::max(1, ceil_div(p.channels, kWarp * V));
  // A block per multiprocessor where one takes all of its shared memory, else two; few enough for the partial sums
  // to stay below 5 % of the features in float32.
  const i64 wanted = ceil_div(card.multiprocessors * (card.shared_limit > 64 * 1024 ? 1 : 2), plan.slices);
  const i64 most = std::max<i64>(1, p.pixels / (60 * static_cast<i64>(p.classes)));
  const i64 blocks = std::max<i64>(1, std::min(wanted, most));
  const i64 run = ceil_div<i64>(ceil_div<i64>(p.pixels, blocks), plan.warps);
  plan.warp_pixels = static_cast<u32>(std::max<i64>(1, ceil_div<i64>(run, kWarp)) * kWarp);
  plan.chunks = static_cast<int>(std::max<i64>(1, ceil_div<i64>(p.pixels, i64(plan.warp_pixels) * plan.warps)));
  plan.partials = static_cast<i64>(plan.chunks) * p.classes * 3 * p.channels;
  plan.counts = i64(2) * plan.slices * plan.chunks * p.classes;
  return plan;
}

template <class T>
MomentsPlan cut_rows(const MomentsProblem& p, const Card& card) {
  if (p.channel_stride != 1) return cut<T, 1, true>(p, card);
  const bool aligned = kWide<T> == 4 && in_quads<T>(p.features, p.channel_stride, p.channels);
  if (aligned) {
    const MomentsPlan plan = cut<T, kWide<T>, false>(p, card);
    if (plan.in_shared) return plan;
  }
  const MomentsPlan narrow = cut<T, 1, false>(p, card);
  return narrow.in_shared || !aligned ? narrow : cut<T, kWide<T>, false>(p, card);
}

inline MomentsPlan plan_moments(const MomentsProblem& p, const Card& card) {
  MomentsPlan plan;
  with_type(p.type, [&](auto value) { plan = cut_rows<decltype(value)>(p, card); });
  return plan;
}

inline void run_moments(
    const MomentsProblem& p, const MomentsPlan& plan, Buffer partials, Buffer counts, Buffer count, Buffer mean,
    Buffer m2, Stream stream) {
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const Labels labels = make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index);
    const Walk<T> walk{
        global<const T>(p.features.buffer), p.features.grid, p.channel_stride, labels, p.pixels, plan.warp_pixels,
        p.channels, plan.slices, plan.chunks, plan.in_shared, global<Acc>(partials), global<int>(counts)};
    const auto kernel = plan.staged ? moments_walk<T, 1, true>
        : plan.width == 4           ? moments_walk<T, kWide<T>, false>
                                    : moments_walk<T, 1, false>;
    launch(kernel, dim3(plan.slices * plan.chunks), dim3(plan.warps * kWarp), plan.shared_bytes, stream, walk);
    const int blocks = std::max(1, ceil_div(p.channels, kWarp));
    const Merge<Acc> merge{
        walk.partials, walk.counts, p.channels, p.classes, plan.chunks, kWarp * plan.width, blocks,
        global<i64>(count), global<Acc>(mean), global<Acc>(m2)};
    const int bytes = kWarp * kMergeLanes * static_cast<int>(4 * sizeof(Acc) + sizeof(i64));
    launch(moments_merge<Acc>, dim3(blocks * p.classes), dim3(kWarp, kMergeLanes), bytes, stream, merge);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor, Tensor> class_moments_cuda(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  const Device device(features);
  const MomentsProblem p = moments_problem(features, labels, num_classes, ignore_index);
  const MomentsPlan plan = plan_moments(p, device.card());
  Tensor partials = torch::stable::new_empty(features, {plan.partials}, statistic_type(p.type));
  Tensor counts = torch::stable::new_empty(features, {plan.counts}, ScalarType::Int);
  auto [count, mean, m2] = new_moments(p, features, false);
  run_moments(
      p, plan, buffer(partials), buffer(counts), buffer(count), buffer(mean), buffer(m2), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {count, mean, m2};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("class_moments_cuda", TORCH_BOX(&fastuda::cuda::class_moments_cuda));
}
#endif
