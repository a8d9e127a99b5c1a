// The triplet loss on the CPU. Partners are read where they lie in the source; no copy of them is made.
//
// Backward, a source row's gradient depends on itself and on the target rows that drew it; the draws are counted and
// sorted by source row, so each row is summed in one order by one thread and rounded once.
#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "cpu/parallel.h"
#include "cpu/products.h"
#include "cpu/simd.h"
#include "tensors.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 64;
constexpr int64_t kAhead = 4;  // rows prefetched ahead: the hardware does not prefetch random rows

struct Triplets {
  const void *target, *source;
  ScalarType type;  // of both and of their gradients
  int64_t rows, sources, channels;
  int64_t target_row, target_channel, source_row, source_channel;
  const int64_t *positive, *negative;
  int64_t positive_stride, negative_stride;

  int64_t positive_of(int64_t i) const { return positive[i * positive_stride]; }
  int64_t negative_of(int64_t i) const { return negative[i * negative_stride]; }
};

struct Forward {
  Triplets t;
  const bool* valid;
  int64_t valid_stride;
  double margin;
  void* loss;
};

// One draw of a source row.
struct Draw {
  int64_t target;
  bool is_positive;
};

struct Backward {
  Triplets t;
  const void *grad, *loss;
  int64_t grad_stride, loss_stride;
  void *target_slope, *source_slope;
  int64_t slope_row, slope_channel;
  std::vector<int64_t> starts;  // of each source row's draws
  std::vector<Draw> draws;

  template <class Acc>
  bool active(int64_t i) const {
    return static_cast<const Acc*>(loss)[i * loss_stride] > 0;
  }
  template <class Acc>
  Acc twice_grad(int64_t i) const {
    return 2 * static_cast<const Acc*>(grad)[i * grad_stride];
  }
};

// A row of a matrix, any distance between its channels.
template <class T>
struct Row {
  const T* at;
  int64_t stride;

  // Up to one vector of channels from c on; zeros beyond `lanes`.
  FASTUDA_INLINE void read(int64_t c, int64_t lanes, Vec<Accumulate<T>>& x) const {
    Vec<Accumulate<T>> out = {};
    if (stride == 1 && lanes == kLanes<Accumulate<T>>) {
      load(at + c, out);
    } else {
#pragma GCC unroll 1
      for (int64_t i = 0; i < lanes; ++i) out[i] = static_cast<Accumulate<T>>(at[(c + i) * stride]);
    }
    x = out;
  }
};

template <class T>
FASTUDA_INLINE void prefetch(const Row<T>& row, int64_t channels) {
  if (row.stride != 1) return;
  const uintptr_t at = reinterpret_cast<uintptr_t>(row.at);
  for (int64_t byte = 0; byte < channels * int64_t(sizeof(T)); byte += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(at + byte), 0, 3);
}

template <class T>
FASTUDA_INLINE void write(const Vec<Accumulate<T>>& x, int64_t lanes, int64_t stride, T* to) {
  if (stride == 1 && lanes == kLanes<Accumulate<T>>) return store(x, to);
  T rounded[kLanes<Accumulate<T>>];
  store(x, rounded);
#pragma GCC unroll 1
  for (int64_t i = 0; i < lanes; ++i) to[i * stride] = rounded[i];
}

template <class T>
FASTUDA_INLINE Row<T> target_row(const Triplets& t, int64_t i) {
  return {static_cast<const T*>(t.target) + i * t.target_row, t.target_channel};
}

template <class T>
FASTUDA_INLINE Row<T> source_row(const Triplets& t, int64_t i) {
  return {static_cast<const T*>(t.source) + i * t.source_row, t.source_channel};
}

template <class T>
FASTUDA_INLINE void prefetch_partners(const Triplets& t, int64_t i, int64_t end) {
  if (i >= end) return;
  prefetch(source_row<T>(t, t.positive_of(i)), t.channels);
  prefetch(source_row<T>(t, t.negative_of(i)), t.channels);
}

// Calls step(channel, lanes) for vectors of channels.
template <class Acc, class Step>
FASTUDA_INLINE void for_channels(int64_t channels, const Step& step) {
  constexpr int64_t lanes = kLanes<Acc>;
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) step(c, lanes);
  if (c < channels) step(c, channels - c);
}

// Added as a tree, so that the rounding error grows with the logarithm of the number of lanes.
template <class Acc>
FASTUDA_INLINE Acc sum_lanes(Vec<Acc> x) {
  for (int half = kLanes<Acc> / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x[i] += x[i + half];
  return x[0];
}

template <class T>
FASTUDA_INLINE void losses(const Forward& f, int64_t begin, int64_t end) {
  using Acc = Accumulate<T>;
  for (int64_t i = begin; i < end; ++i) {
    prefetch_partners<T>(f.t, i + kAhead, end);
    Acc loss = 0;
    if (f.valid[i * f.valid_stride]) {
      const Row<T> t = target_row<T>(f.t, i);
      const Row<T> p = source_row<T>(f.t, f.t.positive_of(i)), n = source_row<T>(f.t, f.t.negative_of(i));
      Vec<Acc> near = {}, far = {};
      for_channels<Acc>(f.t.channels, [&](int64_t c, int64_t lanes) FASTUDA_INLINED {
        Vec<Acc> x, y, z;
        t.read(c, lanes, x);
        p.read(c, lanes, y);
        n.read(c, lanes, z);
        y -= x;
        z -= x;
        near += y * y;
        far += z * z;
      });
      loss = sum_lanes<Acc>(near) - sum_lanes<Acc>(far) + static_cast<Acc>(f.margin);
      if (loss < 0) loss = 0;  // NaN stays
    }
    static_cast<Acc*>(f.loss)[i] = loss;
  }
}

template <class T>
FASTUDA_INLINE void target_slopes(const Backward& w, int64_t begin, int64_t end) {
  using Acc = Accumulate<T>;
  for (int64_t i = begin; i < end; ++i) {
    prefetch_partners<T>(w.t, i + kAhead, end);
    T* to = static_cast<T*>(w.target_slope) + i * w.slope_row;
    const bool active = w.active<Acc>(i);
    const Acc g = w.twice_grad<Acc>(i);
    const Row<T> p = source_row<T>(w.t, active ? w.t.positive_of(i) : 0);
    const Row<T> n = source_row<T>(w.t, active ? w.t.negative_of(i) : 0);
    for_channels<Acc>(w.t.channels, [&](int64_t c, int64_t lanes) FASTUDA_INLINED {
      Vec<Acc> slope = {}, y, z;
      if (active) {
        p.read(c, lanes, y);
        n.read(c, lanes, z);
        slope = (z - y) * g;
      }
      write<T>(slope, lanes, w.slope_channel, to + c * w.slope_channel);
    });
  }
}

template <class T>
FASTUDA_INLINE void source_slopes(const Backward& w, int64_t begin, int64_t end) {
  using Acc = Accumulate<T>;
  for (int64_t row = begin; row < end; ++row) {
    T* to = static_cast<T*>(w.source_slope) + row * w.t.channels;
    const Row<T> s = source_row<T>(w.t, row);
    const int64_t next = std::min<int64_t>(w.starts[row + 1] + kAhead, w.draws.size());
    for (int64_t i = w.starts[row] + kAhead; i < next; ++i)
      prefetch(target_row<T>(w.t, w.draws[i].target), w.t.channels);
    for_channels<Acc>(w.t.channels, [&](int64_t c, int64_t lanes) FASTUDA_INLINED {
      Vec<Acc> slope = {}, x = {}, y = {};
      if (w.starts[row] < w.starts[row + 1]) s.read(c, lanes, y);
      for (int64_t i = w.starts[row]; i < w.starts[row + 1]; ++i) {
        const Draw& draw = w.draws[i];
        const Acc g = w.twice_grad<Acc>(draw.target);
        target_row<T>(w.t, draw.target).read(c, lanes, x);
        slope += (y - x) * (draw.is_positive ? g : -g);
      }
      write<T>(slope, lanes, 1, to + c);
    });
  }
}

// Calls body.operator()<T>(begin, end) for ranges of rows, T being the type of their numbers.
template <class Acc, class Body>
void for_rows(ScalarType type, int64_t rows, const Body& body) {
  with_type<Acc>(type, [&]<class T>() {
    parallel<Acc>(rows, kGrain, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
      body.template operator()<T>(begin, end);
    });
  });
}

// Sorts the draws of rows with a loss by source row, the positive ones first: only these give a gradient.
template <class Acc>
void sort_draws(Backward& w) {
  w.starts.assign(w.t.sources + 1, 0);
  const auto each = [&](const auto& run) {
    for (int64_t i = 0; i < w.t.rows; ++i)
      if (w.active<Acc>(i)) run(w.t.positive_of(i), Draw{i, true});
    for (int64_t i = 0; i < w.t.rows; ++i)
      if (w.active<Acc>(i)) run(w.t.negative_of(i), Draw{i, false});
  };
  each([&](int64_t row, const Draw&) { ++w.starts[row + 1]; });
  for (int64_t row = 0; row < w.t.sources; ++row) w.starts[row + 1] += w.starts[row];
  w.draws.resize(w.starts[w.t.sources]);
  std::vector<int64_t> next(w.starts.begin(), w.starts.end() - 1);
  each([&](int64_t row, const Draw& draw) { w.draws[next[row]++] = draw; });
}

template <class Acc>
void run_forward(const Forward& f) {
  for_rows<Acc>(f.t.type, f.t.rows, [&]<class T>(int64_t begin, int64_t end) FASTUDA_INLINED {
    losses<T>(f, begin, end);
  });
}

template <class Acc>
void run_backward(Backward& w) {
  sort_draws<Acc>(w);
  for_rows<Acc>(w.t.type, w.t.rows, [&]<class T>(int64_t begin, int64_t end) FASTUDA_INLINED {
    target_slopes<T>(w, begin, end);
  });
  for_rows<Acc>(w.t.type, w.t.sources, [&]<class T>(int64_t begin, int64_t end) FASTUDA_INLINED {
    source_slopes<T>(w, begin, end);
  });
}

Triplets view(const Tensor& target, const Tensor& source, const Tensor& positive, const Tensor& negative) {
  const ScalarType type = target.scalar_type();
  check_numbers(target, "target");
  STD_TORCH_CHECK(type == source.scalar_type(), "source must have the dtype of target");
  STD_TORCH_CHECK(
      target.dim() == 2 && source.dim() == 2 && target.size(1) == source.size(1),
      "target must be (T, d) and source (S, d)");
  for (const Tensor* index : {&positive, &negative})
    STD_TORCH_CHECK(
        index->scalar_type() == ScalarType::Long && index->dim() == 1 && index->size(0) == target.size(0),
        "positive and negative must be int64 (T,)");
  const Triplets t{
      target.const_data_ptr(), source.const_data_ptr(), type, target.size(0), source.size(0), target.size(1),
      target.stride(0), target.stride(1), source.stride(0), source.stride(1),
      static_cast<const int64_t*>(positive.const_data_ptr()), static_cast<const int64_t*>(negative.const_data_ptr()),
      positive.stride(0), negative.stride(0)};
  for (int64_t i = 0; t.sources > 0 && i < t.rows; ++i) {
    const int64_t least = std::min(t.positive_of(i), t.negative_of(i));
    const int64_t most = std::max(t.positive_of(i), t.negative_of(i));
    STD_TORCH_CHECK(least >= 0 && most < t.sources, "positive and negative must be rows of source");
  }
  return t;
}

Tensor triplet_consistency_forward(
    const Tensor& target, const Tensor& source, const Tensor& positive, const Tensor& negative, const Tensor& valid,
    double margin) {
  const Triplets t = view(target, source, positive, negative);
  STD_TORCH_CHECK(
      valid.scalar_type() == ScalarType::Bool && valid.dim() == 1 && valid.size(0) == t.rows,
      "valid must be bool (T,)");
  Tensor loss = torch::stable::new_empty(target, {t.rows}, sum_type(target.scalar_type()));
  if (t.sources == 0) return torch::stable::zero_(loss);
  const Forward f{
      t, static_cast<const bool*>(valid.const_data_ptr()), valid.stride(0), margin, loss.mutable_data_ptr()};
  with_sums(t.type, [&]<class Acc>() { run_forward<Acc>(f); });
  return loss;
}

std::tuple<Tensor, Tensor> triplet_consistency_backward(
    const Tensor& grad, const Tensor& target, const Tensor& source, const Tensor& positive, const Tensor& negative,
    const Tensor& loss) {
  const Triplets t = view(target, source, positive, negative);
  for (const Tensor* each : {&grad, &loss})
    STD_TORCH_CHECK(
        each->scalar_type() == sum_type(target.scalar_type()) && each->dim() == 1 && each->size(0) == t.rows,
        "grad and loss must be (T,) in the dtype of the loss");
  Tensor target_slope = torch::stable::empty_like(target);
  Tensor source_slope = torch::stable::new_empty(source, {t.sources, t.channels});
  if (t.sources == 0) return {torch::stable::zero_(target_slope), source_slope};
  Backward w{
      t, grad.const_data_ptr(), loss.const_data_ptr(), grad.stride(0), loss.stride(0),
      target_slope.mutable_data_ptr(), source_slope.mutable_data_ptr(), target_slope.stride(0), target_slope.stride(1),
      {}, {}};
  with_sums(t.type, [&]<class Acc>() { run_backward<Acc>(w); });
  return {target_slope, source_slope};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("triplet_consistency_forward", TORCH_BOX(&fastuda::triplet_consistency_forward));
  m.impl("triplet_consistency_backward", TORCH_BOX(&fastuda::triplet_consistency_backward));
}
