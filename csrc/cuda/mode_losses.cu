// The mode losses, forward and backward, in fp32 on the plain cores of any card (48 KB of shared memory are enough;
// tensor cores are Triton's).
//
//     D_c = min_m |e - V_cm|^2      triplet = max(0, D_y - min_{c != y} D_c + margin)
//     cross entropy = -log softmax_c(-D_c / (2 sigma^2))_y
//
// Forward: a block owns 128 pixels; a thread sums the squared differences of 4 of them to 16 of a tile of 64 modes (57
// = 3 of 19 classes fill one) in registers, channels pass through shared memory. By differences, two instructions
// where a product has one: nothing cancels, equal modes have equal distances, near-equal ones keep their order as far
// as the reference does, and no second pass has to mend the winners (which would cost 2/3 of what products save). The
// distances then change places in shared memory, and a thread walks over one pixel's modes: nearest of each class,
// hinge, softmax. Modes beyond one tile: the features are read again for each tile, the walk goes on.
//
// Backward: g_c, the slope by D_c, stands at the nearest mode of c in a matrix of pixels x modes that only exists 32 x
// 64 at a time. From one staging of 32 pixels x 64 channels a block makes the slope of the features and its share of
// the modes' slope, which it sums over its run of pixels; mode_merge adds the runs in their order.
//
// Traffic (up to 64 modes): forward reads the features once, writes 5 K + 24 bytes a pixel; backward reads the
// features once, those bytes channels / 64 times, and writes the slope once. Scratch: backward, runs x modes x
// channels sums. Deterministic: no atomics. Untuned, as no GPU was at hand: tiles, pixels of a run, wider loads.
#include "cuda/mode_losses_backward_kernel.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/mode_losses_forward_kernel.h"
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

#define FASTUDA_MODES(T)                                        \
  template __global__ void mode_forward<T>(ModeForward<T>);     \
  template __global__ void mode_backward<T>(ModeBackward<T>);
FASTUDA_MODES(float)
FASTUDA_MODES(Half)
FASTUDA_MODES(BFloat16)
FASTUDA_MODES(double)
template __global__ void mode_merge<float>(ModeMerge<float>);
template __global__ void mode_merge<double>(ModeMerge<double>);

#if !defined(FASTUDA_KERNELS_ONLY)

struct ModeProblem {
  Type type;
  PixelBuffer features, labels;
  i64 channel_stride, ignore_index;
  int label_bytes, channels, classes, per_class;
  u32 pixels;
  Buffer modes;
  bool double_modes;
  i64 mode_strides[3];

  Modes view() const {
    return {global<const float>(modes), global<const double>(modes), double_modes, mode_strides[0], mode_strides[1],
            mode_strides[2], per_class, classes * per_class};
  }
};

struct ModeResults {
  Buffer triplet, cross_entropy, own_mode, rival, weight, nearest;
};

inline void run_mode_forward(
    const ModeProblem& p, double sigma2, double margin, bool square, const ModeResults& to, Stream stream) {
  if (p.pixels == 0) return;
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const ModeForward<T> f{
        global<const T>(p.features.buffer), p.features.grid, p.channel_stride,
        make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index), p.view(), p.pixels, p.channels, square,
        static_cast<Acc>(2 * sigma2), static_cast<Acc>(margin), global<Acc>(to.triplet), global<Acc>(to.cross_entropy),
        global<Acc>(to.weight), global<i64>(to.own_mode), global<i64>(to.rival), global<u8>(to.nearest)};
    const dim3 grid(ceil_div<u32>(p.pixels, kModePixels));
    launch(mode_forward<T>, grid, dim3(kModeThreads), ModeTile<Acc>::bytes, stream, f);
  });
}

struct ModePlan {
  int slices, tiles, runs;
  u32 run;  // pixels
  i64 partials;
};

inline ModePlan plan_mode_backward(const ModeProblem& p, const Card& card) {
  const int edge = p.type == Type::float64 ? kModeEdge<double> : kModeEdge<float>;
  ModePlan plan{};
  plan.slices = ceil_div(p.channels, edge);
  plan.tiles = ceil_div(p.classes * p.per_class, edge);
  const u32 step = static_cast<u32>(edge / 2), steps = ceil_div(p.pixels, step);
  const int wanted = std::max(1, ceil_div(4 * card.multiprocessors, std::max(1, plan.slices * plan.tiles)));
  plan.run = ceil_div(steps, std::max(1u, std::min(steps, static_cast<u32>(wanted)))) * step;
  plan.runs = p.pixels == 0 || p.channels == 0 ? 0 : static_cast<int>(ceil_div(p.pixels, plan.run));
  plan.partials = static_cast<i64>(plan.runs) * p.classes * p.per_class * p.channels;
  return plan;
}

struct ModeGradients {
  PixelBuffer triplet, cross_entropy;
};

inline void run_mode_backward(
    const ModeProblem& p, const ModePlan& plan, const ModeGradients& grads, const ModeResults& from,
    const PixelBuffer& slope, i64 slope_channel_stride, Buffer partials, Buffer modes_slope, Stream stream) {
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const ModeBackward<T> b{
        global<const T>(p.features.buffer), p.features.grid, p.channel_stride,
        make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index), p.view(), p.pixels, plan.run, p.channels,
        plan.slices, plan.tiles, plan.runs, global<const Acc>(grads.triplet.buffer),
        global<const Acc>(grads.cross_entropy.buffer), grads.triplet.grid, grads.cross_entropy.grid,
        global<const Acc>(from.triplet), global<const Acc>(from.weight), global<const i64>(from.rival),
        global<const u8>(from.nearest), global<T>(slope.buffer), slope.grid, slope_channel_stride,
        global<Acc>(partials)};
    if (plan.runs) {
      const dim3 grid(static_cast<u32>(plan.slices) * plan.runs * plan.tiles);
      launch(mode_backward<T>, grid, dim3(kModeSlopeThreads<Acc>), ModeSlopeTile<Acc>::bytes, stream, b);
    }
    const ModeMerge<Acc> merge{
        b.partials, global<Acc>(modes_slope), plan.runs, static_cast<i64>(p.classes) * p.per_class * p.channels};
    if (merge.size == 0) return;
    const dim3 grid(static_cast<u32>(ceil_div<i64>(merge.size, kModeMergeThreads)));
    launch(mode_merge<Acc>, grid, dim3(kModeMergeThreads), 0, stream, merge);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

inline ModeProblem mode_problem(
    const Tensor& features, const Tensor& labels, const Tensor& modes, int64_t ignore_index) {
  STD_TORCH_CHECK(features.dim() == 4 && labels.dim() == 3, "features must be (N, d, H, W) and labels (N, H, W)");
  STD_TORCH_CHECK(
      modes.dim() == 3 && modes.size(2) == features.size(1) && modes.size(1) <= 256, "modes must be (K, M <= 256, d)");
  const bool wide = is_double(modes, "modes");
  small(modes.size(0) * modes.size(1));
  return {
      feature_type(features), pixel_buffer(features, true), pixel_buffer(labels, false), features.stride(1),
      ignore_index, label_bytes(labels), small(features.size(1)), small(modes.size(0)), small(modes.size(1)),
      pixel_count(features, labels), buffer(modes), wide,
      {modes.stride(0), modes.stride(1), modes.stride(2)}};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mode_losses_forward_cuda(
    const Tensor& features, const Tensor& labels, const Tensor& modes, double sigma2, double margin, bool square,
    int64_t ignore_index) {
  const Device device(features);
  const ModeProblem p = mode_problem(features, labels, modes, ignore_index);
  const ScalarType type = statistic_type(p.type);
  const int64_t n = labels.size(0), h = labels.size(1), w = labels.size(2);
  Tensor triplet = torch::stable::new_empty(features, {n, h, w}, type);
  Tensor cross_entropy = torch::stable::new_empty(features, {n, h, w}, type);
  Tensor own_mode = torch::stable::new_empty(features, {n, h, w}, ScalarType::Long);
  Tensor rival = torch::stable::new_empty(features, {n, h, w}, ScalarType::Long);
  Tensor weight = torch::stable::new_empty(features, {n, h, w, p.classes}, type);
  Tensor nearest = torch::stable::new_empty(features, {n, h, w, p.classes}, ScalarType::Byte);
  const ModeResults to{buffer(triplet), buffer(cross_entropy), buffer(own_mode),
                       buffer(rival),   buffer(weight),        buffer(nearest)};
  run_mode_forward(p, sigma2, margin, square, to, device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {triplet, cross_entropy, own_mode, rival, weight, nearest};
}

std::tuple<Tensor, Tensor> mode_losses_backward_cuda(
    const Tensor& grad_triplet, const Tensor& grad_cross_entropy, const Tensor& features, const Tensor& labels,
    const Tensor& modes, const Tensor& triplet, const Tensor& rival, const Tensor& weight, const Tensor& nearest,
    int64_t ignore_index) {
  const Device device(features);
  const ModeProblem p = mode_problem(features, labels, modes, ignore_index);
  const ScalarType type = statistic_type(p.type);
  for (const Tensor* t : {&grad_triplet, &grad_cross_entropy, &triplet, &weight})
    STD_TORCH_CHECK(t->scalar_type() == type, "gradients and saved results must have the dtype of the losses");
  for (const Tensor* t : {&triplet, &rival, &weight, &nearest})
    STD_TORCH_CHECK(t->is_contiguous(), "saved results must be contiguous, as forward returns them");
  STD_TORCH_CHECK(rival.scalar_type() == ScalarType::Long, "rival must be int64, as forward returns it");
  const ModePlan plan = plan_mode_backward(p, device.card());
  Tensor slope = torch::stable::empty_like(features);
  Tensor modes_slope = torch::stable::new_empty(features, {p.classes, p.per_class, p.channels}, type);
  Tensor partials = torch::stable::new_empty(features, {plan.partials}, type);
  const ModeGradients grads{pixel_buffer(grad_triplet, false), pixel_buffer(grad_cross_entropy, false)};
  const ModeResults from{buffer(triplet), {nullptr, 0}, {nullptr, 0}, buffer(rival), buffer(weight), buffer(nearest)};
  run_mode_backward(
      p, plan, grads, from, pixel_buffer(slope, true), slope.stride(1), buffer(partials), buffer(modes_slope),
      device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {slope, modes_slope};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("mode_losses_forward_cuda", TORCH_BOX(&fastuda::cuda::mode_losses_forward_cuda));
  m.impl("mode_losses_backward_cuda", TORCH_BOX(&fastuda::cuda::mode_losses_backward_cuda));
}
#endif
