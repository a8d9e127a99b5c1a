// Pixels drawn by class on a GPU: the definition's pixels, bit for bit, without sorting an image
// (class_balanced_sample_draw.h), in rising order. Nothing depends on the card or the schedule, and the host waits for
// nothing.
//
// One cooperative launch, whose blocks meet between the 13 steps of sample_per_class and the 22 of
// class_balanced_sample; without cooperative launches (a card or a driver may lack them) each step is a launch, to the
// same pixels. Each step reads the labels at most once and makes their random numbers again. Scratch: 1 KB an image and
// class, and 4 bytes for each 1024 pixels of each list (one an image, or one an image and class). Untuned, as no GPU
// was at hand: bits of a pass, pixels of a block, blocks of a multiprocessor.
#include "cuda/class_balanced_sample_draw.h"
#include "cuda/launch_cooperative.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

// The chosen pixels of each image, or of each image and class, in rising order: counted by chunks, then written.

constexpr u32 kListChunk = 1024;  // pixels of a warp

struct ClassList {
  ClassDraw draw;
  int lists, chunks;    // of an image: 1 or the classes; ceil(pixels / kListChunk)
  Pointer<int> table;   // (images, lists, chunks): pixels of the chunk, then those of the chunks before it
  Pointer<i64> result;  // (images, lists, wanted)
};

// The list of a pixel, or -1.
__device__ __forceinline__ int list_of(const ClassDraw& d, const RandomBits& random, u32 image, u32 pixel) {
  const int label = class_of(d.labels, image, pixel);
  if (label < 0) return -1;
  if (chosen_first(d, random, image, pixel, label)) return d.by_share ? 0 : label;
  if (!d.by_share) return -1;
  const u64 bound = d.second.bound[image];
  return bound != 0 && draw_key(draw_bits(d, random, image, pixel, 1), pixel) < bound ? 0 : -1;
}

// A warp walks over chunk `number` of all images', twice: to count and to write. Lane 0 alone owns the chunk's counts.
template <bool kWrite>
__device__ __forceinline__ void list_walk(const ClassList& s, i64 number) {
  const int lane = threadIdx.x % kWarp;
  const u32 image = static_cast<u32>(number / s.chunks);
  const int chunk = static_cast<int>(number % s.chunks);
  const i64 first_list = static_cast<i64>(image) * s.lists;
  const auto entry = [&](int list) { return (first_list + list) * s.chunks + chunk; };
  if constexpr (!kWrite) {
    for (int list = lane; list < s.lists; list += kWarp) s.table[entry(list)] = 0;
    __syncwarp();
  }
  const RandomBits random = random_bits(s.draw.seed);
  const u32 begin = chunk * kListChunk;
  const u32 end = s.draw.pixels - begin < kListChunk ? s.draw.pixels : begin + kListChunk;
  int current = -1, next = 0;  // the list at hand, and how many pixels of it came before
  for (u32 at = begin; at < end; at += kWarp) {
    const u32 pixel = at + lane;
    const int mine = pixel < end ? list_of(s.draw, random, image, pixel) : -1;
    u32 todo = __ballot_sync(kFullWarp, mine >= 0);
    while (todo) {  // one list after the other
      const int list = __shfl_sync(kFullWarp, mine, __ffs(todo) - 1);
      const u32 same = __ballot_sync(kFullWarp, mine == list);
      if (list != current) {
        if (lane == 0) {
          if (current >= 0) s.table[entry(current)] = next;
          next = s.table[entry(list)];
        }
        next = __shfl_sync(kFullWarp, next, 0);
        current = list;
      }
      if constexpr (kWrite) {
        const i64 place = next + __popc(same & ((1u << lane) - 1));
        if (mine == list) s.result[(first_list + list) * s.draw.wanted + place] = pixel;
      }
      next += __popc(same);
      todo &= ~same;
    }
  }
  if (lane == 0 && current >= 0) s.table[entry(current)] = next;
}

// A list, by a block: counts of chunks become those of the chunks before, and -1 fills the end of the list.
__device__ __forceinline__ void list_chunks(const ClassList& s, i64 list) {
  const Pointer<int> sums = shared<int>(0);
  int before = 0;
  for (int first = 0; first < s.chunks; first += kDrawThreads) {
    const int chunk = first + threadIdx.x;
    const i64 at = list * s.chunks + chunk;
    const int mine = chunk < s.chunks ? static_cast<int>(s.table[at]) : 0;
    int all;
    const int upto = block_scan(sums, mine, all);
    if (chunk < s.chunks) s.table[at] = before + upto - mine;
    before += all;
  }
  for (i64 i = before + static_cast<i64>(threadIdx.x); i < s.draw.wanted; i += kDrawThreads)
    s.result[list * s.draw.wanted + i] = -1;
}

// The steps of a draw: clear, the first stream's, the second's (of a share only), then the three of the lists.
constexpr int kListStep = 1 + 2 * kDrawSteps;

__host__ __device__ __forceinline__ int next_draw_step(int step, bool by_share) {
  return step == kDrawSteps && !by_share ? kListStep : step + 1;
}

// The steps from `step` to before `end`, between which all blocks meet.
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 4) draw_pixels(ClassList s, u32 block_pixels, int step, int end) {
  const ClassDraw& d = s.draw;
  const i64 warps = static_cast<i64>(gridDim.x) * kDrawWarps, chunks = static_cast<i64>(d.images) * s.chunks;
  const i64 warp = static_cast<i64>(blockIdx.x) * kDrawWarps + threadIdx.x / kWarp;
  while (true) {
    if (step == 0) {
      draw_clear(d);
    } else if (step <= kDrawSteps) {
      draw_step<false>(d, step - 1, block_pixels);
    } else if (step < kListStep) {
      draw_step<true>(d, step - 1 - kDrawSteps, block_pixels);
    } else if (step == kListStep) {
      for (i64 i = warp; i < chunks; i += warps) list_walk<false>(s, i);
    } else if (step == kListStep + 1) {
      for (i64 i = blockIdx.x; i < static_cast<i64>(d.images) * s.lists; i += gridDim.x) list_chunks(s, i);
    } else {
      for (i64 i = warp; i < chunks; i += warps) list_walk<true>(s, i);
    }
    step = next_draw_step(step, d.by_share);
    if (step >= end) return;
    grid_sync();
  }
}

template __global__ void draw_pixels<kDrawThreads>(ClassList, u32, int, int);

}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY)
namespace fastuda::cuda {

constexpr int kDrawEnd = kListStep + 3;  // behind the last step

struct DrawProblem {
  PixelBuffer labels;  // (images, pixels)
  int label_bytes;
  u32 images, pixels;
  int classes;
  i64 ignore_index;
  Buffer seed;
  i64 seed_stride, wanted;
  bool by_share;

  int lists() const { return by_share ? 1 : classes; }
  int chunks() const { return static_cast<int>(ceil_div(static_cast<i64>(pixels), static_cast<i64>(kListChunk))); }
};

// Parts of the scratch.
struct DrawScratch {
  struct {
    Buffer prefix, left, bound;
  } first, second;
  Buffer counts, valid, chosen, table;
  i64 bytes;

  DrawScratch(const DrawProblem& p, const Buffer& whole) {
    Scratch scratch{whole};
    const i64 buckets = static_cast<i64>(p.images) * p.classes, tops = p.by_share ? p.images : 0;
    first = {scratch.take(buckets, 4), scratch.take(buckets, 4), scratch.take(buckets, 8)};
    second = {scratch.take(tops, 4), scratch.take(tops, 4), scratch.take(tops, 8)};
    counts = scratch.take(buckets * kDigits, 4);
    valid = scratch.take(p.images, 4);
    chosen = scratch.take(p.images, 4);
    table = scratch.take(static_cast<i64>(p.images) * p.lists() * p.chunks(), 4);
    bytes = scratch.used;
  }
};

// Pixels of a block: several blocks a multiprocessor, but long enough to be worth the counts that each adds at its end.
inline u32 draw_block_pixels(const DrawProblem& p, const Card& card) {
  const i64 each = static_cast<i64>(p.images) * p.pixels / std::max(1, 4 * card.multiprocessors);
  return static_cast<u32>(std::clamp<i64>(each / kDrawThreads * kDrawThreads, 2048, 16384));
}

// Bytes of shared memory of a block: the counts of a first pass, or the sums of a scan.
inline int draw_shared_bytes(const DrawProblem& p) {
  const int buckets = p.classes <= kSharedClasses ? p.classes : p.by_share ? 1 : 0;
  return std::max(buckets * kDigits * static_cast<int>(sizeof(int)), kScanBytes);
}

// Blocks that have something to do in a step, at most `a_multiprocessor`.
inline u32 draw_blocks(const DrawProblem& p, const Card& card, u32 block_pixels, int a_multiprocessor) {
  const i64 images = p.images, parts = images * ceil_div(p.pixels, block_pixels);
  const i64 walks = ceil_div<i64>(images * p.chunks(), kDrawWarps), lists = images * p.lists();
  const i64 most = static_cast<i64>(a_multiprocessor) * std::max(1, card.multiprocessors);
  return static_cast<u32>(std::clamp<i64>(std::max({parts, walks, lists}), 1, most));
}

// resident(kernel, threads, shared_bytes): blocks that a multiprocessor holds of a kernel launched together, or 0.
template <class Resident>
void run_class_draw(
    const DrawProblem& p, const Card& card, const Resident& resident, const Buffer& scratch, Buffer result,
    Stream stream) {
  if (p.images == 0 || p.wanted == 0) return;
  const DrawScratch part(p, scratch);
  const ClassDraw d{
      make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index), {global<const i64>(p.seed), p.seed_stride},
      p.images, p.pixels, p.classes, p.wanted, p.by_share,
      {global<u32>(part.first.prefix), global<int>(part.first.left), global<u64>(part.first.bound)},
      {global<u32>(part.second.prefix), global<int>(part.second.left), global<u64>(part.second.bound)},
      global<int>(part.counts), global<int>(part.valid), global<int>(part.chosen)};
  const ClassList list{d, p.lists(), p.chunks(), global<int>(part.table), global<i64>(result)};
  const auto kernel = draw_pixels<kDrawThreads>;
  const u32 block_pixels = draw_block_pixels(p, card);
  const int bytes = draw_shared_bytes(p), fit = resident(kernel, kDrawThreads, bytes);
  // Four blocks a multiprocessor hide the latency of each other; more would only make the grid's barriers slower.
  const dim3 blocks(draw_blocks(p, card, block_pixels, fit ? std::min(fit, 4) : 8)), block(kDrawThreads);
  if (p.pixels == 0) {
    const int fill = kListStep + 1;
    return launch(kernel, blocks, block, bytes, stream, list, block_pixels, fill, fill + 1);
  }
  if (fit) return launch_cooperative(kernel, blocks, block, bytes, stream, list, block_pixels, 0, kDrawEnd);
  for (int step = 0; step < kDrawEnd; step = next_draw_step(step, p.by_share))
    launch(kernel, blocks, block, bytes, stream, list, block_pixels, step, step + 1);
}

}  // namespace fastuda::cuda
#endif

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

inline void draw_pixels(
    const Tensor& labels, const Tensor& seed, int64_t classes, int64_t wanted, int64_t ignore_index, bool by_share,
    const Tensor& result, const Device& device) {
  DrawProblem p{};
  const i64 column_stride = labels.stride(1);
  p.labels = {buffer(labels), {1, static_cast<u32>(labels.size(1)), labels.stride(0), 0, column_stride}};
  p.label_bytes = label_bytes(labels);
  p.images = static_cast<u32>(small(labels.size(0)));
  p.pixels = static_cast<u32>(small(labels.size(1)));
  p.classes = small(classes);
  p.ignore_index = ignore_index;
  p.seed = buffer(seed);
  p.seed_stride = seed.stride(0);
  p.wanted = small(wanted);
  p.by_share = by_share;
  small(labels.size(0) * classes);
  const Card card = device.card();
  Tensor scratch = torch::stable::new_empty(labels, {DrawScratch(p, {nullptr, 0}).bytes}, ScalarType::Byte);
  const auto resident = [](auto kernel, int threads, int bytes) { return resident_blocks(kernel, threads, bytes); };
  run_class_draw(p, card, resident, buffer(scratch), buffer(result), device.stream());
}

inline void check_draw(const Tensor& labels, const Tensor& seed, int64_t classes, int64_t wanted) {
  label_bytes(labels);
  STD_TORCH_CHECK(labels.dim() == 2, "labels must be (B, P)");
  STD_TORCH_CHECK(labels.numel() < int64_t(1) << 31, "labels must have fewer than 2^31 pixels");
  STD_TORCH_CHECK(
      classes >= 1 && wanted >= 0, "num_classes must be at least 1 and the number of pixels to draw not negative");
  STD_TORCH_CHECK(
      seed.dim() == 1 && seed.size(0) == 2 && seed.scalar_type() == ScalarType::Long && seed.is_cuda(),
      "seed must be two int64 numbers in the card's memory");
}

Tensor class_balanced_sample_cuda(
    const Tensor& labels, const Tensor& seed, int64_t num_classes, int64_t count, int64_t ignore_index) {
  check_draw(labels, seed, num_classes, count);
  const Device device(labels);
  Tensor result = torch::stable::new_empty(labels, {labels.size(0), count}, ScalarType::Long);
  draw_pixels(labels, seed, num_classes, count, ignore_index, true, result, device);
  return result;
}

Tensor sample_per_class_cuda(
    const Tensor& labels, const Tensor& seed, int64_t num_classes, int64_t per_class, int64_t ignore_index) {
  check_draw(labels, seed, num_classes, per_class);
  const Device device(labels);
  Tensor result = torch::stable::new_empty(labels, {labels.size(0), num_classes, per_class}, ScalarType::Long);
  draw_pixels(labels, seed, num_classes, per_class, ignore_index, false, result, device);
  return result;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("class_balanced_sample_cuda", TORCH_BOX(&fastuda::cuda::class_balanced_sample_cuda));
  m.impl("sample_per_class_cuda", TORCH_BOX(&fastuda::cuda::sample_per_class_cuda));
}
#endif
