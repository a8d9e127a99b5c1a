// Means or sums of one or two losses over the pixels that count, and their number, on the CPU.
//
// Sums are float64 over segments of fixed length, added up in their order: the same bits for any number of threads.
// The loop is bound by memory, so it is compiled for one instruction set only.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/pixels.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 1024, kSegment = 1 << 15;  // pixels whose labels are read at once; of a task
constexpr int kSums = 4;                              // that take turns, so that an addition seldom waits for another

struct LossView {
  PixelGrid grid;
  const void* data;
};

struct Sums {
  double losses[2] = {0, 0};
  int64_t count = 0;
};

// The sum of the losses of pixels [begin, end) whose class is one.
template <class T>
double sum_block(const LossView& from, const int32_t* label, int32_t classes, int64_t begin, int64_t end) {
  double sums[kSums] = {};
  from.grid.runs(begin, end, [&](int64_t pixel, int64_t offset, int64_t length) {
    const T* at = static_cast<const T*>(from.data) + offset;
    const int32_t* own = label + (pixel - begin);
    const int64_t step = from.grid.column_stride;
    // Selected, not multiplied by 0: the loss of an ignored pixel may be NaN.
    const auto term = [=](int64_t i) { return own[i] < classes ? static_cast<double>(at[i * step]) : 0.0; };
    int64_t i = 0;
    for (; i + kSums <= length; i += kSums)
      for (int j = 0; j < kSums; ++j) sums[j] += term(i + j);
    for (; i < length; ++i) sums[0] += term(i);
  });
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

Sums sum_segment(const LossView (&losses)[2], bool wide, const LabelView& labels, int64_t begin, int64_t end) {
  Sums sums;
  int32_t label[kBlock];
  const int32_t classes = static_cast<int32_t>(labels.num_classes);
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t last = std::min(first + kBlock, end);
    labels.read(first, last, label);
    sums.count += std::count_if(label, label + (last - first), [=](int32_t y) { return y < classes; });
    for (int i = 0; i < 2; ++i) {
      if (!losses[i].data) continue;
      sums.losses[i] += wide ? sum_block<double>(losses[i], label, classes, first, last)
                             : sum_block<float>(losses[i], label, classes, first, last);
    }
  }
  return sums;
}

Tensor scalar(const Tensor& like, ScalarType type, double value) {
  Tensor result = torch::stable::new_empty(like, {}, type);
  if (type == ScalarType::Double) *static_cast<double*>(result.mutable_data_ptr()) = value;
  else *static_cast<float*>(result.mutable_data_ptr()) = static_cast<float>(value);
  return result;
}

std::tuple<Tensor, Tensor, Tensor> pixel_mean(
    const Tensor& losses, const std::optional<Tensor>& others, const Tensor& labels, int64_t num_classes,
    int64_t ignore_index, bool mean) {
  const ScalarType type = losses.scalar_type();
  const bool wide = is_double(losses, "losses");
  STD_TORCH_CHECK(num_classes >= 0 && num_classes < int64_t(1) << 31, "num_classes must be below 2^31");
  for (const Tensor& t : {losses, others ? *others : losses})
    STD_TORCH_CHECK(
        t.scalar_type() == type && (t.dim() == 1 || t.dim() == 3) && t.dim() == labels.dim() &&
            t.numel() == labels.numel(),
        "losses and labels must be (N, H, W) or (P,) of one shape, and both losses of one dtype");
  const LossView views[2] = {
      {label_grid(losses), losses.const_data_ptr()},
      {label_grid(others ? *others : losses), others ? others->const_data_ptr() : nullptr}};
  const LabelView of = label_view(labels, num_classes, ignore_index);
  const int64_t pixels = labels.numel(), segments = (pixels + kSegment - 1) / kSegment;
  std::vector<Sums> parts(segments);
  torch::stable::parallel_for(0, segments, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      parts[i] =
          sum_segment(views, wide, of, i * kSegment, std::min(pixels, (i + 1) * kSegment));
  });
  Sums all;
  for (const Sums& part : parts) {
    for (int i = 0; i < 2; ++i) all.losses[i] += part.losses[i];
    all.count += part.count;
  }
  const int64_t divisor = mean ? std::max<int64_t>(1, all.count) : all.count;
  const double by = mean ? static_cast<double>(divisor) : 1.0;
  Tensor count = torch::stable::new_empty(losses, {}, ScalarType::Long);
  *static_cast<int64_t*>(count.mutable_data_ptr()) = divisor;
  return {
      scalar(losses, type, all.losses[0] / by),
      others ? scalar(losses, type, all.losses[1] / by) : torch::stable::new_empty(losses, {0}, type), count};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("pixel_mean", TORCH_BOX(&fastuda::pixel_mean)); }
