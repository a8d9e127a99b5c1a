// Losses on the modes of each class, on the CPU. cpu/mode_losses_forward.h and cpu/mode_losses_backward.h describe the
// two passes.
#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/mode_losses_backward.h"
#include "cpu/mode_losses_forward.h"
#include "cpu/parallel.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Acc, Isa isa>
void forward_on(const ModeProblem& p) {
  const PackedModes<Acc> modes(p, ModeMachine<isa>::rows);
  const int64_t pixels = p.features.grid.pixels(), chunks = (pixels + kModePixels - 1) / kModePixels;
  parallel_on<Acc, isa>(chunks, 1, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
    typename ModeForward<Acc, isa>::Work work(p);
    for (int64_t first = begin * kModePixels; first < end * kModePixels; first += kModePixels)
      ModeForward<Acc, isa>::run(p, modes, first, std::min(first + kModePixels, pixels), work);
  });
}

template <class Acc, Isa isa>
void backward_on(ModeProblem& p, const Tensor& features, ScalarType type) {
  const PanelModes<Acc> modes(p, ModeMachine<isa>::panel);
  const int64_t segments = mode_segments(p.features.grid.pixels(), p.rows());
  const Tensor partials =
      torch::stable::new_empty(features, {segments, p.rows(), modes.modes.padded + 1}, type);
  p.partials = partials.mutable_data_ptr();
  parallel_on<Acc, isa>(segments, 1, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
    typename ModeBackward<Acc, isa>::Work work(p, modes.modes.padded);
    for (int64_t i = begin; i < end; ++i) ModeBackward<Acc, isa>::run(p, modes, i, segments, work);
  });
  parallel_on<Acc, isa>(p.rows(), 16, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
    ModeBackward<Acc, isa>::merge(p, modes, segments, begin, end);
  });
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mode_losses_forward(
    const Tensor& features, const Tensor& labels, const Tensor& modes, double sigma2, double margin, bool square,
    int64_t ignore_index) {
  ModeProblem p = make_modes(features, labels, modes, ignore_index);
  p.sigma2 = sigma2;
  p.margin = margin;
  p.square = square;
  const int64_t n = labels.size(0), h = labels.size(1), w = labels.size(2);
  const ScalarType type = sum_type(features.scalar_type());
  Tensor triplet = torch::stable::new_empty(features, {n, h, w}, type);
  Tensor cross_entropy = torch::stable::new_empty(features, {n, h, w}, type);
  Tensor own_mode = torch::stable::new_empty(features, {n, h, w}, ScalarType::Long);
  Tensor rival = torch::stable::new_empty(features, {n, h, w}, ScalarType::Long);
  Tensor weight = torch::stable::new_empty(features, {n, h, w, p.classes()}, type);
  Tensor nearest = torch::stable::new_empty(features, {n, h, w, p.classes()}, ScalarType::Byte);
  p.triplet = triplet.mutable_data_ptr();
  p.cross_entropy = cross_entropy.mutable_data_ptr();
  p.own_mode = static_cast<int64_t*>(own_mode.mutable_data_ptr());
  p.rival = static_cast<int64_t*>(rival.mutable_data_ptr());
  p.weight = weight.mutable_data_ptr();
  p.nearest = static_cast<uint8_t*>(nearest.mutable_data_ptr());
  with_sums(p.type, [&]<class Acc>() { with_isa<Acc>([&]<Isa isa>() { forward_on<Acc, isa>(p); }); });
  return {triplet, cross_entropy, own_mode, rival, weight, nearest};
}

std::tuple<Tensor, Tensor> mode_losses_backward(
    const Tensor& grad_triplet, const Tensor& grad_cross_entropy, const Tensor& features, const Tensor& labels,
    const Tensor& modes, const Tensor& triplet, const Tensor& rival, const Tensor& weight, const Tensor& nearest,
    int64_t ignore_index) {
  ModeProblem p = make_modes(features, labels, modes, ignore_index);
  const ScalarType type = sum_type(features.scalar_type());
  const int64_t pixels = p.labels.grid.pixels();
  for (const Tensor& t : {grad_triplet, grad_cross_entropy, triplet})
    STD_TORCH_CHECK(
        t.scalar_type() == type && t.dim() == 3 && t.numel() == pixels,
        "the losses and their gradients must be (N, H, W) of the losses' dtype");
  STD_TORCH_CHECK(
      rival.scalar_type() == ScalarType::Long && rival.numel() == pixels && weight.scalar_type() == type &&
          nearest.scalar_type() == ScalarType::Byte && weight.numel() == pixels * p.classes() &&
          nearest.numel() == pixels * p.classes(),
      "rival must be int64 (N, H, W), weight (N, H, W, K) of the losses' dtype and nearest uint8 (N, H, W, K)");
  const Tensor hinge = torch::stable::contiguous(triplet), other = torch::stable::contiguous(rival);
  const Tensor weights = torch::stable::contiguous(weight), chosen = torch::stable::contiguous(nearest);
  p.triplet = const_cast<void*>(hinge.const_data_ptr());
  p.rival = static_cast<int64_t*>(const_cast<void*>(other.const_data_ptr()));
  p.weight = const_cast<void*>(weights.const_data_ptr());
  p.nearest = static_cast<uint8_t*>(const_cast<void*>(chosen.const_data_ptr()));
  p.triplet_grads = label_grid(grad_triplet);
  p.cross_entropy_grads = label_grid(grad_cross_entropy);
  p.grad_triplet = grad_triplet.const_data_ptr();
  p.grad_cross_entropy = grad_cross_entropy.const_data_ptr();
  Tensor slope = torch::stable::empty_like(features);
  Tensor modes_slope = torch::stable::new_empty(features, {p.classes(), p.per_class, p.channels()}, type);
  p.result = feature_view(slope);
  p.slope = slope.mutable_data_ptr();
  p.modes_slope = modes_slope.mutable_data_ptr();
  with_sums(p.type, [&]<class Acc>() { with_isa<Acc>([&]<Isa isa>() { backward_on<Acc, isa>(p, features, type); }); });
  return {slope, modes_slope};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("mode_losses_forward", TORCH_BOX(&fastuda::mode_losses_forward));
  m.impl("mode_losses_backward", TORCH_BOX(&fastuda::mode_losses_backward));
}
