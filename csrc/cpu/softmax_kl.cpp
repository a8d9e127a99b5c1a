// Divergences between two softmaxes on the CPU. cpu/softmax_kl_tile.h describes the method.
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/parallel.h"
#include "cpu/softmax_kl_tile.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

void run(const KlProblem& p) {
  with_sums(p.type, [&]<class Acc>() {
    parallel<Acc>(p.chunks(), 1, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
      SoftmaxKl<Acc, isa>::run(p, begin, end);
    });
  });
}

KlProblem problem(
    const Tensor& logits, const Tensor& other, const std::optional<Tensor>& mask, double temperature, bool symmetric) {
  STD_TORCH_CHECK(
      (logits.dim() == 2 || logits.dim() == 4) && logits.dim() == other.dim() && logits.size(1) >= 1 &&
          logits.scalar_type() == other.scalar_type(),
      "logits and other must be (N, K, h, w) or (P, K) with K >= 1, of one dtype");
  for (int64_t i = 0; i < logits.dim(); ++i)
    STD_TORCH_CHECK(logits.size(i) == other.size(i), "logits and other must have one shape");
  check_numbers(logits, "logits");
  KlProblem p{};
  p.type = logits.scalar_type();
  for (int i = 0; i < 2; ++i) {
    p.sides[i].view = feature_view(i ? other : logits);
    p.sides[i].data = (i ? other : logits).const_data_ptr();
  }
  p.temperature = temperature;
  p.symmetric = symmetric;
  if (mask) {
    STD_TORCH_CHECK(
        mask->scalar_type() == ScalarType::Bool && mask->numel() == p.pixels() &&
            mask->dim() == logits.dim() - 1,
        "mask must be bool (N, h, w) or (P,)");
    p.mask = static_cast<const uint8_t*>(mask->const_data_ptr());
    p.mask_grid = label_grid(*mask);
  }
  return p;
}

Tensor softmax_kl_forward(
    const Tensor& logits, const Tensor& other, const std::optional<Tensor>& mask, double temperature,
    bool symmetric) {
  KlProblem p = problem(logits, other, mask, temperature, symmetric);
  std::vector<int64_t> size{logits.size(0)};
  for (int64_t i = 2; i < logits.dim(); ++i) size.push_back(logits.size(i));
  Tensor loss = torch::stable::new_empty(logits, size, sum_type(logits.scalar_type()));
  p.loss = loss.mutable_data_ptr();
  run(p);
  return loss;
}

std::tuple<Tensor, Tensor> softmax_kl_backward(
    const Tensor& grad, const Tensor& logits, const Tensor& other, const std::optional<Tensor>& mask,
    double temperature, bool symmetric) {
  KlProblem p = problem(logits, other, mask, temperature, symmetric);
  STD_TORCH_CHECK(
      grad.scalar_type() == sum_type(logits.scalar_type()) && grad.dim() == logits.dim() - 1 &&
          grad.numel() == p.pixels(),
      "grad must be (N, h, w) or (P,) of the loss's dtype");
  p.grad = grad.const_data_ptr();
  p.grad_grid = label_grid(grad);
  Tensor slope = torch::stable::empty_like(logits);
  Tensor other_slope = symmetric ? torch::stable::empty_like(other) : torch::stable::new_empty(other, {0});
  p.sides[0].result = feature_view(slope);
  p.sides[0].slope = slope.mutable_data_ptr();
  if (symmetric) {
    p.sides[1].result = feature_view(other_slope);
    p.sides[1].slope = other_slope.mutable_data_ptr();
  }
  run(p);
  return {slope, other_slope};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("softmax_kl_forward", TORCH_BOX(&fastuda::softmax_kl_forward));
  m.impl("softmax_kl_backward", TORCH_BOX(&fastuda::softmax_kl_backward));
}
