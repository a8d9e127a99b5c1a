// Overlapping patches averaged into labels on a GPU: every pixel gathers the votes of the patches that cover it, in
// their order. No sum is shared by two threads, so the result has the same bits on every card.
//
// A thread has a strip of four pixels of a column (dense_strip.h). Of each patch that crosses it, the strip of the
// patch at that place is upsampled three times: for the largest logit, for the sum of the exponentials, and for the
// votes, which are added to the pixels' sums in shared memory. The label, the confidence and its bin follow at once:
// the volume of votes never exists unless it is asked for. Two launches, of which the first clears the histogram (one
// without bins); no scratch.
//
// Traffic: labels and confidences once; the patches from the caches. The sums have 16 K bytes a thread (32 in float64):
// with more than 24 classes a block has fewer strips than threads. Untuned, as no GPU was at hand.
#include "cuda/cell_counts.h"
#include "cuda/dense_strip.h"

namespace fastuda::cuda {

constexpr int kVoteThreads = 128;
constexpr int kVoteRows = 4;
constexpr int kVoteBlocks = 4;  // a multiprocessor

template <class T>
struct Votes {
  using Acc = Accumulate<T>;
  Upsampling<Scores<T>> patch;
  i64 image_stride, patch_stride;
  int patches;
  Pointer<const i64> offsets;
  i64 offset_strides[3];
  Upsampling<AnyScores<Acc>> full;
  bool with_full, probabilities;
  StripGrid grid;
  int block_strips;
  int bins;
  CellCounts counts;
  Pointer<u8> label;
  Pointer<Acc> confidence, volume;
  bool with_volume;

  __device__ __forceinline__ i64 offset(int image, int q, int axis) const {
    return offsets[image * offset_strides[0] + q * offset_strides[1] + axis * offset_strides[2]];
  }
};

// The pixels of one thread: their sums of votes, [class][row][strip of the block], and how many each has had.
template <class Acc>
struct VoteSums {
  Pointer<Acc> sums;
  int pitch, classes;
  int number[kVoteRows];

  __device__ __forceinline__ int at(int k, int r) const { return (k * kVoteRows + r) * pitch; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < kVoteRows; ++r) {
      number[r] = 0;
      for (int k = 0; k < classes; ++k) sums[at(k, r)] = 0;
    }
  }

  // One vote for each pixel from row `from` to the one before `to`.
  template <class S>
  __device__ __forceinline__ void add(
      const Strip<S, kVoteRows>& strip, const S& s, bool probabilities, int from, int to) {
    Acc most[kVoteRows], scale[kVoteRows];
    if (!probabilities) {
      StripBest<Acc, kVoteRows> best;
      best.softmax(strip, s, most, scale);
    }
#pragma unroll
    for (int r = 0; r < kVoteRows; ++r) {
      scale[r] = probabilities ? Acc(1) : 1 / scale[r];
      if (r >= from && r < to) ++number[r];
    }
#pragma unroll 1
    for (int k = 0; k < classes; ++k)
      strip.each(s, k, [&](int r, Acc x) {
        const Acc vote = probabilities ? x : exponential(x - most[r]) * scale[r];
        if (r >= from && r < to) sums[at(k, r)] += vote;
      });
  }
};

template <class T>
__device__ __forceinline__ void gather_votes(
    const Votes<T>& v, int image, int row, int column, VoteSums<Accumulate<T>>& pixels) {
  const int height = v.patch.down.size, width = v.patch.along.size;
#pragma unroll 1
  for (int q = 0; q < v.patches; ++q) {
    const i64 y = v.offset(image, q, 0), x = v.offset(image, q, 1);
    if (y >= row + kVoteRows || y <= row - height || x > column || x <= column - width) continue;
    const int line = row - static_cast<int>(y);
    Strip<Scores<T>, kVoteRows> strip;
    strip.set(v.patch, image * v.image_stride + q * v.patch_stride, line, column - static_cast<int>(x));
    pixels.add(strip, v.patch.scores, v.probabilities, -line, height - line);
  }
  if (!v.with_full) return;
  Strip<AnyScores<Accumulate<T>>, kVoteRows> strip;
  strip.set(v.full, image * v.full.scores.image_stride, row, column);
  pixels.add(strip, v.full.scores, v.probabilities, 0, kVoteRows);
}

// Writes what became of a pixel; returns the cell that counts it, or -1.
template <class T>
__device__ __forceinline__ int decide_votes(
    const Votes<T>& v, const VoteSums<Accumulate<T>>& pixels, int r, int image, int row, int column) {
  using Acc = Accumulate<T>;
  const i64 area = static_cast<i64>(v.grid.height) * v.grid.width;
  const i64 place = static_cast<i64>(row) * v.grid.width + column;
  const int number = pixels.number[r];
  const Acc votes = static_cast<Acc>(number > 0 ? number : 1);
  Acc most = 0;
  int label = 0;
#pragma unroll 1
  for (int k = 0; k < pixels.classes; ++k) {
    const Acc sum = pixels.sums[pixels.at(k, r)];
    if (v.with_volume) v.volume[(static_cast<i64>(image) * pixels.classes + k) * area + place] = sum / votes;
    if (k > 0 && !is_larger(sum, most)) continue;
    most = sum;
    label = k;
  }
  const Acc confidence = most / votes;
  const bool found = number > 0 && confidence == confidence;
  v.label[image * area + place] = static_cast<u8>(found ? label : 255);
  v.confidence[image * area + place] = confidence;
  return found && v.bins ? label * v.bins + bin_of(confidence, v.bins) : -1;
}

template <class T>
__global__ void __launch_bounds__(kVoteThreads, sizeof(T) == 8 ? 2 : kVoteBlocks) aggregate_strips(Votes<T> v) {
  const u32 all = v.grid.images * v.grid.strips * v.grid.width, own = static_cast<u32>(v.block_strips);
  const int thread = threadIdx.x;
  VoteSums<Accumulate<T>> pixels{shared<Accumulate<T>>(0) + thread, v.block_strips, v.patch.scores.classes, {}};
  if (v.bins) v.counts.begin();
  for (u32 first = blockIdx.x * own; first < all; first += gridDim.x * own) {
    int image, row, column;
    const bool inside = v.grid.find(first + thread, kVoteRows, image, row, column) && thread < v.block_strips;
    if (inside) {
      pixels.clear();
      gather_votes(v, image, row, column, pixels);
    }
#pragma unroll
    for (int r = 0; r < kVoteRows; ++r) {
      int cell = -1;
      if (inside && row + r < static_cast<int>(v.grid.height))
        cell = decide_votes(v, pixels, r, image, row + r, column);
      if (v.bins) v.counts.add(cell);
    }
  }
  if (v.bins) v.counts.end();
}

#define FASTUDA_AGGREGATE(T) template __global__ void aggregate_strips<T>(Votes<T>);
FASTUDA_AGGREGATE(float)
FASTUDA_AGGREGATE(Half)
FASTUDA_AGGREGATE(BFloat16)
FASTUDA_AGGREGATE(double)
template __global__ void clear_cells<kClearThreads>(Pointer<u64>, int);

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr int kVoteBytes = 48 * 1024;  // of shared memory that a block's sums may have

struct AggregateProblem {
  ScoreBuffer scores;  // of a patch; images: of the result
  i64 image_stride, patch_stride;
  int patches;
  Axis down, along;  // of a patch
  Buffer offsets;
  i64 offset_strides[3];
  ScoreBuffer full;
  Axis full_down, full_along;
  bool with_full, probabilities;
  int height, width, bins;
};

struct AggregateResult {
  Buffer label, confidence, counts, volume;  // volume: without memory where it is not wanted
};

// Strips of a block: as many as threads, or as fit into its shared memory.
inline int vote_strips(int classes, int element) {
  const int fit = kVoteBytes / (kVoteRows * classes * element);
  return fit >= kVoteThreads ? kVoteThreads : fit >= kWarp ? fit / kWarp * kWarp : fit > 1 ? fit : 1;
}

inline void run_aggregate_patches(
    const AggregateProblem& p, const Card& card, const AggregateResult& result, Stream stream) {
  const StripGrid grid = strip_grid(p.scores.images, p.height, p.width, kVoteRows);
  const i64 strips = strip_threads(grid);
  with_type(p.scores.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const int block_strips = vote_strips(p.scores.classes, static_cast<int>(sizeof(Acc)));
    const i64 sums = static_cast<i64>(block_strips) * kVoteRows * p.scores.classes * static_cast<i64>(sizeof(Acc));
    const CellCounts counts = make_counts(result.counts, p.scores.classes * p.bins, sums, card.shared_limit);
    clear_counts(counts, card, stream);
    if (strips == 0) return;
    const Votes<T> votes{
        {make_scores<T>(p.scores), p.down, p.along}, p.image_stride, p.patch_stride, p.patches,
        global<const i64>(p.offsets), {p.offset_strides[0], p.offset_strides[1], p.offset_strides[2]},
        {make_any_scores<Acc>(p.full), p.full_down, p.full_along}, p.with_full, p.probabilities, grid, block_strips,
        p.bins, counts, global<u8>(result.label), global<Acc>(result.confidence), global<Acc>(result.volume),
        result.volume.bytes > 0};
    const i64 tiles = ceil_div<i64>(strips, block_strips);
    const dim3 blocks = count_blocks(tiles, static_cast<i64>(block_strips) * kVoteRows, kVoteBlocks, card);
    const i64 bytes = sums + (p.bins && counts.in_shared ? cell_bytes(counts.cells) : 0);
    const dim3 threads(static_cast<u32>(ceil_div(block_strips, kWarp) * kWarp));
    launch(aggregate_strips<T>, blocks, threads, static_cast<int>(bytes), stream, votes);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

// Patches (B, P, K, h, w) as the first one of each image.
inline ScoreBuffer patch_buffer(const Tensor& t) {
  STD_TORCH_CHECK(
      t.dim() == 5 && t.size(2) >= 1 && t.size(3) >= 1 && t.size(4) >= 1 && t.size(2) <= 255,
      "scores must be (B, P, K, h, w) of K, h, w >= 1 and at most 255 classes");
  return {buffer(t),   feature_type(t),   t.stride(0),       t.stride(2),       t.stride(3),
          t.stride(4), small(t.size(0)), small(t.size(2)), small(t.size(3)), small(t.size(4))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> aggregate_patches_cuda(
    const Tensor& scores, const Tensor& offsets, const std::optional<Tensor>& full, int64_t height, int64_t width,
    int64_t patch_height, int64_t patch_width, bool probabilities, bool align_corners, int64_t bins,
    bool with_volume) {
  const Device device(scores);
  const ScoreBuffer patch = patch_buffer(scores);
  STD_TORCH_CHECK(
      offsets.is_cuda() && offsets.scalar_type() == ScalarType::Long && offsets.dim() == 3 &&
          offsets.size(0) == patch.images && offsets.size(1) == scores.size(1) && offsets.size(2) == 2,
      "offsets must be int64 (B, P, 2) in the card's memory");
  STD_TORCH_CHECK(
      height >= 1 && width >= 1 && patch_height >= 1 && patch_width >= 1 && bins >= 0 &&
          bins <= (int64_t(1) << 30) / patch.classes,
      "sizes must be at least 1, and bins at least 0 and at most 2^30 in all classes");
  const ScoreBuffer whole = full ? score_buffer(*full, "full") : patch;
  STD_TORCH_CHECK(
      whole.images == patch.images && whole.classes == patch.classes && (!full || full->is_cuda()),
      "full must have the images and classes of scores");
  small(patch.images * height * width);
  const ScalarType type = statistic_type(patch.type);
  Tensor label = torch::stable::new_empty(scores, {patch.images, height, width}, ScalarType::Byte);
  Tensor confidence = torch::stable::new_empty(scores, {patch.images, height, width}, type);
  Tensor counts = torch::stable::new_empty(scores, {patch.classes, bins}, ScalarType::Long);
  Tensor volume = with_volume ? torch::stable::new_empty(scores, {patch.images, patch.classes, height, width}, type)
                              : torch::stable::new_empty(scores, {0}, type);
  const auto axis = [&](int64_t size, int source) { return upsample_axis(size, source, align_corners); };
  const AggregateProblem problem{
      patch, scores.stride(0), scores.stride(1), small(scores.size(1)), axis(patch_height, patch.height),
      axis(patch_width, patch.width), buffer(offsets), {offsets.stride(0), offsets.stride(1), offsets.stride(2)}, whole,
      axis(height, whole.height), axis(width, whole.width), full.has_value(), probabilities, small(height),
      small(width), static_cast<int>(bins)};
  const AggregateResult result{buffer(label), buffer(confidence), buffer(counts), buffer(volume)};
  run_aggregate_patches(problem, device.card(), result, device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {label, confidence, counts, volume};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("aggregate_patches_cuda", TORCH_BOX(&fastuda::cuda::aggregate_patches_cuda));
}
#endif
