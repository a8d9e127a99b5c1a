// The contrastive bound on the CPU. cpu/contrastive_bound_tile.h describes the method.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/contrastive_bound_backward.h"
#include "cpu/contrastive_bound_tile.h"
#include "cpu/parallel.h"
#include "cpu/vector_math.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The contrastive bound's forward pass: scores, softmax and loss. A full covariance is read in its lower triangle only.

template <class Acc, Isa isa>
struct Forward : TilePass<Acc, isa> {
  using Base = TilePass<Acc, isa>;
  using typename Base::Lanes;
  using typename Base::M;
  using typename Base::Work;
  using Base::pixels;
  using Base::step;
  using Base::vectors;

  // first[k] = q.mu_k / tau and, for a diagonal, second[k] = q^T Sigma_k q / (2 tau^2); q not normalised.
  FASTUDA_INLINE static void scores(
      const Bound& b, const Acc* packed, const Acc* x, Acc* first, Acc* second, Ahead ahead) {
    const Blocks blocks(b.classes(), M::rows);
    const int64_t half = b.classes() * b.channels();
    std::fill(first, first + b.classes() * pixels, Acc(0));
    std::fill(second, second + b.classes() * pixels, Acc(0));
    for (int64_t c = 0; c < b.channels(); c += kDepth) {
      const int64_t depth = std::min(kDepth, b.channels() - c);
      for (int64_t i = 0; i < blocks.count; ++i) {
        const int64_t rows = blocks.size(i), to = blocks.first(i) * pixels;
        const Acc* at = packed + blocks.first(i) * b.channels() + c * rows;
#pragma GCC unroll 1
        for (int square = 0; square <= (b.kind == Covariance::diagonal); ++square)
          add_dot_of<vectors, M::rows>(
              rows, x + c * pixels, depth, at + square * half, square, (square ? second : first) + to, ahead);
      }
    }
  }

  // second[k] for all tiles of a group; one tile's channels stay in the L1 cache while all classes pass.
  FASTUDA_INLINE static void full_scores(const Bound& b, const Acc* packed, Work& work, int64_t tiles) {
    const Triangle t = triangle<isa, false>(b);
    for (int64_t r = 0; r < t.blocks(); ++r) {
      const int64_t depth = t.width(r), row = r * M::rows;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const Acc* x = work.x.data() + tile * work.channels * pixels;
        Acc* second = work.second.data() + tile * work.classes * pixels;
        for (int64_t k = 0; k < b.classes(); ++k)
          for (int64_t c = 0; c < depth; c += kDepth)
            add_quadratic<vectors, M::rows>(
                x + c * pixels, std::min(kDepth, depth - c), packed + (k * depth + c) * M::rows, x + row * pixels,
                second + k * pixels);
      }
      packed += b.classes() * depth * M::rows;
    }
  }

  // Scores to softmax (left in `second`) and loss.
  FASTUDA_INLINE static void finish(
      const Bound& b, Work& work, int64_t tile, int64_t start, Acc* first, Acc* second) {
    const Chunk& chunk = work.chunk;
    const int64_t count = std::min<int64_t>(pixels, chunk.count - start);
    for (int v = 0; v < vectors; ++v) {
      const Lanes inverse = work.inverse[tile * vectors + v];
      Lanes a, c, top = Lanes{} - std::numeric_limits<Acc>::infinity(), sum{}, log;
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc *one = first + k * pixels + v * step, *two = second + k * pixels + v * step;
        load(one, a);
        load(two, c);
        store(a *= inverse, one);
        store(c = a + c * inverse * inverse, two);
        top = c > top ? c : top;
      }
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc* at = second + k * pixels + v * step;
        load(at, a);
        exp_negative(a - top, c);
        store(c, at);
        sum += c;
      }
      const Lanes share = 1 / sum;
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc* at = second + k * pixels + v * step;
        load(at, a);
        store(a *= share, at);
      }
      log_from_one(sum, log);
      log += top;
      for (int lane = 0; lane < step && v * step + lane < count; ++lane) {
        const int32_t i = chunk.order[start + v * step + lane], label = chunk.label[i];
        if (label < b.classes())
          static_cast<Acc*>(b.loss)[chunk.begin + i] = log[lane] - first[label * pixels + v * step + lane];
      }
    }
    TilePlace<pixels> where;
    Base::place_posterior(b, work, start, where);
    const auto value = [&](int64_t k, int v, Lanes& out) FASTUDA_INLINED {
      load(second + k * pixels + v, out);
    };
    store_tile<isa, pixels, Acc>(value, where, b.posterior, kTypeOf<Acc>);
  }

  FASTUDA_INLINE static void run(const Bound& b, const Packed<Acc>& packed, int64_t index, Work& work) {
    Chunk& chunk = work.chunk;
    read_chunk(b, index, chunk);
    Acc* loss = static_cast<Acc*>(b.loss) + chunk.begin;
    Acc* posterior = static_cast<Acc*>(b.posterior) + chunk.begin * b.classes();
    std::fill(loss, loss + chunk.size, Acc(0));
    for (int64_t i = 0; i < chunk.size; ++i)
      if (chunk.label[i] >= b.classes())
        std::fill(posterior + i * b.classes(), posterior + (i + 1) * b.classes(), Acc(0));
    for (int64_t start = 0; start < chunk.count; start += work.tiles * pixels) {
      const int64_t tiles = std::min(work.tiles, (chunk.count - start + pixels - 1) / pixels);
      for (int64_t t = 0; t < tiles; ++t) {
        Base::load_features(b, work, t, start + t * pixels);
        scores(
            b, packed.rows.data(), work.x.data() + t * work.channels * pixels,
            work.first.data() + t * work.classes * pixels, work.second.data() + t * work.classes * pixels,
            following(b, chunk, start + (t + 1) * pixels, pixels));
      }
      if (b.kind == Covariance::full) full_scores(b, packed.triangle.data(), work, tiles);
      for (int64_t t = 0; t < tiles; ++t)
        finish(
            b, work, t, start + t * pixels, work.first.data() + t * work.classes * pixels,
            work.second.data() + t * work.classes * pixels);
    }
  }
};

template <class Acc, Isa isa, bool kBackward>
void pack_for(const Bound& b, Packed<Acc>& packed) {
  if constexpr (!kBackward) pack_scores(b, Machine<isa>::rows, packed.rows);
  else if (by_rows(b)) pack_row_slopes(b, BackwardRows<Acc, isa>::blocks(b), packed.rows);
  else pack_slopes(b, Machine<isa>::width, packed.rows);
  if (b.kind == Covariance::full) pack_triangle(b, triangle<isa, kBackward>(b), !kBackward, packed.triangle);
}

template <class Acc, Isa isa, class Pass>
void run_pass(const Bound& b, const Packed<Acc>& packed) {
  const int64_t chunks = (b.features.grid.pixels() + kChunkPixels - 1) / kChunkPixels;
  parallel_on<Acc, isa>(chunks, 1, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
    typename Pass::Work work(b);
    for (int64_t i = begin; i < end; ++i) Pass::run(b, packed, i, work);
    fence_streams();
  });
}

template <bool kBackward>
void run(const Bound& b) {
  with_sums(b.type, [&]<class Acc>() {
    with_isa<Acc>([&]<Isa isa>() {
      Packed<Acc> packed;
      pack_for<Acc, isa, kBackward>(b, packed);
      if constexpr (!kBackward) run_pass<Acc, isa, Forward<Acc, isa>>(b, packed);
      else if (by_rows(b)) run_pass<Acc, isa, BackwardRows<Acc, isa>>(b, packed);
      else run_pass<Acc, isa, Backward<Acc, isa>>(b, packed);
    });
  });
}

std::tuple<Tensor, Tensor> contrastive_bound_forward(
    const Tensor& features, const Tensor& labels, const Tensor& mean, const std::optional<Tensor>& covariance,
    double temperature, bool normalize, int64_t ignore_index) {
  Bound b = make_bound(features, labels, mean, covariance, temperature, normalize, ignore_index);
  const int64_t n = labels.size(0), h = labels.size(1), w = labels.size(2);
  Tensor loss = torch::stable::new_empty(features, {n, h, w}, sum_type(features.scalar_type()));
  Tensor posterior = torch::stable::new_empty(features, {n, h, w, b.classes()}, sum_type(features.scalar_type()));
  b.loss = loss.mutable_data_ptr();
  b.posterior = posterior.mutable_data_ptr();
  run<false>(b);
  return {loss, posterior};
}

Tensor contrastive_bound_backward(
    const Tensor& grad, const Tensor& features, const Tensor& labels, const Tensor& mean,
    const std::optional<Tensor>& covariance, const Tensor& posterior, double temperature, bool normalize,
    int64_t ignore_index) {
  Bound b = make_bound(features, labels, mean, covariance, temperature, normalize, ignore_index);
  const ScalarType type = sum_type(features.scalar_type());
  STD_TORCH_CHECK(
      grad.scalar_type() == type && posterior.scalar_type() == type,
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
  run<true>(b);
  return slope;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("contrastive_bound_forward", TORCH_BOX(&fastuda::contrastive_bound_forward));
  m.impl("contrastive_bound_backward", TORCH_BOX(&fastuda::contrastive_bound_backward));
}
