// Triplet partners on the CPU: source rows counted and sorted by class and mode, then two random places a target row.
#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/random_seed.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 4096;

struct Rows {
  const int64_t *label, *mode;
  int64_t count, label_stride, mode_stride, classes, modes;

  // class x M + mode, or K x M for rows that take no part.
  int64_t bucket(int64_t i) const {
    const int64_t k = label[i * label_stride], m = mode[i * mode_stride];
    return k >= 0 && k < classes && m >= 0 && m < modes ? k * modes + m : classes * modes;
  }
};

Rows rows(const Tensor& label, const Tensor& mode, int64_t classes, int64_t modes) {
  STD_TORCH_CHECK(
      label.scalar_type() == ScalarType::Long && mode.scalar_type() == ScalarType::Long && label.dim() == 1 &&
          mode.dim() == 1 && label.size(0) == mode.size(0),
      "classes and modes must be int64 vectors of one length");
  STD_TORCH_CHECK(
      classes >= 1 && modes >= 1 && classes <= INT32_MAX / modes,
      "num_classes and num_modes must be at least 1, and their product below 2^31");
  return {static_cast<const int64_t*>(label.const_data_ptr()), static_cast<const int64_t*>(mode.const_data_ptr()),
          label.size(0), label.stride(0), mode.stride(0), classes, modes};
}

// The source rows sorted by bucket and number; rows of bucket i are order[starts[i] .. starts[i + 1]).
struct Sorted {
  std::vector<int64_t> starts, order;

  explicit Sorted(const Rows& source) : starts(source.classes * source.modes + 2), order(source.count) {
    std::vector<int64_t> bucket(source.count);
    for (int64_t i = 0; i < source.count; ++i) ++starts[(bucket[i] = source.bucket(i)) + 1];
    for (size_t i = 1; i < starts.size(); ++i) starts[i] += starts[i - 1];
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t i = 0; i < source.count; ++i) order[next[bucket[i]]++] = i;
  }
};

std::tuple<Tensor, Tensor, Tensor> select_triplets(
    const Tensor& source_class, const Tensor& source_mode, const Tensor& target_class, const Tensor& target_mode,
    const Tensor& seed, int64_t num_classes, int64_t num_modes) {
  const Rows target = rows(target_class, target_mode, num_classes, num_modes);
  const Sorted source(rows(source_class, source_mode, num_classes, num_modes));
  const RandomBits random = random_bits(seed);
  Tensor positive = torch::stable::new_empty(target_class, {target.count}, ScalarType::Long);
  Tensor negative = torch::stable::new_empty(target_class, {target.count}, ScalarType::Long);
  Tensor valid = torch::stable::new_empty(target_class, {target.count}, ScalarType::Bool);
  int64_t* to_positive = static_cast<int64_t*>(positive.mutable_data_ptr());
  int64_t* to_negative = static_cast<int64_t*>(negative.mutable_data_ptr());
  bool* to_valid = static_cast<bool*>(valid.mutable_data_ptr());
  const int64_t *starts = source.starts.data(), *order = source.order.data();
  const int64_t buckets = num_classes * num_modes, usable = starts[buckets];
  torch::stable::parallel_for(0, target.count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      to_positive[i] = to_negative[i] = 0;
      to_valid[i] = false;
      const int64_t bucket = target.bucket(i);
      if (bucket == buckets) continue;
      const int64_t first = starts[bucket], own = starts[bucket + 1] - first;
      const int64_t label = bucket / num_modes, class_first = starts[label * num_modes];
      const int64_t class_count = starts[(label + 1) * num_modes] - class_first, others = usable - class_count;
      if (own == 0 || others == 0) continue;
      const uint32_t counter = static_cast<uint32_t>(i);
      const int64_t other = below(random.of(counter, 1), static_cast<uint32_t>(others));
      to_positive[i] = order[first + below(random.of(counter, 0), static_cast<uint32_t>(own))];
      to_negative[i] = order[other < class_first ? other : other + class_count];
      to_valid[i] = true;
    }
  });
  return {positive, negative, valid};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("select_triplets", TORCH_BOX(&fastuda::select_triplets)); }
