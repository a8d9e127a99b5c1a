// Cross entropy of bilinearly upsampled logits on the CPU: cpu/upsample_tile.h tells how.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/upsample_cross_entropy_tile.h"
#include "cpu/upsample_nodes.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Acc>
struct Run {
  const LossProblem<Acc>& p;
  NodeSums<Acc> nodes;
  double* sums;  // loss and divisor of each chunk of each image
};

template <class Acc, Isa isa>
FASTUDA_INLINE void losses(const Run<Acc>& r, int64_t begin, int64_t end) {
  LossTile<Acc, isa> work(r.p);
  for (int64_t i = begin; i < end; ++i) {
    work.run(r.nodes.image(i), r.nodes.chunk(i).begin, r.nodes.chunk(i).end, r.nodes.place(i));
    r.sums[2 * i] = work.take_loss();
    r.sums[2 * i + 1] = work.take_divisor();
  }
}

template <class Acc, Isa isa>
void run_on(const Run<Acc>& r) {
  torch::stable::parallel_for(0, r.nodes.items(), 1, [&](int64_t begin, int64_t end) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { losses<Acc, isa>(r, begin, end); });
  });
  if (!r.p.with_slope) return;
  const ScoreView& view = r.p.up.scores;
  torch::stable::parallel_for(0, view.images * view.height, 8, [&](int64_t begin, int64_t end) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { gather_rows(r.nodes, begin, end); });
  });
}

template <class Acc>
std::vector<Acc> class_weights(const std::optional<Tensor>& weight, int64_t classes) {
  std::vector<Acc> values(classes + 1, Acc(1));
  if (weight) {
    const int64_t step = weight->stride(0);
    const bool wide = weight->scalar_type() == ScalarType::Double;
    for (int64_t k = 0; k < classes; ++k)
      values[k] = wide ? static_cast<Acc>(static_cast<const double*>(weight->const_data_ptr())[k * step])
                       : static_cast<Acc>(static_cast<const float*>(weight->const_data_ptr())[k * step]);
  }
  values[classes] = 0;  // of an ignored pixel
  return values;
}

struct Options {
  bool align_corners;
  int64_t ignore_index;
  double smoothing;
  bool with_map, with_slope;
};

template <class Acc>
std::tuple<Tensor, Tensor, Tensor> run(
    const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& pixel_weight, const Options& o) {
  constexpr ScalarType type = kTypeOf<Acc>;
  const ScoreView view = score_view(logits);
  const std::vector<Acc> weights = class_weights<Acc>(weight, view.classes);
  double even = 0;
  for (const Acc w : weights) even += w * o.smoothing / static_cast<double>(view.classes);
  const int64_t n = view.images, height = target.size(1), width = target.size(2);
  const auto make = [&](std::initializer_list<int64_t> shape) {
    return torch::stable::new_empty(logits, std::vector<int64_t>(shape), type);
  };
  Tensor total = make({2});
  Tensor losses = o.with_map ? make({n, height, width}) : make({0});
  Tensor slope = o.with_slope ? make({n, view.classes, view.height, view.width}) : make({0});
  const LossProblem<Acc> p{
      {view, Taps<Acc>(height, view.height, o.align_corners), Taps<Acc>(width, view.width, o.align_corners),
       pixel_plane(target), view.classes, o.ignore_index, static_cast<Acc>(1.44269504088896340736)},
      pixel_weight ? pixel_plane(*pixel_weight) : PixelPlane{}, weights.data(), weight.has_value(),
      static_cast<Acc>(o.smoothing), static_cast<Acc>(even),
      o.with_map ? static_cast<Acc*>(losses.mutable_data_ptr()) : nullptr, o.with_slope};
  const std::vector<RowChunk> chunks = width > 0 ? row_chunks(p.up.down) : std::vector<RowChunk>{};
  std::vector<double> sums(2 * n * chunks.size());
  Tensor partials = make({o.with_slope ? NodeSums<Acc>::size(p.up, chunks) : 0});
  Acc* const partial = o.with_slope ? static_cast<Acc*>(partials.mutable_data_ptr()) : nullptr;
  Acc* const to = static_cast<Acc*>(slope.mutable_data_ptr());
  const Run<Acc> r{p, {p.up, chunks, partial, to, 0, view.classes, false}, sums.data()};
  with_isa<Acc>([&]<Isa isa>() { run_on<Acc, isa>(r); });
  double loss = 0, divisor = 0;
  for (size_t i = 0; i < sums.size(); i += 2) {
    loss += sums[i];
    divisor += sums[i + 1];
  }
  Acc* out = static_cast<Acc*>(total.mutable_data_ptr());
  out[0] = static_cast<Acc>(loss);
  out[1] = static_cast<Acc>(divisor);
  return {total, losses, slope};
}

bool is_real(const Tensor& t) { return t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double; }

std::tuple<Tensor, Tensor, Tensor> upsample_cross_entropy(
    const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& pixel_weight, bool align_corners, int64_t ignore_index, double label_smoothing,
    bool with_map, bool with_slope) {
  const ScalarType type = target.scalar_type();
  STD_TORCH_CHECK(
      logits.dim() == 4 && target.dim() == 3 && target.size(0) == logits.size(0),
      "logits must be (N, K, h, w) and target (N, H, W)");
  STD_TORCH_CHECK(
      type == ScalarType::Byte || type == ScalarType::Int || type == ScalarType::Long,
      "target must be uint8, int32 or int64");
  STD_TORCH_CHECK(
      !weight || (weight->dim() == 1 && weight->size(0) == logits.size(1) && is_real(*weight)),
      "weight must be (K,) float32 or float64");
  STD_TORCH_CHECK(
      !pixel_weight || (pixel_weight->dim() == 3 && is_real(*pixel_weight) && pixel_weight->size(0) == target.size(0) &&
                        pixel_weight->size(1) == target.size(1) && pixel_weight->size(2) == target.size(2)),
      "pixel_weight must be (N, H, W) float32 or float64");
  const Options options{align_corners, ignore_index, label_smoothing, with_map, with_slope};
  if (logits.scalar_type() == ScalarType::Double) return run<double>(logits, target, weight, pixel_weight, options);
  return run<float>(logits, target, weight, pixel_weight, options);
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("upsample_cross_entropy", TORCH_BOX(&fastuda::upsample_cross_entropy));
}
