// Full class moments on a GPU, in fp32 on the plain cores of any card (48 KB of shared memory are enough; tensor cores
// are Triton's). The same bits in every run on a card: no atomics.
//
// A counting sort lists the pixels of each class in order (sort_walk). Panels of a class's pixels, never of two, are
// gathered through that list, less a pivot (mean of the class's first pixels), and multiplied with themselves: a block
// of 256 threads makes one square of sums of one panel, on the diagonal or below it (outer_tile.h: 128 x 128 channels,
// 64 x 64 where fewer are wasted, and for float64). Panels are added in order with compensation, brought to the mean,
// and written to both triangles. The grid holds as many panels as there could be, so that the host waits for nothing.
//
// Traffic: the features once a row of squares, hence channels / 128 times; labels twice.
// Scratch: 8 bytes a pixel and at most 4 more for counts; with Q panels at most, Q <= 512 + classes for any number of
// pixels, 4 bytes x (Q + 2 classes) x channels of sums, and the squares of sums, which are kept until their class is
// added: groups of squares of all panels in at most max(64 MiB, Q x 128 x 128 x 4 bytes). float64 doubles the numbers.
// Untuned, as no GPU was at hand: squares, rows of a panel, order of the blocks.
#include "cuda/class_moments_full_kernels.h"
#include "cuda/class_moments_problem.h"

namespace fastuda::cuda {

// A counting sort of pixels by class: stable, so that the same labels give the same order in every run.
//
// A warp walks over one chunk of pixels, twice: it counts its pixels of each class, and when the counts before it have
// been summed it writes the addresses of its pixels to their places. Lane 0 alone owns the chunk's row of counts.

constexpr int kSortThreads = 256, kSortWarps = kSortThreads / kWarp;

struct Sort {
  Labels labels;
  PixelGrid grid;  // of the features
  u32 pixels, chunk_pixels;
  int chunks, panel_rows;
  Pointer<int> table;           // (chunks, classes): pixels of the chunk, then those of the chunks before it
  Pointer<int> totals;          // (classes)
  Pointer<int> starts, panels;  // (classes + 1): first pixel, first panel of panel_rows pixels of one class
  Pointer<i64> order;           // addresses of the pixels' features
  Pointer<i64> count;           // (classes)
};

template <bool kScatter>
__global__ void __launch_bounds__(kSortThreads) sort_walk(Sort s) {
  const int lane = threadIdx.x % kWarp, chunk = blockIdx.x * kSortWarps + threadIdx.x / kWarp;
  if (chunk >= s.chunks) return;
  const int classes = s.labels.classes;
  const Pointer<int> row = s.table + static_cast<i64>(chunk) * classes;
  if constexpr (!kScatter) {
    for (int k = lane; k < classes; k += kWarp) row[k] = 0;
    __syncwarp();
  }
  const u32 begin = static_cast<u32>(chunk) * s.chunk_pixels;
  const u32 end = s.pixels - begin < s.chunk_pixels ? s.pixels : begin + s.chunk_pixels;
  int current = -1, next = 0;  // the class at hand, and how many pixels of it came before
  for (u32 at = begin; at < end; at += kWarp) {
    const u32 pixel = at + lane;
    const int mine = pixel < end ? read_class(s.labels, pixel) : -1;
    u32 todo = __ballot_sync(kFullWarp, mine >= 0);
    while (todo) {  // one class of these pixels after the other: nearly always there is one
      const int label = __shfl_sync(kFullWarp, mine, __ffs(todo) - 1);
      const u32 same = __ballot_sync(kFullWarp, mine == label);
      if (label != current) {
        if (lane == 0) {
          if (current >= 0) row[current] = next;
          next = row[label];
        }
        next = __shfl_sync(kFullWarp, next, 0);
        current = label;
      }
      if constexpr (kScatter) {
        if (mine == label) s.order[s.starts[label] + next + __popc(same & ((1u << lane) - 1))] = locate(s.grid, pixel);
      }
      next += __popc(same);
      todo &= ~same;
    }
  }
  if (lane == 0 && current >= 0) row[current] = next;
}

// The sum of the values of all threads up to this one. sums: shared memory, one element a thread.
__device__ __forceinline__ int sum_up_to_here(const Pointer<int>& sums, int value) {
  const int t = threadIdx.x;
  sums[t] = value;
  __syncthreads();
  for (int step = 1; step < kSortThreads; step *= 2) {
    const int before = t >= step ? static_cast<int>(sums[t - step]) : 0;
    __syncthreads();
    value += before;
    sums[t] = value;
    __syncthreads();
  }
  return value;
}

// One class a block: counts of chunks become those of the chunks before.
__global__ void __launch_bounds__(kSortThreads) sort_chunks(Sort s) {
  const Pointer<int> sums = shared<int>(0);
  const int k = blockIdx.x, classes = s.labels.classes;
  int before = 0;
  for (int first = 0; first < s.chunks; first += kSortThreads) {
    const int chunk = first + threadIdx.x;
    const i64 at = static_cast<i64>(chunk) * classes + k;
    const int mine = chunk < s.chunks ? static_cast<int>(s.table[at]) : 0;
    const int upto = sum_up_to_here(sums, mine);
    if (chunk < s.chunks) s.table[at] = before + upto - mine;
    before += sums[kSortThreads - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    s.totals[k] = before;
    s.count[k] = before;
  }
}

// One block: where classes and their panels begin.
__global__ void __launch_bounds__(kSortThreads) sort_classes(Sort s) {
  const Pointer<int> sums = shared<int>(0);
  const int classes = s.labels.classes;
  for (int part = 0; part < 2; ++part) {
    const Pointer<int> to = part ? s.panels : s.starts;
    int before = 0;
    for (int first = 0; first < classes; first += kSortThreads) {
      const int k = first + threadIdx.x;
      const int total = k < classes ? static_cast<int>(s.totals[k]) : 0;
      const int mine = part ? total / s.panel_rows + (total % s.panel_rows != 0) : total;
      const int upto = sum_up_to_here(sums, mine);
      if (k < classes) to[k] = before + upto - mine;
      before += sums[kSortThreads - 1];
      __syncthreads();
    }
    if (threadIdx.x == 0) to[classes] = before;
  }
}

#if !defined(__CUDACC_RTC__)

inline void sort_by_class(const Sort& s, Stream stream) {
  const int classes = s.labels.classes, bytes = kSortThreads * static_cast<int>(sizeof(int));
  const dim3 blocks(ceil_div(s.chunks, kSortWarps)), block(kSortThreads);
  if (s.chunks) launch(sort_walk<false>, blocks, block, 0, stream, s);
  if (classes) launch(sort_chunks, dim3(classes), block, bytes, stream, s);
  launch(sort_classes, dim3(1), block, bytes, stream, s);
  if (s.chunks) launch(sort_walk<true>, blocks, block, 0, stream, s);
}

#endif

#define FASTUDA_FULL(T)                                                  \
  template __global__ void full_pivots<T>(FullMoments<T>);               \
  template __global__ void full_products<T, 4>(FullMoments<T>);          \
  template __global__ void full_means<T>(FullMoments<T>, int, int);      \
  template __global__ void full_merge<T, 4>(FullMoments<T>);
#define FASTUDA_FULL_WIDE(T)                                             \
  template __global__ void full_products<T, 8>(FullMoments<T>);          \
  template __global__ void full_merge<T, 8>(FullMoments<T>);
FASTUDA_FULL(float)
FASTUDA_FULL(Half)
FASTUDA_FULL(BFloat16)
FASTUDA_FULL(double)
FASTUDA_FULL_WIDE(float)
FASTUDA_FULL_WIDE(Half)
FASTUDA_FULL_WIDE(BFloat16)
template __global__ void sort_walk<false>(Sort);
template __global__ void sort_walk<true>(Sort);

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr i64 kPartialBytes = i64(64) << 20;
constexpr int kMostPanelRows = 2048, kLeastPanelRows = 256;

// How a problem is cut on a card.
struct FullPlan {
  int edge, width, squares, tiles, group;  // tiles: squares on and below the diagonal; group: of one launch
  int panel_rows, panels, chunks;          // panels: as many as there could be
  u32 chunk_pixels;
  i64 scratch;  // bytes
};

// Parts of the scratch.
struct FullScratch {
  Buffer table, totals, starts, panels, order, pivots, class_sums, sums, partials;
  i64 bytes;

  FullScratch(const MomentsProblem& p, const FullPlan& plan, const Buffer& whole) {
    Scratch scratch{whole};
    const i64 size = p.type == Type::float64 ? 8 : 4, statistics = static_cast<i64>(p.classes) * p.channels;
    table = scratch.take(static_cast<i64>(plan.chunks) * p.classes, 4);
    totals = scratch.take(p.classes, 4);
    starts = scratch.take(p.classes + 1, 4);
    panels = scratch.take(p.classes + 1, 4);
    order = scratch.take(p.pixels, 8);
    pivots = scratch.take(statistics, size);
    class_sums = scratch.take(statistics, size);
    sums = scratch.take(static_cast<i64>(plan.panels) * p.channels, size);
    partials = scratch.take(static_cast<i64>(plan.panels) * plan.group * plan.width * plan.width, size);
    bytes = scratch.used;
  }
};

inline FullPlan plan_full_moments(const MomentsProblem& p, const Card& card, i64 partial_bytes = kPartialBytes) {
  FullPlan plan{};
  // Up to 192 channels narrow squares waste so much less that their slower loop is made up for.
  plan.edge = p.type == Type::float64 || p.channels <= 192 ? 4 : 8;
  plan.width = kTileSide * plan.edge;
  plan.squares = ceil_div(p.channels, plan.width);
  plan.tiles = plan.squares * (plan.squares + 1) / 2;
  plan.chunk_pixels = static_cast<u32>(ceil_div(std::max(256, p.classes), kWarp) * kWarp);
  plan.chunks = static_cast<int>(ceil_div<i64>(p.pixels, plan.chunk_pixels));
  // Long panels are fewer partial sums; but eight blocks a multiprocessor are wanted, and 512 panels at most.
  i64 rows = kMostPanelRows;
  const i64 blocks = i64(8) * card.multiprocessors;
  while (rows > kLeastPanelRows && ceil_div<i64>(p.pixels, rows) * plan.tiles < blocks) rows /= 2;
  while (ceil_div<i64>(p.pixels, rows) > 512) rows *= 2;
  plan.panel_rows = static_cast<int>(std::min<i64>(rows, 1 << 30));
  plan.panels = static_cast<int>(ceil_div<i64>(p.pixels, plan.panel_rows)) + p.classes;
  const i64 each = static_cast<i64>(plan.panels) * plan.width * plan.width * (p.type == Type::float64 ? 8 : 4);
  plan.group = static_cast<int>(std::clamp<i64>(partial_bytes / std::max<i64>(each, 1), 1, std::max(plan.tiles, 1)));
  plan.scratch = FullScratch(p, plan, {nullptr, 0}).bytes;
  return plan;
}

template <class T, int kEdge>
void run_products(FullMoments<T> f, const FullPlan& plan, Stream stream) {
  using Acc = Accumulate<T>;
  using Tile = OuterTile<Acc, kEdge>;
  constexpr int size = static_cast<int>(sizeof(Acc)), bytes = Tile::bytes + 2 * Tile::width * size;
  constexpr int merge_bytes = kMergeSide * (kMergeSide + 1) * size;
  constexpr int parts = Tile::width / kMergeSide * (Tile::width / kMergeSide);
  for (int first = 0; first < plan.tiles; first += plan.group) {
    f.first = first;
    f.group = std::min(plan.group, plan.tiles - first);
    launch(full_products<T, kEdge>, dim3(plan.panels * f.group), dim3(kTileThreads), bytes, stream, f);
    if (first < plan.squares) {  // these are on the diagonal, whose blocks also sum their channels
      const int begin = first * Tile::width;
      const int end = std::min(f.channels, std::min(plan.squares, first + f.group) * Tile::width);
      const dim3 blocks(ceil_div(end - begin, kPivotThreads) * f.classes);
      launch(full_means<T>, blocks, dim3(kPivotThreads), 0, stream, f, begin, end);
    }
    launch(
        full_merge<T, kEdge>, dim3(parts * f.group * f.classes), dim3(kMergeSide, kMergeRows), merge_bytes, stream, f);
  }
}

inline void run_full_moments(
    const MomentsProblem& p, const FullPlan& plan, const Buffer& scratch, Buffer count, Buffer mean, Buffer m2,
    Stream stream) {
  if (p.classes == 0) return;
  const FullScratch part(p, plan, scratch);
  const Sort sort{
      make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index), p.features.grid, p.pixels, plan.chunk_pixels,
      plan.chunks, plan.panel_rows, global<int>(part.table), global<int>(part.totals), global<int>(part.starts),
      global<int>(part.panels), global<i64>(part.order), global<i64>(count)};
  sort_by_class(sort, stream);
  if (p.channels == 0) return;
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const FullMoments<T> f{
        global<const T>(p.features.buffer), p.channel_stride, in_quads<T>(p.features, p.channel_stride, p.channels),
        p.channels, p.classes, plan.panel_rows, sort.order, sort.starts, sort.panels, plan.squares, 0, plan.group,
        global<Acc>(part.pivots), global<Acc>(part.partials), global<Acc>(part.sums), global<Acc>(part.class_sums),
        global<Acc>(mean), global<Acc>(m2)};
    const dim3 blocks(ceil_div(p.channels, kPivotThreads) * p.classes);
    launch(full_pivots<T>, blocks, dim3(kPivotThreads), 0, stream, f);
    if (plan.edge == 4) run_products<T, 4>(f, plan, stream);
    else run_products<T, kWideEdge<Acc>>(f, plan, stream);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor, Tensor> class_moments_full_cuda(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  const Device device(features);
  const MomentsProblem p = moments_problem(features, labels, num_classes, ignore_index);
  const FullPlan plan = plan_full_moments(p, device.card());
  Tensor scratch = torch::stable::new_empty(features, {plan.scratch}, ScalarType::Byte);
  auto [count, mean, m2] = new_moments(p, features, true);
  run_full_moments(p, plan, buffer(scratch), buffer(count), buffer(mean), buffer(m2), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {count, mean, m2};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("class_moments_full_cuda", TORCH_BOX(&fastuda::cuda::class_moments_full_cuda));
}
#endif
