// Sinkhorn-Knopp for a fixed number of rounds, in one cooperative launch of which only the K scalings of the classes
// iterate:
//
//     s_i = sum_k E_ik v_k,  u_i = 1 / s_i,  c_k = sum_i E_ik u_i,  v_k = r_k / c_k,  E_ik = exp((S_ik - top_i) / eps)
//
// The first c_k has u_i = exp((top_i - top_0) / eps): that is the formula's own first step; a common factor changes
// nothing.
//
// A row is shared by 4 lanes of 5 classes (K <= 20) or by a warp (32 lanes, up to 8 classes each), a block has 512
// threads and a run of rows. The first rows of a group of lanes - 4 or 8 of few classes, 2 of many - keep their E in
// registers from the first round to the last; others are computed again from the scores, which L2 holds. Columns are
// summed by a lane over its rows with compensation, then over lanes, warps and blocks in fixed orders: every block
// writes its K sums, all meet, every block adds all blocks' sums in double. One meeting a round; two buffers of sums
// in turn.
//
// Exponents are formed with two floats: 2^-22 relative, whatever the spread. Beyond (max - min) / eps = 60, for double
// and for more than 256 classes the same rounds run on logarithms in double; each problem decides that on the device,
// from extremes that come with the first sums. If one problem of a launch is wide, all meet once more.
//
// Without cooperative launches (a card or a driver may lack them) one launch a round does the same, to the same bits.
// A problem that one block holds needs no other block, so that many small problems are one ordinary launch.
//
// Traffic: the scores once (held) or once a round, the current rows written once. Scratch: 32 K bytes a block.
// Untuned, as no GPU was at hand: slots, threads, blocks a multiprocessor.
#include "cuda/launch_cooperative.h"
#include "cuda/sinkhorn_rounds.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

// One block's way through all rounds, its rows kept; blocks of a problem meet after each.
template <class Acc, int kLanes, int kOwn, int kSlots>
__global__ void __launch_bounds__(kSinkhornThreads, 1) sinkhorn_rounds(Sinkhorn<Acc> s) {
  SinkhornBlock<Acc, kLanes, kOwn, kSlots> block(s);
  const auto meet = [&] {
    if (s.blocks == 1) __syncthreads();
    else grid_sync();
  };
  const int last = (s.iterations - 1) % 2, first_row = s.rows - s.current;
  bool wide = true;
  if constexpr (block.kNarrow) {
    if (!s.always_wide) {
      bool any;
      block.first_narrow_pass();
      meet();
      wide = block.look_at_spreads(any);
      if (any && !wide) meet();
    }
    if (!wide) {
#pragma unroll 1
      for (int round = 1; round < s.iterations; ++round) {
        block.narrow_scale((round - 1) % 2);
        block.narrow_pass(round % 2);
        meet();
      }
      block.narrow_scale(last);
      return block.narrow_rows(first_row);
    }
  }
  block.wide_pass(true, 0);
  meet();
#pragma unroll 1
  for (int round = 1; round < s.iterations; ++round) {
    block.wide_scale((round - 1) % 2);
    block.wide_pass(false, round % 2);
    meet();
  }
  block.wide_scale(last);
  block.wide_rows(first_row);
}

// The same in steps, a launch each: -1 the first sums, 0 those of wide problems, then the rounds; the last one writes.
template <class Acc, int kLanes, int kOwn>
__global__ void __launch_bounds__(kSinkhornThreads, 1) sinkhorn_step(Sinkhorn<Acc> s, int step) {
  SinkhornBlock<Acc, kLanes, kOwn, 0> block(s);
  const int first_row = s.rows - s.current;
  if constexpr (block.kNarrow) {
    if (step < 0) return block.first_narrow_pass();
    bool any;
    if (!s.always_wide && !block.look_at_spreads(any)) {
      if (step == 0) return;
      block.narrow_scale((step - 1) % 2);
      if (step < s.iterations) block.narrow_pass(step % 2);
      else block.narrow_rows(first_row);
      return;
    }
  }
  if (step > 0) block.wide_scale((step - 1) % 2);
  if (step < s.iterations) block.wide_pass(step == 0, step % 2);
  else block.wide_rows(first_row);
}

#define FASTUDA_SINKHORN(Acc, kFew, kMany)                                       \
  template __global__ void sinkhorn_rounds<Acc, 4, 5, kFew>(Sinkhorn<Acc>);      \
  template __global__ void sinkhorn_rounds<Acc, 32, 8, kMany>(Sinkhorn<Acc>);    \
  template __global__ void sinkhorn_step<Acc, 4, 5>(Sinkhorn<Acc>, int);         \
  template __global__ void sinkhorn_step<Acc, 32, 8>(Sinkhorn<Acc>, int);
FASTUDA_SINKHORN(float, 4, 2)
FASTUDA_SINKHORN(double, 0, 0)
template __global__ void sinkhorn_rounds<float, 4, 5, 8>(Sinkhorn<float>);

#if !defined(FASTUDA_KERNELS_ONLY)

struct SinkhornProblem {
  Type type;
  Buffer scores, shares;  // (problems, rows, classes), (problems, classes)
  i64 problem_stride, row_stride, class_stride, share_problem_stride, share_class_stride;
  bool double_shares;
  double epsilon;
  int problems, rows, classes, current, iterations;

  bool few_classes() const { return classes <= 20; }
  double scale() const { return 1.4426950408889634 / epsilon; }
  bool always_wide() const { return type == Type::float64 || classes > 256 || !(scale() < 1e30); }
};

struct SinkhornPlan {
  int slots, blocks, block_rows, shared_bytes;
  i64 partials, spreads;  // elements of scratch: double, float
};

// resident(slots, shared_bytes): blocks of the kernel that one multiprocessor holds.
template <class Resident>
SinkhornPlan plan_sinkhorn(const SinkhornProblem& p, const Card& card, const Resident& resident) {
  const int groups = kSinkhornThreads / (p.few_classes() ? 4 : 32);
  const i64 bytes =
      p.few_classes() ? SinkhornShared<20>::bytes(p.classes) : SinkhornShared<256>::bytes(p.classes);
  SinkhornPlan plan{};
  plan.shared_bytes = static_cast<int>(bytes < 0x7fffffff ? bytes : 0x7fffffff);
  const bool narrow = p.type != Type::float64;
  const int least = !narrow ? 1 : p.few_classes() ? 4 : 2;  // rows of a group of lanes before another block helps
  // One block a multiprocessor at most: each reads the sums of all.
  const auto cut = [&](int slots) {
    const int most = std::max(1, card.multiprocessors * std::min(1, resident(slots, plan.shared_bytes)) / p.problems);
    plan.slots = slots;
    plan.blocks = std::min(ceil_div(p.rows, groups * least), most);
    plan.block_rows = ceil_div(ceil_div(p.rows, plan.blocks), groups) * groups;
    plan.blocks = ceil_div(p.rows, plan.block_rows);
  };
  cut(narrow ? least : 0);
  if (narrow && p.few_classes() && plan.block_rows > 4 * groups) cut(8);
  plan.partials = i64(4) * p.problems * plan.blocks * p.classes;
  plan.spreads = i64(2) * p.problems * plan.blocks;
  return plan;
}

template <class Acc>
auto rounds_kernel(bool few_classes, int slots) {
  if constexpr (sizeof(Acc) == 8) {
    return few_classes ? sinkhorn_rounds<Acc, 4, 5, 0> : sinkhorn_rounds<Acc, 32, 8, 0>;
  } else {
    if (!few_classes) return sinkhorn_rounds<Acc, 32, 8, 2>;
    return slots == 8 ? sinkhorn_rounds<Acc, 4, 5, 8> : sinkhorn_rounds<Acc, 4, 5, 4>;
  }
}

// Calls run(double()) or run(float()).
template <class Run>
void with_sum_type(Type type, const Run& run) {
  if (type == Type::float64) return run(double());
  run(float());
}

// together: the card has cooperative launches; else there is a launch for every step.
inline void run_sinkhorn(
    const SinkhornProblem& p, const SinkhornPlan& plan, bool together, Buffer partials, Buffer spreads, Buffer result,
    Stream stream) {
  if (p.problems == 0 || p.current == 0) return;
  with_sum_type(p.type, [&](auto value) {
    using Acc = decltype(value);
    const float scale = static_cast<float>(p.scale());
    const Sinkhorn<Acc> s{
        global<const float>(p.scores), global<const Half>(p.scores), global<const BFloat16>(p.scores),
        global<const double>(p.scores), static_cast<int>(p.type), p.problem_stride, p.row_stride, p.class_stride,
        global<const float>(p.shares), global<const double>(p.shares), p.double_shares, p.share_problem_stride,
        p.share_class_stride, global<Acc>(result), global<double>(partials), global<float>(spreads), p.epsilon, scale,
        static_cast<float>(p.scale() - scale), p.problems, p.rows, p.classes, p.current, p.iterations, plan.blocks,
        plan.block_rows, p.always_wide()};
    const dim3 grid(static_cast<u32>(plan.blocks) * p.problems), block(kSinkhornThreads);
    const auto kernel = rounds_kernel<Acc>(p.few_classes(), plan.slots);
    if (plan.blocks == 1) {
      launch(kernel, grid, block, plan.shared_bytes, stream, s);
    } else if (together) {
      launch_cooperative(kernel, grid, block, plan.shared_bytes, stream, s);
    } else {
      const auto step_kernel = p.few_classes() ? sinkhorn_step<Acc, 4, 5> : sinkhorn_step<Acc, 32, 8>;
      for (int step = s.always_wide ? 0 : -1; step <= p.iterations; ++step)
        launch(step_kernel, grid, block, plan.shared_bytes, stream, s, step);
    }
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

// Blocks of the kernel that a multiprocessor of the current card holds.
inline int resident_blocks(const SinkhornProblem& p, int slots, int shared_bytes) {
  int blocks = 0;
  with_sum_type(p.type, [&](auto value) {
    const void* kernel = reinterpret_cast<const void*>(rounds_kernel<decltype(value)>(p.few_classes(), slots));
    if (shared_bytes > 48 * 1024)
      STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
    STD_CUDA_CHECK(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kSinkhornThreads, shared_bytes));
  });
  return blocks;
}

Tensor sinkhorn_cuda(
    const Tensor& scores, const Tensor& marginal, double epsilon, int64_t iterations, int64_t current) {
  STD_TORCH_CHECK(scores.dim() == 3 && marginal.dim() == 2, "scores must be (B, N, K) and marginal (B, K)");
  const bool double_shares = is_double(marginal, "marginal");
  const Device device(scores);
  const SinkhornProblem p{
      feature_type(scores), buffer(scores), buffer(marginal), scores.stride(0), scores.stride(1), scores.stride(2),
      marginal.stride(0), marginal.stride(1), double_shares, epsilon, small(scores.size(0)),
      small(scores.size(1)), small(scores.size(2)), small(current), small(iterations)};
  Tensor result = torch::stable::new_empty(scores, {p.problems, p.current, p.classes}, statistic_type(p.type));
  if (p.problems == 0 || p.current == 0) return result;
  const Card card = device.card();
  int index = 0, together = 0;
  STD_CUDA_CHECK(cudaGetDevice(&index));
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, index));
  const auto resident = [&](int slots, int bytes) {
    STD_TORCH_CHECK(bytes <= card.shared_limit, "sinkhorn: too many classes for the shared memory of this card");
    return resident_blocks(p, slots, bytes);
  };
  const SinkhornPlan plan = plan_sinkhorn(p, card, resident);
  Tensor partials = torch::stable::new_empty(scores, {plan.partials}, ScalarType::Double);
  Tensor spreads = torch::stable::new_empty(scores, {plan.spreads}, ScalarType::Float);
  run_sinkhorn(p, plan, together != 0, buffer(partials), buffer(spreads), buffer(result), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return result;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("sinkhorn_cuda", TORCH_BOX(&fastuda::cuda::sinkhorn_cuda));
}
#endif
