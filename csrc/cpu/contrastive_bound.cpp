// The contrastive bound on the CPU: cpu/contrastive_bound_tile.h tells how.
#include <algorithm>
#include <cstdint>
#include <optional>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/contrastive_bound_backward.h"
#include "cpu/contrastive_bound_forward.h"
#include "cpu/contrastive_bound_rows.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Pass, class Work, class Acc>
FASTUDA_INLINE void run_pass(const Bound& b, const Packed<Acc>& packed, int64_t begin, int64_t end) {
  Work work(b);
  for (int64_t i = begin; i < end; ++i) Pass::run(b, packed, i, work);
}

template <class Acc, Isa isa, bool kBackward>
void run_chunks(const Bound& b, const Packed<Acc>& packed, int64_t begin, int64_t end) {
  using Work = Scratch<Acc, isa>;
  if constexpr (!kBackward) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { run_pass<Forward<Acc, isa>, Work>(b, packed, begin, end); });
  } else if (by_rows(b)) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED {
      run_pass<BackwardRows<Acc, isa>, RowScratch<Acc, isa>>(b, packed, begin, end);
    });
    fence_streams();
  } else {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { run_pass<Backward<Acc, isa>, Work>(b, packed, begin, end); });
  }
}

template <class Acc, Isa isa, bool kBackward>
void pack_for(const Bound& b, Packed<Acc>& packed) {
  if constexpr (!kBackward) pack_scores(b, Machine<isa>::rows, packed.rows);
  else if (by_rows(b)) pack_row_slopes(b, BackwardRows<Acc, isa>::blocks(b), packed.rows);
  else pack_slopes(b, Machine<isa>::width, packed.rows);
  if (b.kind == Covariance::full) pack_triangle(b, triangle<isa, kBackward>(b), !kBackward, packed.triangle);
}

template <class Acc, bool kBackward>
void run(const Bound& b) {
  with_isa<Acc>([&]<Isa isa>() {
    Packed<Acc> packed;
    pack_for<Acc, isa, kBackward>(b, packed);
    const int64_t chunks = (b.features.grid.pixels() + kChunkPixels - 1) / kChunkPixels;
    torch::stable::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      run_chunks<Acc, isa, kBackward>(b, packed, begin, end);
    });
  });
}

template <bool kBackward>
void dispatch(const Bound& b) {
  if (b.type == ScalarType::Double) run<double, kBackward>(b);
  else run<float, kBackward>(b);
}

ScalarType compute_type(const Tensor& features) {
  return features.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

std::tuple<Tensor, Tensor> contrastive_bound_forward(
    const Tensor& features, const Tensor& labels, const Tensor& mean, const std::optional<Tensor>& covariance,
    double temperature, bool normalize, int64_t ignore_index) {
  Bound b = make_bound(features, labels, mean, covariance, temperature, normalize, ignore_index);
  const int64_t n = labels.size(0), h = labels.size(1), w = labels.size(2);
  Tensor loss = torch::stable::new_empty(features, {n, h, w}, compute_type(features));
  Tensor posterior = torch::stable::new_empty(features, {n, h, w, b.classes()}, compute_type(features));
  b.loss = loss.mutable_data_ptr();
  b.posterior = posterior.mutable_data_ptr();
  dispatch<false>(b);
  return {loss, posterior};
}

Tensor contrastive_bound_backward(
    const Tensor& grad, const Tensor& features, const Tensor& labels, const Tensor& mean,
    const std::optional<Tensor>& covariance, const Tensor& posterior, double temperature, bool normalize,
    int64_t ignore_index) {
  Bound b = make_bound(features, labels, mean, covariance, temperature, normalize, ignore_index);
  STD_TORCH_CHECK(
      grad.scalar_type() == compute_type(features) && posterior.scalar_type() == compute_type(features),
      "grad and posterior must have the dtype of the loss");
  STD_TORCH_CHECK(
      grad.dim() == 3 && label_grid(grad).pixels() == b.labels.grid.pixels() && posterior.dim() == 4 &&
          posterior.size(3) == b.classes() && posterior.numel() == b.labels.grid.pixels() * b.classes(),
      "grad must be (N, H, W) and posterior (N, H, W, K)");
  const Tensor rows = torch::stable::contiguous(posterior);
  Tensor slope = torch::stable::empty_like(features);
  b.result = feature_view(slope);
  b.slope = slope.mutable_data_ptr();
  b.grads = label_grid(grad);
  b.grad = grad.const_data_ptr();
  b.posterior = const_cast<void*>(rows.const_data_ptr());
  dispatch<true>(b);
  return slope;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("contrastive_bound_forward", TORCH_BOX(&fastuda::contrastive_bound_forward));
  m.impl("contrastive_bound_backward", TORCH_BOX(&fastuda::contrastive_bound_backward));
}
