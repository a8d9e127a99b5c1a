// The triplet loss on a GPU: max(0, |t - s_p|^2 - |t - s_n|^2 + margin) of each target row, computed by a warp.
// Partners are read where they lie in the source; no copy of them is made.
//
// Backward, a source row's gradient is the sum over the target rows that drew it. The 2 T draws are sorted by source
// row (radix_sort.h, stable: first the positive ones by target row, then the negative ones); a warp adds a run of 64
// sorted draws for 128 channels, writes the rows that lie within its run, and leaves partial sums of those that go on
// beyond it; triplet_merge adds these in order. So a row drawn by every target is as much work as rows drawn once, and
// the same bits in every run: no atomics on numbers.
//
// Partners that are no rows of source, which only a wrong caller has, give a loss of NaN and no gradient.
//
// Traffic: forward 3 rows of channels a target row; backward 2 for the target's slope, 3 for the source's.
// Scratch: backward, 33 bytes a target row, 4 a source row and channels / 16 sums (4 bytes, float64 8) a target row.
// Launches: backward, 5 + 3 a pass: one up to 255 source rows, two up to 65535, three up to 2^24.
// Untuned, as no GPU was at hand: length of a run, rows asked for together.
#include "cuda/radix_sort.h"
#include "cuda/triplet_consistency_loss_rows.h"

#if !defined(FASTUDA_KERNELS_ONLY)
#include <algorithm>
#if !defined(FASTUDA_EMULATION)
#include "cuda/tensor.h"
#endif
#endif

namespace fastuda::cuda {

#define FASTUDA_TRIPLETS(T)                                             \
  template __global__ void triplet_forward<T>(TripletForward<T>);       \
  template __global__ void triplet_keys<T>(TripletBackward<T>);         \
  template __global__ void triplet_target_slope<T>(TripletBackward<T>); \
  template __global__ void triplet_runs<T>(TripletBackward<T>);         \
  template __global__ void triplet_merge<T>(TripletBackward<T>);
FASTUDA_TRIPLETS(float)
FASTUDA_TRIPLETS(Half)
FASTUDA_TRIPLETS(BFloat16)
FASTUDA_TRIPLETS(double)

#if !defined(FASTUDA_KERNELS_ONLY)

// A vector or a matrix as it lies in memory.
struct Strided {
  Buffer buffer;
  i64 row, channel;
};

struct TripletProblem {
  Type type;
  Strided target, source, positive, negative;
  int rows, sources, channels;

  i64 size() const { return type == Type::float64 ? 8 : 4; }
  int tiles() const { return ceil_div(channels, kTripletTile); }
  i64 runs() const { return ceil_div<i64>(2 * static_cast<i64>(rows), kTripletRun); }
};

// Whether rows begin where four channels can be read at once, and have a multiple of four side by side.
template <class T>
bool rows_in_quads(const Strided& s, int rows, int channels) {
  return s.channel == 1 && channels % 4 == 0 && (rows <= 1 || s.row % 4 == 0) &&
      reinterpret_cast<unsigned long long>(s.buffer.data) % (4 * sizeof(T)) == 0;
}

template <class T, class At>
Rows<At> make_rows(const Strided& s, int rows, int channels) {
  return {global<At>(s.buffer), s.row, s.channel, rows_in_quads<T>(s, rows, channels)};
}

template <class T>
Triplets<T> make_triplets(const TripletProblem& p) {
  return {
      make_rows<T, const T>(p.target, p.rows, p.channels), make_rows<T, const T>(p.source, p.sources, p.channels),
      global<const i64>(p.positive.buffer), global<const i64>(p.negative.buffer), p.positive.row, p.negative.row,
      p.rows, p.sources, p.channels};
}

inline dim3 triplet_grid(i64 work, int each) { return dim3(static_cast<u32>(ceil_div<i64>(work, each))); }

inline void run_triplet_forward(
    const TripletProblem& p, const Strided& valid, double margin, Buffer loss, Stream stream) {
  if (p.rows == 0) return;
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    const TripletForward<T> f{
        make_triplets<T>(p), global<const u8>(valid.buffer), valid.row, static_cast<Acc>(margin), global<Acc>(loss)};
    launch(triplet_forward<T>, triplet_grid(p.rows, kTripletWarps), dim3(kTripletThreads), 0, stream, f);
  });
}

// Bytes of scratch of the backward pass.
inline i64 triplet_scratch(const TripletProblem& p) {
  Scratch scratch{{nullptr, 0}};
  const RadixSort sort(2 * static_cast<u32>(p.rows), static_cast<u32>(p.sources), scratch);
  scratch.take(p.runs() * 2 * p.channels, p.size());
  return scratch.used;
}

inline void run_triplet_backward(
    const TripletProblem& p, const Strided& grad, const Strided& loss, const Buffer& whole, const Strided& target_slope,
    const Strided& source_slope, Stream stream) {
  if (p.channels == 0 || (p.rows == 0 && p.sources == 0)) return;
  with_type(p.type, [&](auto value) {
    using T = decltype(value);
    using Acc = Accumulate<T>;
    Scratch scratch{whole};
    const RadixSort sort(2 * static_cast<u32>(p.rows), static_cast<u32>(p.sources), scratch);
    TripletBackward<T> b{
        make_triplets<T>(p), global<const Acc>(grad.buffer), global<const Acc>(loss.buffer), grad.row, loss.row,
        make_rows<T, T>(target_slope, p.rows, p.channels), make_rows<T, T>(source_slope, p.sources, p.channels),
        p.tiles(), sort.rows, sort.keys[0], {}, sort.starts,
        global<Acc>(scratch.take(p.runs() * 2 * p.channels, p.size()))};
    const dim3 block(kTripletThreads);
    if (p.rows) {
      launch(triplet_keys<T>, triplet_grid(p.rows, kTripletThreads), block, 0, stream, b);
      launch(triplet_target_slope<T>, triplet_grid(p.rows, kTripletWarps), block, 0, stream, b);
    }
    if (p.sources == 0) return;
    sort.run(stream);
    b.keys = sort.sorted_keys();
    b.order = sort.sorted_rows();
    if (p.rows) launch(triplet_runs<T>, triplet_grid(p.runs() * b.tiles, kTripletWarps), block, 0, stream, b);
    const i64 rows = static_cast<i64>(p.sources) * b.tiles;
    launch(triplet_merge<T>, triplet_grid(rows, kTripletWarps), block, 0, stream, b);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

inline Strided strided(const Tensor& t) { return {buffer(t), t.stride(0), t.dim() == 2 ? t.stride(1) : 1}; }

inline TripletProblem triplet_problem(
    const Tensor& target, const Tensor& source, const Tensor& positive, const Tensor& negative) {
  STD_TORCH_CHECK(
      target.dim() == 2 && source.dim() == 2 && target.size(1) == source.size(1) &&
          target.scalar_type() == source.scalar_type(),
      "target must be (T, d) and source (S, d), of one dtype");
  for (const Tensor* each : {&positive, &negative})
    STD_TORCH_CHECK(
        each->scalar_type() == ScalarType::Long && each->dim() == 1 && each->size(0) == target.size(0),
        "positive and negative must be int64 (T,)");
  small(2 * target.size(0));
  return {
      feature_type(target), strided(target), strided(source), strided(positive), strided(negative),
      small(target.size(0)), small(source.size(0)), small(target.size(1))};
}

Tensor triplet_consistency_forward_cuda(
    const Tensor& target, const Tensor& source, const Tensor& positive, const Tensor& negative, const Tensor& valid,
    double margin) {
  const Device device(target);
  const TripletProblem p = triplet_problem(target, source, positive, negative);
  STD_TORCH_CHECK(
      valid.scalar_type() == ScalarType::Bool && valid.dim() == 1 && valid.size(0) == p.rows,
      "valid must be bool (T,)");
  Tensor loss = torch::stable::new_empty(target, {p.rows}, statistic_type(p.type));
  run_triplet_forward(p, strided(valid), margin, buffer(loss), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return loss;
}

std::tuple<Tensor, Tensor> triplet_consistency_backward_cuda(
    const Tensor& grad, const Tensor& target, const Tensor& source, const Tensor& positive, const Tensor& negative,
    const Tensor& loss) {
  const Device device(target);
  const TripletProblem p = triplet_problem(target, source, positive, negative);
  for (const Tensor* each : {&grad, &loss})
    STD_TORCH_CHECK(
        each->scalar_type() == statistic_type(p.type) && each->dim() == 1 && each->size(0) == p.rows,
        "grad and loss must be (T,) in the dtype of the loss");
  Tensor target_slope = torch::stable::empty_like(target);
  Tensor source_slope = torch::stable::new_empty(source, {p.sources, p.channels}, source.scalar_type());
  Tensor scratch = torch::stable::new_empty(target, {triplet_scratch(p)}, ScalarType::Byte);
  run_triplet_backward(
      p, strided(grad), strided(loss), buffer(scratch), strided(target_slope), strided(source_slope), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {target_slope, source_slope};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("triplet_consistency_forward_cuda", TORCH_BOX(&fastuda::cuda::triplet_consistency_forward_cuda));
  m.impl("triplet_consistency_backward_cuda", TORCH_BOX(&fastuda::cuda::triplet_consistency_backward_cuda));
}
#endif
