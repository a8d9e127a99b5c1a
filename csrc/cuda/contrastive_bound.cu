// The contrastive bound without covariance or with a diagonal one, forward and backward, in fp32 on the plain cores of
// any card (48 KB of shared memory are enough; tensor cores are Triton's).
//
//     a_k = q.mu_k / tau + q^2.Sigma_k / (2 tau^2)         loss = logsumexp_k(a_k) - q.mu_y / tau
//     d loss / d q = sum_k (p_k - [k = y]) mu_k / tau + q sum_k p_k Sigma_k / tau^2
//
// bound_prepare scales the statistics once: M = mu / tau and S = Sigma / (2 tau^2), normalised where asked for.
// bound_forward: a thread owns two pixels and all sums of a tile of classes in registers; channels pass through shared
// memory, norms accumulate beside the products, so that normalisation scales finished logits. Softmax needs no
// exchange. bound_backward: a thread owns 4 pixels x 4 channels and sums over the classes. Normalised, the part along q
// needs all channels first: a sweep that sums q.slope and |q|^2, then one that computes the slope again and writes it
// once.
//
// Traffic: forward reads the features once; backward reads them once (twice normalised) and writes the gradient once.
// Scratch: M and S. Deterministic: no atomics. Untuned, as no GPU was at hand: tile sizes, the uncoalesced writes of
// the posterior (4 K bytes a pixel), overlap of loads and products within a block, quads of NCHW pixels read one by
// one.
#include "cuda/contrastive_bound_backward_kernel.h"
#include "cuda/contrastive_bound_forward_kernel.h"
#include "cuda/contrastive_bound_problem.h"

namespace fastuda::cuda {

#define FASTUDA_BOUND(T, kCovariance)                                        \
  template __global__ void bound_forward<T, kCovariance>(Forward<T>);        \
  template __global__ void bound_backward<T, kCovariance>(Backward<T>);
FASTUDA_BOUND(float, false)
FASTUDA_BOUND(float, true)
FASTUDA_BOUND(Half, false)
FASTUDA_BOUND(Half, true)
FASTUDA_BOUND(BFloat16, false)
FASTUDA_BOUND(BFloat16, true)
FASTUDA_BOUND(double, false)
FASTUDA_BOUND(double, true)
template __global__ void bound_prepare<float>(Prepare<float>);
template __global__ void bound_prepare<double>(Prepare<double>);

#if !defined(FASTUDA_KERNELS_ONLY)

// Prepares the statistics in `scratch` and returns what both kernels read.
template <class T>
Bound<T> prepare_bound(const BoundProblem& p, const Buffer& scratch, Stream stream) {
  using Acc = Accumulate<T>;
  const i64 each = static_cast<i64>(p.channels) * p.padded();
  const Pointer<Acc> means = global<Acc>(scratch);
  const Prepare<Acc> prepare{
      p.mean.view(), p.covariance.view(), p.has_covariance, p.normalize, p.channels, p.classes, p.padded(),
      static_cast<Acc>(p.temperature), means, means + each};
  launch(
      bound_prepare<Acc>, dim3(p.padded()), dim3(kPrepareThreads), kPrepareThreads * int(sizeof(Acc)), stream,
      prepare);
  return {
      global<const T>(p.features.buffer), p.features.grid, p.channel_stride,
      make_labels(p.labels, p.label_bytes, p.classes, p.ignore_index), p.pixels, p.channels, p.padded(), p.normalize,
      prepare.means, prepare.spreads};
}

void run_bound_forward(
    const BoundProblem& p, Buffer scratch, bool given, Buffer loss, Buffer posterior, Stream stream) {
  if (p.pixels == 0) return;
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const Pointer<const Acc> quadratic = global<const Acc>(given ? posterior : Buffer{nullptr, 0});
    const Forward<T> forward{
        prepare_bound<T>(p, scratch, stream), global<Acc>(loss), global<Acc>(posterior), quadratic};
    const auto kernel = p.has_covariance ? bound_forward<T, true> : bound_forward<T, false>;
    const dim3 grid(ceil_div<u32>(p.pixels, kPixels));
    launch(kernel, grid, dim3(kThreads), ForwardTile<Acc>::bytes, stream, forward);
  });
}

void run_bound_backward(
    const BoundProblem& p, Buffer scratch, const GivenSlope& given, const PixelBuffer& grad, Buffer posterior,
    const PixelBuffer& slope, i64 slope_channel_stride, Stream stream) {
  const u32 begin = given.begin, end = given.values.data ? given.end : p.pixels;
  if (begin == end || p.channels == 0) return;
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const int step = std::min(p.classes, kMostClasses<Acc>);
    Bound<T> in = prepare_bound<T>(p, scratch, stream);
    in.pixels = end;
    const Backward<T> backward{
        in, global<const Acc>(grad.buffer), global<const Acc>(posterior), grad.grid,
        global<T>(slope.buffer), slope.grid, slope_channel_stride, step,
        in_quads<T>(p.features, p.channel_stride, p.channels), in_quads<T>(slope, slope_channel_stride, p.channels),
        begin, global<const Acc>(given.values), given.pitch};
    const auto kernel = p.has_covariance ? bound_backward<T, true> : bound_backward<T, false>;
    const int bytes =
        p.has_covariance ? BackwardTile<Acc, true>::bytes(step) : BackwardTile<Acc, false>::bytes(step);
    launch(kernel, dim3(ceil_div<u32>(end - begin, kTile)), dim3(kSlopeThreads), bytes, stream, backward);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor> contrastive_bound_forward_cuda(
    const Tensor& features, const Tensor& labels, const Tensor& mean, std::optional<Tensor> covariance,
    double temperature, bool normalize, int64_t ignore_index) {
  const Device device(features);
  const BoundProblem p = bound_problem(features, labels, mean, covariance, temperature, normalize, ignore_index);
  Tensor scratch = torch::stable::new_empty(features, {p.scratch()}, ScalarType::Byte);
  auto [loss, posterior] = new_loss(p, features, labels);
  run_bound_forward(p, buffer(scratch), false, buffer(loss), buffer(posterior), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {loss, posterior};
}

Tensor contrastive_bound_backward_cuda(
    const Tensor& grad, const Tensor& features, const Tensor& labels, const Tensor& mean,
    std::optional<Tensor> covariance, const Tensor& posterior, double temperature, bool normalize,
    int64_t ignore_index) {
  const Device device(features);
  const BoundProblem p = bound_problem(features, labels, mean, covariance, temperature, normalize, ignore_index);
  check_gradient(p, grad, posterior);
  Tensor scratch = torch::stable::new_empty(features, {p.scratch()}, ScalarType::Byte);
  Tensor slope = torch::stable::empty_like(features);
  run_bound_backward(
      p, buffer(scratch), {}, pixel_buffer(grad, false), buffer(posterior), pixel_buffer(slope, true), slope.stride(1),
      device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return slope;
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("contrastive_bound_forward_cuda", TORCH_BOX(&fastuda::cuda::contrastive_bound_forward_cuda));
  m.impl("contrastive_bound_backward_cuda", TORCH_BOX(&fastuda::cuda::contrastive_bound_backward_cuda));
}
#endif
