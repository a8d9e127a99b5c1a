// Order statistics of confidence by class on a GPU, exact without a sort, and the host waits for nothing.
//
// A pass counts, for every class, confidences in at most 514 bins of the interval of bits that holds the wanted one:
// the whole line at first, cut evenly between 0 and 1 because the leading bits of a float say little there (confidences
// pile up in a few of them), and then the bits of the bin found before, 9 at a time. A warp a class then finds the bin
// that holds the wanted one. Counts are whole numbers, so their order does not matter: the same bits for every launch.
//
// Three passes are all for confidences above 1/16 and two for 1 itself; five settle any float. One cooperative launch
// makes them all, blocks meeting twice a pass, and ends when every class is settled; without cooperative launches (a
// card or a driver may lack them) each of the 11 steps is a launch, to the same bits. Each pass reads confidences and
// labels once. A block keeps its counts to itself where they fit in 48 KB (22 classes). Scratch: 2.2 KB a class.
// Untuned, as no GPU was at hand: bins, threads, pixels of a thread.
#include "cuda/launch_cooperative.h"
#include "cuda/block_scan.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

constexpr int kThresholdThreads = 512, kThresholdItems = 4;  // pixels of a thread that are read at once
constexpr int kThresholdTile = kThresholdThreads * kThresholdItems;
constexpr int kThresholdBits = 9, kThresholdSteps = 1 << kThresholdBits;  // of the interval from 0 to 1
constexpr int kThresholdPasses = 5;  // after the first: 2^32, 2^23, 2^14, 2^5 floats are left, and one
constexpr int kLaneBins = 17, kBinPitch = kLaneBins * kWarp;  // one for 1 alone, one for what is above
constexpr int kWordsOfInterval = 4;
constexpr int kThresholdClasses = 22;  // whose counts fit in 48 KB
constexpr int kThresholdClassBytes = (kBinPitch + kWordsOfInterval) * 4;
static_assert(kBinPitch >= kThresholdSteps + 2 && kThresholdClasses * kThresholdClassBytes <= 48 * 1024);

// Whole numbers in the order of the floats.
__device__ __forceinline__ u32 key_of(float value) {
  const u32 bits = bits_of(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of(u32 key) {
  return number_of(key >> 31 ? key & 0x7fffffffu : ~key);
}

// What is known of the classes.
struct ThresholdSearch {
  int classes;
  double portion;
  bool from_top;
  Pointer<int> counts;     // (classes, kBinPitch): 0 before each pass
  Pointer<u32> intervals;  // (classes, 4): lowest key, number of keys (0 where settled), shift to the bin, rank inside
  Pointer<int> open;       // (passes + 1): classes that a pass has to go on with
  Pointer<float> result;
};

template <class T>
struct ThresholdPixels {
  Pointer<const T> confidence;
  PixelGrid grid;
  Labels labels;
  bool flat;  // the pixels of each follow one another at its column stride
  bool in_shared;
  u32 pixels, block_pixels;
};

__device__ __forceinline__ void threshold_clear(const ThresholdSearch& s) {
  const i64 size = static_cast<i64>(s.classes) * kBinPitch, step = static_cast<i64>(gridDim.x) * kThresholdThreads;
  for (i64 i = static_cast<i64>(blockIdx.x) * kThresholdThreads + threadIdx.x; i < size; i += step) {
    s.counts[i] = 0;
    if (i <= kThresholdPasses) s.open[i] = 0;
  }
}

// The bin of the first pass.
__device__ __forceinline__ int even_bin(float value) {
  const float positive = value > 0.0f ? value : 0.0f, inside = positive < 1.0f ? positive : 1.0f;
  return static_cast<int>(inside * kThresholdSteps) + (value > 1.0f);
}

// A block counts `block_pixels` of all.
template <class T, bool kFirst>
__device__ __forceinline__ void threshold_count(const ThresholdSearch& s, const ThresholdPixels<T>& p) {
  const int bins = s.classes * kBinPitch, words = s.classes * kWordsOfInterval;
  const Pointer<int> own = shared<int>(0);
  const Pointer<u32> copy = shared<u32>(p.in_shared ? bins * 4 : 0), intervals = p.in_shared ? copy : s.intervals;
  if (p.in_shared) {
    for (int i = threadIdx.x; i < bins; i += kThresholdThreads) own[i] = 0;
    if (!kFirst)
      for (int i = threadIdx.x; i < words; i += kThresholdThreads) copy[i] = s.intervals[i];
    __syncthreads();
  }
  const u32 begin = blockIdx.x * p.block_pixels;
  const u32 end = p.pixels - begin < p.block_pixels ? p.pixels : begin + p.block_pixels;
  for (u32 tile = begin; tile < end; tile += kThresholdTile) {
    const u32 first = tile + threadIdx.x;
    int label[kThresholdItems];
    float value[kThresholdItems];
#pragma unroll
    for (int i = 0; i < kThresholdItems; ++i) {
      const u32 pixel = first + i * kThresholdThreads;
      label[i] = -1;
      value[i] = 0;
      if (pixel >= end) continue;
      const i64 along = pixel;
      label[i] = class_at(p.labels, p.flat ? along * p.labels.grid.column_stride : locate(p.labels.grid, pixel));
      value[i] = static_cast<float>(
          widen(T(p.confidence[p.flat ? along * p.grid.column_stride : locate(p.grid, pixel)])));
    }
#pragma unroll
    for (int i = 0; i < kThresholdItems; ++i) {
      int at = -1;
      if (label[i] >= 0 && value[i] == value[i]) {
        if (kFirst) {
          at = label[i] * kBinPitch + even_bin(value[i]);
        } else {
          const auto interval = load_pack<kWordsOfInterval>(intervals + label[i] * kWordsOfInterval);
          const u32 distance = key_of(value[i] + 0.0f) - interval.at[0];  // the sum makes the two zeros one
          if (distance < interval.at[1]) at = label[i] * kBinPitch + static_cast<int>(distance >> interval.at[2]);
        }
      }
      if (p.in_shared) count_alike(own, at);
      else count_alike(s.counts, at);
    }
  }
  if (!p.in_shared) return;
  __syncthreads();
  for (int i = threadIdx.x; i < bins; i += kThresholdThreads) {
    const int count = own[i];
    if (count) atomicAdd(s.counts + i, count);
  }
}

// The rank from below of the wanted one of `count`, by the rule of the definition.
__device__ __forceinline__ int wanted_rank(const ThresholdSearch& s, int count) {
  const double share = s.portion * count;
  const int whole = static_cast<int>(share);
  if (s.from_top) return count - (whole > 1 ? whole : 1);
  const int up = whole < share ? whole + 1 : whole;
  return (up > 1 ? up : 1) - 1;
}

// Keys of bin `bin` of the first pass.
__device__ __forceinline__ void even_interval(int bin, u32& low, u32& width) {
  const u32 one = key_of(1.0f), beyond = 0xff800001u;  // after the key of +inf
  low = bin == 0 ? 0 : bin > kThresholdSteps ? one + 1 : key_of(static_cast<float>(bin) / kThresholdSteps);
  const u32 high = bin > kThresholdSteps ? beyond
      : bin == kThresholdSteps           ? one + 1
                                         : key_of(static_cast<float>(bin + 1) / kThresholdSteps);
  width = high - low;
}

// The bin of class k that holds the wanted one, by a warp; the counts are 0 again.
__device__ __forceinline__ void threshold_bin(const ThresholdSearch& s, int pass, int k) {
  const int lane = threadIdx.x % kWarp;
  Pack<u32, kWordsOfInterval> interval{};
  if (pass > 0) interval = load_pack<kWordsOfInterval>(s.intervals + k * kWordsOfInterval);
  if (pass > 0 && interval.at[1] == 0) return;
  const Pointer<int> counts = s.counts + (k * kBinPitch + lane * kLaneBins);
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneBins; ++i) sum += counts[i];
  const int upto = warp_scan(sum), all = __shfl_sync(kFullWarp, upto, kWarp - 1);
  const int rank = pass == 0 ? wanted_rank(s, all) : static_cast<int>(interval.at[3]);
  __syncwarp();  // before one lane writes what all have read
  if (all == 0 && lane == 0) {
    s.result[k] = 1.0f;
    store_pack(s.intervals + k * kWordsOfInterval, Pack<u32, kWordsOfInterval>{});
  }
  const bool here = all > 0 && rank >= upto - sum && rank < upto;  // one lane has the bin
  int before = upto - sum, bin = -1;
#pragma unroll 1
  for (int i = 0; i < kLaneBins; ++i) {
    const int mine = counts[i];
    counts[i] = 0;
    if (!here || bin >= 0) continue;
    if (rank - before < mine) bin = lane * kLaneBins + i;
    else before += mine;
  }
  if (!here) return;
  u32 low, width;
  if (pass == 0) {
    even_interval(bin, low, width);
  } else {
    low = interval.at[0] + (static_cast<u32>(bin) << interval.at[2]);
    const u32 left = interval.at[1] - (low - interval.at[0]), most = 1u << interval.at[2];
    width = left < most ? left : most;
  }
  if (width == 1) s.result[k] = value_of(low);
  else atomicAdd(s.open + (pass + 1), 1);
  u32 shift = 0;
  while ((width - 1) >> shift >= kThresholdSteps) ++shift;
  store_pack(
      s.intervals + k * kWordsOfInterval,
      Pack<u32, kWordsOfInterval>{{low, width == 1 ? 0 : width, shift, static_cast<u32>(rank - before)}});
}

// The steps from `step` to before `end`, between which all blocks meet.
template <class T>
__global__ void __launch_bounds__(kThresholdThreads, 2) threshold_search(
    ThresholdSearch s, ThresholdPixels<T> p, int step, int end) {
  constexpr int kWarps = kThresholdThreads / kWarp;
  while (true) {
    const int pass = (step - 1) / 2;
    if (pass > 0 && s.open[pass] == 0) return;  // every class is settled
    if (step == 0) {
      threshold_clear(s);
    } else if (step == 1) {
      threshold_count<T, true>(s, p);
    } else if (step % 2) {
      threshold_count<T, false>(s, p);
    } else {
      const i64 warps = static_cast<i64>(gridDim.x) * kWarps;
      for (i64 k = static_cast<i64>(blockIdx.x) * kWarps + threadIdx.x / kWarp; k < s.classes; k += warps)
        threshold_bin(s, pass, static_cast<int>(k));
    }
    if (++step == end) return;
    grid_sync();
  }
}

#define FASTUDA_THRESHOLDS(T) \
  template __global__ void threshold_search<T>(ThresholdSearch, ThresholdPixels<T>, int, int);
FASTUDA_THRESHOLDS(float)
FASTUDA_THRESHOLDS(Half)
FASTUDA_THRESHOLDS(BFloat16)
FASTUDA_THRESHOLDS(double)

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr int kThresholdEnd = 2 * kThresholdPasses + 1;  // steps: clear, then count and find the bin in each pass

struct ThresholdProblem {
  Type type;
  PixelBuffer confidence, labels;
  int label_bytes, classes;
  u32 pixels;
  i64 ignore_index;
  double portion;
  bool from_top;

  // Whether pixel i lies at i times the column stride.
  bool flat(const PixelGrid& g) const {
    const i64 row = g.width * g.column_stride, image = g.height * row;
    return (g.height == 1 || g.row_stride == row) &&
        (static_cast<i64>(g.height) * g.width == pixels || g.image_stride == image);
  }
  i64 scratch_bytes() const { return parts({nullptr, 0}).used; }

  struct Parts {
    Buffer counts, intervals, open;
    i64 used;
  };
  Parts parts(const Buffer& whole) const {
    Scratch scratch{whole};
    const i64 k = classes;
    Parts p{scratch.take(k * kBinPitch, 4), scratch.take(k * kWordsOfInterval, 4),
            scratch.take(kThresholdPasses + 1, 4), 0};
    p.used = scratch.used;
    return p;
  }
};

// Pixels of a block: `a_multiprocessor` blocks each, but enough to be worth the counts that each adds at its end.
inline u32 threshold_block_pixels(const ThresholdProblem& p, const Card& card, int a_multiprocessor) {
  const i64 blocks = static_cast<i64>(a_multiprocessor) * std::max(1, card.multiprocessors);
  const i64 tiles = ceil_div<i64>(ceil_div<i64>(p.pixels, blocks), kThresholdTile);
  return static_cast<u32>(std::max<i64>(2, tiles) * kThresholdTile);
}

// resident(kernel, threads, shared_bytes): blocks that a multiprocessor holds of a kernel launched together, or 0.
template <class Resident>
void run_class_thresholds(
    const ThresholdProblem& p, const Card& card, const Resident& resident, const Buffer& scratch, Buffer result,
    Stream stream) {
  const ThresholdProblem::Parts part = p.parts(scratch);
  const ThresholdSearch s{
      p.classes, p.portion, p.from_top, global<int>(part.counts), global<u32>(part.intervals), global<int>(part.open),
      global<float>(result)};
  with_type(p.type, [&](auto kind) {
    using T = decltype(kind);
    const bool in_shared = p.classes <= kThresholdClasses;
    const int bytes = in_shared ? p.classes * kThresholdClassBytes : 0;
    const int fit = resident(threshold_search<T>, kThresholdThreads, bytes);
    const ThresholdPixels<T> pixels{
        global<const T>(p.confidence.buffer), p.confidence.grid,
        make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index),
        p.flat(p.confidence.grid) && p.flat(p.labels.grid), in_shared, p.pixels,
        threshold_block_pixels(p, card, fit == 1 ? 1 : 2)};
    const dim3 blocks(std::max<u32>(1, ceil_div(p.pixels, pixels.block_pixels))), block(kThresholdThreads);
    if (fit) return launch_cooperative(threshold_search<T>, blocks, block, bytes, stream, s, pixels, 0, kThresholdEnd);
    for (int step = 0; step < kThresholdEnd; ++step)
      launch(threshold_search<T>, blocks, block, bytes, stream, s, pixels, step, step + 1);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

Tensor class_thresholds_cuda(
    const Tensor& confidence, const Tensor& label, int64_t num_classes, double portion, bool from_top,
    int64_t ignore_index) {
  STD_TORCH_CHECK(
      (label.dim() == 1 || label.dim() == 3) && label.dim() == confidence.dim(),
      "confidence and label must be (N, H, W) or (P,) of one shape");
  for (int64_t i = 0; i < label.dim(); ++i)
    STD_TORCH_CHECK(label.size(i) == confidence.size(i), "confidence and label must have one shape");
  STD_TORCH_CHECK(num_classes >= 1 && num_classes < 1 << 19, "num_classes must be between 1 and 524287");
  STD_TORCH_CHECK(portion >= 0 && portion <= 1, "portion must be between 0 and 1");
  const Device device(confidence);
  const ThresholdProblem p{
      feature_type(confidence), pixel_buffer(confidence, false), pixel_buffer(label, false), label_bytes(label),
      small(num_classes), static_cast<u32>(small(label.numel())), ignore_index, portion, from_top};
  Tensor result = torch::stable::new_empty(confidence, {num_classes}, ScalarType::Float);
  Tensor scratch = torch::stable::new_empty(confidence, {p.scratch_bytes()}, ScalarType::Byte);
  const auto resident = [](auto kernel, int threads, int bytes) { return resident_blocks(kernel, threads, bytes); };
  run_class_thresholds(p, device.card(), resident, buffer(scratch), buffer(result), device.stream());
  return result;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("class_thresholds_cuda", TORCH_BOX(&fastuda::cuda::class_thresholds_cuda));
}
#endif
