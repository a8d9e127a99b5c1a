// Pixels drawn by class on a GPU: the definition's pixels, bit for bit, without sorting an image (class_balanced_sample_draw.h), in
// rising order (class_balanced_sample_list.h). Nothing depends on the card or the schedule, and the host waits for nothing.
//
// One cooperative launch, whose blocks meet between the 13 steps of sample_per_class and the 22 of
// class_balanced_sample; without cooperative launches (a card or a driver may lack them) each step is a launch, to the
// same pixels. Each step reads the labels at most once and makes their random numbers again. Scratch: 1 KB an image and
// class, and 4 bytes for each 1024 pixels of each list (one an image, or one an image and class). Untuned, as no GPU
// was at hand: bits of a pass, pixels of a block, blocks of a multiprocessor.
#include "cuda/class_balanced_sample_list.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

#if !defined(FASTUDA_KERNELS_ONLY)
namespace fastuda::cuda {

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
  // Four blocks a multiprocessor hide what one waits for; more would only make the meetings longer.
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
