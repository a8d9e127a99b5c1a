// Triplet partners on a GPU: source rows sorted by class and mode (radix_sort.h), then two random places a target row,
// a thread each. Every card draws the partners of the reference.
//
// Launches: 3 + 3 a pass of the sort, of which up to 255 pairs of class and mode need one and up to 65535 two.
// Scratch: 16.5 bytes a source row and 4 a pair of class and mode. Untuned, as no GPU was at hand.
#include "cuda/radix_sort.h"
#include "cuda/random_draws.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

constexpr int kPartnerThreads = 256;

struct PartnerRows {
  Pointer<const i64> label, mode;
  i64 label_stride, mode_stride;
  u32 rows;
  int classes, modes;

  // class x M + mode, or K x M for rows that take no part.
  __device__ __forceinline__ u32 bucket(u32 i) const {
    const i64 k = label[i * label_stride], m = mode[i * mode_stride];
    const bool inside = k >= 0 && k < classes && m >= 0 && m < modes;
    return static_cast<u32>(inside ? k * modes + m : static_cast<i64>(classes) * modes);
  }
};

struct PartnerDraw {
  PartnerRows target;
  Seed seed;
  Pointer<u32> order;   // source rows by bucket and number
  Pointer<int> starts;  // (buckets + 1): first place of each bucket in `order`
  Pointer<i64> positive, negative;
  Pointer<u8> valid;
};

template <int kThreads>
__global__ void __launch_bounds__(kThreads) partner_buckets(PartnerRows source, Pointer<u32> keys) {
  const u32 i = blockIdx.x * static_cast<u32>(kThreads) + threadIdx.x;
  if (i < source.rows) keys[i] = source.bucket(i);
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) partner_draw(PartnerDraw d) {
  const u32 i = blockIdx.x * static_cast<u32>(kThreads) + threadIdx.x;
  if (i >= d.target.rows) return;
  const int modes = d.target.modes, buckets = d.target.classes * modes;
  const int bucket = static_cast<int>(d.target.bucket(i));
  i64 positive = 0, negative = 0;
  bool valid = false;
  if (bucket < buckets) {
    const int first = d.starts[bucket], own = d.starts[bucket + 1] - first;
    const int class_bucket = bucket - bucket % modes, class_first = d.starts[class_bucket];
    const int class_rows = d.starts[class_bucket + modes] - class_first;
    const int others = d.starts[buckets] - class_rows;
    if (own > 0 && others > 0) {
      const RandomBits random = random_bits(d.seed);
      const int other = static_cast<int>(below(random.of(i, 1), static_cast<u32>(others)));
      valid = true;
      positive = d.order[first + static_cast<int>(below(random.of(i, 0), static_cast<u32>(own)))];
      negative = d.order[other < class_first ? other : other + class_rows];
    }
  }
  d.positive[i] = positive;
  d.negative[i] = negative;
  d.valid[i] = valid;
}

template __global__ void partner_buckets<kPartnerThreads>(PartnerRows, Pointer<u32>);
template __global__ void partner_draw<kPartnerThreads>(PartnerDraw);

#if !defined(FASTUDA_KERNELS_ONLY)

// Labels and modes of the rows as they lie in memory.
struct PartnerLabels {
  Buffer label, mode;
  i64 label_stride, mode_stride;
  u32 rows;
};

struct PartnerProblem {
  PartnerLabels source, target;
  Buffer seed;
  i64 seed_stride;
  int classes, modes;

  PartnerRows of(const PartnerLabels& at) const {
    return {
        global<const i64>(at.label), global<const i64>(at.mode), at.label_stride, at.mode_stride, at.rows, classes,
        modes};
  }
  u32 buckets() const { return static_cast<u32>(classes) * static_cast<u32>(modes); }
};

// Bytes of scratch.
inline i64 partner_scratch(const PartnerProblem& p) {
  Scratch scratch{{nullptr, 0}};
  const RadixSort sort(p.source.rows, p.buckets(), scratch);
  return scratch.used;
}

inline void run_select_triplets(
    const PartnerProblem& p, const Buffer& whole, Buffer positive, Buffer negative, Buffer valid, Stream stream) {
  if (p.target.rows == 0) return;
  Scratch scratch{whole};
  const RadixSort sort(p.source.rows, p.buckets(), scratch);
  const dim3 block(kPartnerThreads);
  const auto blocks = [](u32 rows) { return dim3(static_cast<u32>(ceil_div<i64>(rows, kPartnerThreads))); };
  if (p.source.rows)
    launch(partner_buckets<kPartnerThreads>, blocks(p.source.rows), block, 0, stream, p.of(p.source), sort.keys[0]);
  sort.run(stream);
  const PartnerDraw draw{
      p.of(p.target), {global<const i64>(p.seed), p.seed_stride}, sort.sorted_rows(), sort.starts,
      global<i64>(positive), global<i64>(negative), global<u8>(valid)};
  launch(partner_draw<kPartnerThreads>, blocks(p.target.rows), block, 0, stream, draw);
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

inline PartnerLabels partner_labels(const Tensor& label, const Tensor& mode) {
  STD_TORCH_CHECK(
      label.scalar_type() == ScalarType::Long && mode.scalar_type() == ScalarType::Long && label.dim() == 1 &&
          mode.dim() == 1 && label.size(0) == mode.size(0),
      "classes and modes must be int64 vectors of one length");
  return {
      buffer(label), buffer(mode), label.stride(0), mode.stride(0), static_cast<u32>(small(label.size(0)))};
}

std::tuple<Tensor, Tensor, Tensor> select_triplets_cuda(
    const Tensor& source_class, const Tensor& source_mode, const Tensor& target_class, const Tensor& target_mode,
    const Tensor& seed, int64_t num_classes, int64_t num_modes) {
  STD_TORCH_CHECK(num_classes >= 1 && num_modes >= 1, "num_classes and num_modes must be at least 1");
  STD_TORCH_CHECK(
      seed.dim() == 1 && seed.size(0) == 2 && seed.scalar_type() == ScalarType::Long && seed.is_cuda(),
      "seed must be two int64 numbers in the card's memory");
  const Device device(target_class);
  const PartnerProblem p{
      partner_labels(source_class, source_mode), partner_labels(target_class, target_mode), buffer(seed),
      seed.stride(0), small(num_classes), small(num_modes)};
  small(static_cast<int64_t>(p.classes) * p.modes);
  const int64_t rows = p.target.rows;
  Tensor positive = torch::stable::new_empty(target_class, {rows}, ScalarType::Long);
  Tensor negative = torch::stable::new_empty(target_class, {rows}, ScalarType::Long);
  Tensor valid = torch::stable::new_empty(target_class, {rows}, ScalarType::Bool);
  Tensor scratch = torch::stable::new_empty(target_class, {partner_scratch(p)}, ScalarType::Byte);
  run_select_triplets(p, buffer(scratch), buffer(positive), buffer(negative), buffer(valid), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {positive, negative, valid};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("select_triplets_cuda", TORCH_BOX(&fastuda::cuda::select_triplets_cuda));
}
#endif
