// The contrastive bound with a covariance matrix for each class, forward and backward, in fp32 on the plain cores of
// any card (48 KB of shared memory are enough; tensor cores are Triton's).
//
//     a_k = q.mu_k / tau + q^T S_k q        S_k = Sigma_k / (2 tau^2), over its Frobenius norm where asked for
//     d loss / d q = sum_k (p_k - [k = y]) mu_k / tau + 2 sum_k p_k S_k q
//
// The pixels come in groups. bound_gather copies a group's features to scratch, in fp32, pixels side by side, so that
// one loop serves all layouts and dtypes. bound_quadratic: a block makes S_k q of 128 pixels and 128 channels after the
// other (outer_tile.h; 64 where fewer are wasted, and for float64), multiplies by q and adds; of the symmetric matrix
// it reads the lower triangle only. bound_slope: a block adds all classes in one square of registers, as the pixels are
// scaled by p_k on their way into shared memory. Means, norms, softmax and the part of the gradient along q are
// contrastive_bound.cu's, which takes the two results as they are: nothing of pixels x classes x channels exists.
//
// Traffic: the features classes x channels / 256 times forward, classes x channels / 128 times backward, mostly from
// cache. Scratch: at most max(64 MiB, 128 pixels) of groups: 4 bytes for each pixel and channel of a group, backward 8.
// Deterministic: no atomics. Untuned, as no GPU was at hand: squares, size of groups, order of the blocks.
#include "cuda/contrastive_bound_full_kernels.h"
#include "cuda/contrastive_bound_problem.h"

namespace fastuda::cuda {

#define FASTUDA_MATRIX(Acc, kEdge)                                          \
  template __global__ void bound_quadratic<Acc, kEdge>(MatrixProduct<Acc>); \
  template __global__ void bound_slope<Acc, kEdge>(MatrixProduct<Acc>);
FASTUDA_MATRIX(float, 4)
FASTUDA_MATRIX(float, 8)
FASTUDA_MATRIX(double, 4)
template __global__ void bound_squares<float>(Scales<float>);
template __global__ void bound_squares<double>(Scales<double>);
template __global__ void bound_scales<float>(Scales<float>);
template __global__ void bound_scales<double>(Scales<double>);
template __global__ void bound_gather<float>(Gather<float>);
template __global__ void bound_gather<Half>(Gather<Half>);
template __global__ void bound_gather<BFloat16>(Gather<BFloat16>);
template __global__ void bound_gather<double>(Gather<double>);

#if !defined(FASTUDA_KERNELS_ONLY)

constexpr i64 kGroupBytes = i64(64) << 20;
constexpr int kMostParts = 64;

struct MatrixBuffer {
  Buffer buffer;
  bool wide;  // double
  i64 class_stride, row_stride, column_stride;

  Matrices view() const {
    return {global<const float>(buffer), global<const double>(buffer), wide, class_stride, row_stride, column_stride};
  }
};

// How a problem is cut, and the parts of its scratch.
struct MatrixPlan {
  int edge, width, rows, parts;  // rows: channels up to whole squares
  i64 group;                     // pixels of a group, whole squares
  Buffer statistics, squares, scales, q, slope;
  i64 bytes;

  MatrixPlan(const BoundProblem& p, bool backward, const Buffer& whole, i64 group_bytes) {
    // Up to 192 channels narrow squares waste so much less that their slower loop is made up for.
    edge = p.type == Type::float64 || p.channels <= 192 ? 4 : 8;
    width = kTileSide * edge;
    rows = ceil_div(p.channels, width) * width;
    parts = p.normalize ? std::clamp(p.channels / 16, 1, kMostParts) : 0;
    const i64 size = p.size_of_sum(), each = std::max<i64>(1, (backward ? 2 : 1) * rows * size * width);
    const i64 squares_of_pixels = ceil_div<i64>(p.pixels, width);
    group = width * std::clamp<i64>(group_bytes / each, 1, std::max<i64>(1, squares_of_pixels));
    Scratch scratch{whole};
    statistics = scratch.take(p.scratch(), 1);
    squares = scratch.take(static_cast<i64>(p.classes) * parts, size);
    scales = scratch.take(p.classes, size);
    q = scratch.take(group * rows, size);
    slope = scratch.take(backward ? group * rows : 0, size);
    bytes = scratch.used;
  }
};

// Scratch is all that it needs, for forward or for backward.
inline i64 full_scratch(const BoundProblem& p, bool backward, i64 group_bytes = kGroupBytes) {
  return MatrixPlan(p, backward, {nullptr, 0}, group_bytes).bytes;
}

template <class Acc>
Pointer<const Acc> prepare_scales(
    const BoundProblem& p, const MatrixBuffer& covariance, const MatrixPlan& plan, Stream stream) {
  const Scales<Acc> scales{
      covariance.view(), p.channels, p.classes, plan.parts, static_cast<Acc>(p.temperature),
      global<Acc>(plan.squares), global<Acc>(plan.scales)};
  if (plan.parts)
    launch(
        bound_squares<Acc>, dim3(p.classes * plan.parts), dim3(kPrepareThreads), kPrepareThreads * int(sizeof(Acc)),
        stream, scales);
  launch(bound_scales<Acc>, dim3(ceil_div(p.classes, kPrepareThreads)), dim3(kPrepareThreads), 0, stream, scales);
  return scales.scales;
}

// Calls run(product, begin, end) for every group of pixels, whose features are gathered by then.
template <class T, class Run>
void each_group(
    const BoundProblem& p, const MatrixBuffer& covariance, const MatrixPlan& plan, const Buffer& posterior,
    Stream stream, const Run& run) {
  using Acc = Accumulate<T>;
  const Pointer<Acc> q = global<Acc>(plan.q);
  const Pointer<const Acc> scales = prepare_scales<Acc>(p, covariance, plan, stream);
  for (i64 begin = 0; begin < p.pixels; begin += plan.group) {
    const u32 end = static_cast<u32>(std::min<i64>(p.pixels, begin + plan.group));
    const int pixels = static_cast<int>(end - begin), squares = ceil_div(pixels, plan.width);
    const Gather<T> gather{
        global<const T>(p.features.buffer), p.features.grid, p.channel_stride, static_cast<u32>(begin), end,
        p.channels, squares * plan.width / kGatherSide, q, plan.group};
    const dim3 blocks(gather.blocks * (plan.rows / kGatherSide)), block(kGatherSide, kGatherRows);
    constexpr int bytes = kGatherSide * (kGatherSide + 1) * static_cast<int>(sizeof(Acc));
    if (p.channels) launch(bound_gather<T>, blocks, block, bytes, stream, gather);
    const Pointer<const Acc> weights = global<const Acc>(posterior) + begin * p.classes;
    run(MatrixProduct<Acc>{
            covariance.view(), p.channels, p.classes, pixels, squares, q, plan.group, scales, weights, nullptr},
        static_cast<u32>(begin), end);
  }
}

inline void run_bound_full_forward(
    const BoundProblem& p, const MatrixBuffer& covariance, const Buffer& scratch, Buffer loss, Buffer posterior,
    Stream stream, i64 group_bytes = kGroupBytes) {
  if (p.pixels == 0) return;
  const MatrixPlan plan(p, false, scratch, group_bytes);
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const Pointer<Acc> to = global<Acc>(posterior);
    each_group<T>(p, covariance, plan, posterior, stream, [&](MatrixProduct<Acc> product, u32 begin, u32) {
      product.to = to + static_cast<i64>(begin) * p.classes;
      const auto kernel = plan.edge == 4 ? bound_quadratic<Acc, 4> : bound_quadratic<Acc, kWideEdge<Acc>>;
      const int bytes = plan.edge == 4 ? OuterTile<Acc, 4>::bytes : OuterTile<Acc, kWideEdge<Acc>>::bytes;
      launch(kernel, dim3(product.blocks * p.classes), dim3(kTileThreads), bytes, stream, product);
    });
  });
  run_bound_forward(p, plan.statistics, true, loss, posterior, stream);
}

inline void run_bound_full_backward(
    const BoundProblem& p, const MatrixBuffer& covariance, const Buffer& scratch, const PixelBuffer& grad,
    Buffer posterior, const PixelBuffer& slope, i64 slope_channel_stride, Stream stream,
    i64 group_bytes = kGroupBytes) {
  if (p.pixels == 0 || p.channels == 0) return;
  const MatrixPlan plan(p, true, scratch, group_bytes);
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const Pointer<Acc> to = global<Acc>(plan.slope);
    each_group<T>(p, covariance, plan, posterior, stream, [&](MatrixProduct<Acc> product, u32 begin, u32 end) {
      product.to = to;
      const auto kernel = plan.edge == 4 ? bound_slope<Acc, 4> : bound_slope<Acc, kWideEdge<Acc>>;
      const int bytes = plan.edge == 4 ? OuterTile<Acc, 4>::bytes : OuterTile<Acc, kWideEdge<Acc>>::bytes;
      const dim3 blocks(product.blocks * (plan.rows / plan.width));
      launch(kernel, blocks, dim3(kTileThreads), bytes, stream, product);
      run_bound_backward(
          p, plan.statistics, {plan.slope, plan.group, begin, end}, grad, posterior, slope, slope_channel_stride,
          stream);
    });
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

MatrixBuffer matrices(const BoundProblem& p, const std::optional<Tensor>& covariance) {
  STD_TORCH_CHECK(
      covariance && covariance->dim() == 3 && covariance->size(0) == p.classes && covariance->size(1) == p.channels &&
          covariance->size(2) == p.channels,
      "covariance must be (K, A, A)");
  const Tensor& t = *covariance;
  return {buffer(t), is_double(t, "a statistic"), t.stride(0), t.stride(1), t.stride(2)};
}

std::tuple<Tensor, Tensor> contrastive_bound_full_forward_cuda(
    const Tensor& features, const Tensor& labels, const Tensor& mean, std::optional<Tensor> covariance,
    double temperature, bool normalize, int64_t ignore_index) {
  const Device device(features);
  const BoundProblem p = bound_problem(features, labels, mean, std::nullopt, temperature, normalize, ignore_index);
  const MatrixBuffer sigma = matrices(p, covariance);
  Tensor scratch = torch::stable::new_empty(features, {full_scratch(p, false)}, ScalarType::Byte);
  auto [loss, posterior] = new_loss(p, features, labels);
  run_bound_full_forward(p, sigma, buffer(scratch), buffer(loss), buffer(posterior), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {loss, posterior};
}

Tensor contrastive_bound_full_backward_cuda(
    const Tensor& grad, const Tensor& features, const Tensor& labels, const Tensor& mean,
    std::optional<Tensor> covariance, const Tensor& posterior, double temperature, bool normalize,
    int64_t ignore_index) {
  const Device device(features);
  const BoundProblem p = bound_problem(features, labels, mean, std::nullopt, temperature, normalize, ignore_index);
  const MatrixBuffer sigma = matrices(p, covariance);
  check_gradient(p, grad, posterior);
  Tensor scratch = torch::stable::new_empty(features, {full_scratch(p, true)}, ScalarType::Byte);
  Tensor slope = torch::stable::empty_like(features);
  run_bound_full_backward(
      p, sigma, buffer(scratch), pixel_buffer(grad, false), buffer(posterior), pixel_buffer(slope, true),
      slope.stride(1), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return slope;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("contrastive_bound_full_forward_cuda", TORCH_BOX(&fastuda::cuda::contrastive_bound_full_forward_cuda));
  m.impl("contrastive_bound_full_backward_cuda", TORCH_BOX(&fastuda::cuda::contrastive_bound_full_backward_cuda));
}
#endif
