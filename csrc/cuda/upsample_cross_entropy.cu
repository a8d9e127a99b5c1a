// Cross entropy of bilinearly upsampled logits on a GPU, and its low-resolution gradient in the same call: a walk over
// the pixels cell by cell (see upsample_cells.h), in three sweeps over the classes: the largest logits, the sums
// of exponentials, the gradient. Neither logits nor a gradient of full resolution are stored.
//
// Launches: two, with a gradient three. Scratch: two to three times the gradient at 8-fold upsampling, 16 bytes a
// block.
#include "cuda/upsample_cells.h"

namespace fastuda::cuda {

// float32 or float64, or one everywhere.
struct Reals {
  Pointer<const float> floats;
  Pointer<const double> doubles;
  int size;  // of a number, in bytes; 0 where there is none

  template <class Acc>
  __device__ __forceinline__ Acc at(i64 i) const {
    return size == 0 ? Acc(1) : size == 4 ? static_cast<Acc>(floats[i]) : static_cast<Acc>(doubles[i]);
  }
};

template <class T>
struct CrossEntropy {
  using Acc = Accumulate<T>;
  Cells cells;
  Scores<T> logits;
  Labels labels;
  Reals weight, pixel_weight;
  i64 weight_stride;
  PixelGrid pixel_grid;
  Acc smoothing;
  bool with_map;
  Pointer<Acc> losses, partials;
  Pointer<double> sums;  // (2, blocks): of the losses and of the divisor

  __device__ __forceinline__ Acc class_weight(int k) const { return weight.template at<Acc>(k * weight_stride); }
};

__device__ __forceinline__ i64 cell_place(const PixelGrid& g, int image, int row, int column) {
  return image * g.image_stride + row * g.row_stride + column * g.column_stride;
}

// What the rows of a thread leave to their gradient.
template <class Acc>
struct CrossEntropyRows {
  int label[kCellRows];  // -1 where ignored
  Acc most[kCellRows], part[kCellRows], wanted[kCellRows];
  Acc scale, scale_below;  // sum of the pixels' weights, and by the rows' weights
};

template <class T>
__device__ __forceinline__ void cross_entropy_rows(
    const CrossEntropy<T>& p, const CellBlock<T>& block, Accumulate<T> even_sum, CrossEntropyRows<Accumulate<T>>& rows,
    double& loss_sum, double& share_sum) {
  using Acc = Accumulate<T>;
  constexpr Acc natural = static_cast<Acc>(0.69314718055994530942);
  const int classes = p.cells.classes;
#pragma unroll
  for (int r = 0; r < kCellRows; ++r) {
    const bool inside = block.inside && block.row + r < block.row_end;
    rows.label[r] =
        inside ? class_at(p.labels, cell_place(p.labels.grid, block.image, block.row + r, block.column)) : -1;
  }
  Acc sum[kCellRows], even[kCellRows] = {};
  block.softmax(rows.most, sum);
  if (p.smoothing != 0) {
    for (int k = 0; k < classes; ++k) {
      Acc a, d;
      block.ends(k, a, d);
      const Acc weight = p.class_weight(k);
#pragma unroll
      for (int r = 0; r < kCellRows; ++r) even[r] += weight * (a + block.weight[r] * d - rows.most[r]);
    }
  }
  rows.scale = rows.scale_below = 0;
  Acc a = 0, d = 0, losses = 0, shares = 0;
  int before = -1;
#pragma unroll
  for (int r = 0; r < kCellRows; ++r) {
    const int label = rows.label[r];
    Acc loss = 0;
    rows.part[r] = rows.wanted[r] = 0;
    if (label >= 0) {
      if (label != before) block.ends(label, a, d);
      before = label;
      const Acc share = p.class_weight(label), certain = (1 - p.smoothing) * share;
      const Acc scale =
          p.pixel_weight.template at<Acc>(cell_place(p.pixel_grid, block.image, block.row + r, block.column));
      const Acc log_sum = logarithm(sum[r]);
      loss = certain * (log_sum - natural * (a + block.weight[r] * d - rows.most[r]));
      if (p.smoothing != 0) loss += even_sum * log_sum - natural * (p.smoothing / classes) * even[r];
      loss *= scale;
      rows.part[r] = (certain + even_sum) * scale / sum[r];
      rows.wanted[r] = certain * scale;
      rows.scale += scale;
      rows.scale_below += scale * block.weight[r];
      losses += loss;
      shares += share;
    }
    if (p.with_map && block.inside && block.row + r < block.row_end)
      p.losses[(static_cast<i64>(block.image) * p.cells.down.size + block.row + r) * p.cells.along.size +
               block.column] = loss;
  }
  loss_sum += losses;
  share_sum += shares;
}

// Brings the gradient of the rows to the nodes.
template <class T>
__device__ __forceinline__ void cross_entropy_slopes(
    const CrossEntropy<T>& p, const CellBlock<T>& block, const CrossEntropyRows<Accumulate<T>>& rows, int columns,
    bool first_chunk) {
  using Acc = Accumulate<T>;
  const int classes = p.cells.classes;
  const auto slope = [&](int k, int r, Acc z, Acc& part) {
    part = power_of_two(z - rows.most[r]) * rows.part[r];
    if (rows.label[r] == k) part -= rows.wanted[r];
    part = rows.label[r] < 0 ? Acc(0) : part;  // the logits of an ignored pixel may be anything
    return true;
  };
  const auto smooth = [&](int k, Acc& sum, Acc& weighted) {
    if (p.smoothing == 0) return;
    const Acc even = p.smoothing / classes * p.class_weight(k);
    sum -= even * rows.scale;
    weighted -= even * rows.scale_below;
  };
  block.bring(p.partials, 0, classes, columns, first_chunk, slope, smooth);
}

template <class T, bool kSlope>
__global__ void __launch_bounds__(kCellThreads, kCellBlocks<Accumulate<T>>) cross_entropy(CrossEntropy<T> p) {
  using Acc = Accumulate<T>;
  constexpr Acc unit = static_cast<Acc>(1.44269504088896340736);  // powers of 2 instead of e
  CellBlock<T> block(p.cells, p.logits, blockIdx.x, unit);
  const int classes = p.cells.classes;
  Acc even_sum = 0;
  if (p.smoothing != 0)
    for (int k = 0; k < classes; ++k) even_sum += p.smoothing / classes * p.class_weight(k);
  double loss = 0, share = 0;
  CrossEntropyRows<Acc> rows;
  for (int columns = 0; columns < block.column_chunks(); ++columns) {
    for (int chunk = 0; chunk < block.row_chunks(); ++chunk) {
      block.place(columns, chunk);
      cross_entropy_rows(p, block, even_sum, rows, loss, share);
      if constexpr (kSlope) cross_entropy_slopes(p, block, rows, columns, columns == 0 && chunk == 0);
    }
  }
  const Pointer<double> room = shared<double>(CellShared<Acc>::own_at);
  loss = block_sum<kCellThreads>(room, loss);
  share = block_sum<kCellThreads>(room, share);
  if (threadIdx.x == 0) {
    p.sums[blockIdx.x] = loss;
    p.sums[static_cast<i64>(gridDim.x) + blockIdx.x] = share;
  }
}

#define FASTUDA_CROSS_ENTROPY(T)                                       \
  template __global__ void cross_entropy<T, true>(CrossEntropy<T>);    \
  template __global__ void cross_entropy<T, false>(CrossEntropy<T>);
FASTUDA_CROSS_ENTROPY(float)
FASTUDA_CROSS_ENTROPY(Half)
FASTUDA_CROSS_ENTROPY(BFloat16)
FASTUDA_CROSS_ENTROPY(double)

#if !defined(FASTUDA_KERNELS_ONLY)

struct CrossEntropyProblem {
  ScoreBuffer logits;
  Axis down, along;
  PixelBuffer labels;
  int label_bytes;
  i64 ignore_index;
  Buffer weight;
  i64 weight_stride;
  int weight_bytes;  // of a number; 0 where there is none
  PixelBuffer pixel_weight;
  int pixel_weight_bytes;
  double smoothing;
  bool with_map, with_slope;

  Cells cells() const { return cut_cells(down, along, logits.images, logits.classes); }
  i64 sum_size() const { return logits.type == Type::float64 ? 8 : 4; }

  struct Parts {
    Buffer sums, partials;
    i64 bytes;
  };
  Parts parts(const Buffer& whole) const {
    const Cells c = cells();
    Scratch scratch{whole};
    Parts p{scratch.take(2 * c.blocks(), 8), scratch.take(with_slope ? c.partials() : 0, sum_size()), 0};
    p.bytes = scratch.used;
    return p;
  }
};

inline Reals reals(const Buffer& buffer, int bytes) {
  return {global<const float>(buffer), global<const double>(buffer), bytes};
}

// total (2), losses (N, H, W) and slope (N, K, h, w), the last two where they are asked for.
inline void run_cross_entropy(
    const CrossEntropyProblem& p, const Buffer& scratch, Buffer total, Buffer losses, Buffer slope, Stream stream) {
  const CrossEntropyProblem::Parts part = p.parts(scratch);
  with_type(p.logits.type, [&](auto kind) {
    using T = decltype(kind);
    using Acc = Accumulate<T>;
    const CrossEntropy<T> s{
        p.cells(), make_scores<T>(p.logits), make_labels(p.labels, p.label_bytes, p.logits.classes, p.ignore_index),
        reals(p.weight, p.weight_bytes), reals(p.pixel_weight.buffer, p.pixel_weight_bytes), p.weight_stride,
        p.pixel_weight.grid, static_cast<Acc>(p.smoothing), p.with_map, global<Acc>(losses),
        global<Acc>(part.partials), global<double>(part.sums)};
    const i64 blocks = s.cells.blocks();
    const int bytes = CellShared<Acc>::own_at + kCellThreads / kWarp * 8;
    const auto kernel = p.with_slope ? cross_entropy<T, true> : cross_entropy<T, false>;
    if (blocks) launch(kernel, dim3(static_cast<u32>(blocks)), dim3(kCellThreads), bytes, stream, s);
    run_totals<Acc>(s.sums, blocks, 2, total, stream);
    if (p.with_slope) run_gather<Acc>(s.cells, s.partials, slope, stream);
  });
}

#endif
}  // namespace fastuda::cuda

#if !defined(FASTUDA_KERNELS_ONLY) && !defined(FASTUDA_EMULATION)
namespace fastuda::cuda {

std::tuple<Tensor, Tensor, Tensor> upsample_cross_entropy_cuda(
    const Tensor& logits, const Tensor& target, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& pixel_weight, bool align_corners, int64_t ignore_index, double label_smoothing,
    bool with_map, bool with_slope) {
  STD_TORCH_CHECK(
      target.dim() == 3 && logits.dim() == 4 && target.size(0) == logits.size(0),
      "logits must be (N, K, h, w) and target (N, H, W)");
  STD_TORCH_CHECK(!weight || (weight->dim() == 1 && weight->size(0) == logits.size(1)), "weight must be (K,)");
  STD_TORCH_CHECK(
      !pixel_weight || (pixel_weight->dim() == 3 && pixel_weight->size(0) == target.size(0) &&
                        pixel_weight->size(1) == target.size(1) && pixel_weight->size(2) == target.size(2)),
      "pixel_weight must be (N, H, W)");
  const Device device(logits);
  CrossEntropyProblem p{
      score_buffer(logits, "logits"), upsample_axis(target.size(1), logits.size(2), align_corners),
      upsample_axis(target.size(2), logits.size(3), align_corners), pixel_buffer(target, false), label_bytes(target),
      ignore_index};
  if (weight) {
    p.weight = buffer(*weight);
    p.weight_stride = weight->stride(0);
    p.weight_bytes = is_double(*weight, "weight") ? 8 : 4;
  }
  if (pixel_weight) {
    p.pixel_weight = pixel_buffer(*pixel_weight, false);
    p.pixel_weight_bytes = is_double(*pixel_weight, "pixel_weight") ? 8 : 4;
  }
  p.smoothing = label_smoothing;
  p.with_map = with_map;
  p.with_slope = with_slope;
  small(p.cells().blocks());
  const auto make = [&](bool wanted, const Tensor& like) {
    std::vector<int64_t> size{0};
    if (wanted) size = {like.size(0), like.size(1), like.size(2)};
    if (wanted && like.dim() == 4) size.push_back(like.size(3));
    return torch::stable::new_empty(logits, size, statistic_type(p.logits.type));
  };
  Tensor total = torch::stable::new_empty(logits, {2}, statistic_type(p.logits.type));
  Tensor losses = make(with_map, target), slope = make(with_slope, logits);
  Tensor scratch = torch::stable::new_empty(logits, {p.parts({nullptr, 0}).bytes}, ScalarType::Byte);
  run_cross_entropy(p, buffer(scratch), buffer(total), buffer(losses), buffer(slope), device.stream());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {total, losses, slope};
}

}  // namespace fastuda::cuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CUDA, m) {
  m.impl("upsample_cross_entropy_cuda", TORCH_BOX(&fastuda::cuda::upsample_cross_entropy_cuda));
}
#endif
