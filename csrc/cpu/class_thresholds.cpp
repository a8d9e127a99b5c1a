// Order statistics of confidence by class on the CPU, exact without a sort.
//
// A pass counts, for every class, the confidences in at most 2050 bins of the interval that holds the wanted one. The
// first interval is all numbers, with equal bins between 0 and 1; each later one is a bin of the pass before, divided
// by the bits of its floats. As soon as few pixels are left in the intervals, they are collected and the wanted one is
// selected. Counts are integers and the selection does not depend on the order of the pixels, so the result does not
// depend on the number of threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/parallel.h"
#include "cpu/pixels.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlock = 1024;               // pixels read at once: they stay in the nearest cache
constexpr int64_t kSegment = int64_t(1) << 16;  // pixels of a task
constexpr int64_t kMostKept = int64_t(1) << 16;
constexpr int kDigit = 11;
constexpr int32_t kSteps = 1 << kDigit;  // of the interval from 0 to 1, in the first pass
constexpr int32_t kBins = kSteps + 2;    // and one for 1 alone, one for what is above

// Whole numbers in the order of the floats.
uint32_t key_of(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

float value_of(uint32_t key) { return std::bit_cast<float>(key >> 31 ? key & 0x7fffffffu : ~key); }

struct ValueView {
  PixelGrid grid;
  const void* data;
  ScalarType type;

  // Writes pixels [begin, end) rounded to float32.
  FASTUDA_INLINE void read(int64_t begin, int64_t end, float* out) const {
    if (type == ScalarType::Float) return read_as<float>(begin, end, out);
    if (type == ScalarType::Half) return read_as<torch::headeronly::Half>(begin, end, out);
    if (type == ScalarType::BFloat16) return read_as<torch::headeronly::BFloat16>(begin, end, out);
    read_as<double>(begin, end, out);
  }

 private:
  template <class T>
  FASTUDA_INLINE void read_as(int64_t begin, int64_t end, float* out) const {
    const int64_t step = grid.column_stride;
    grid.runs(begin, end, [&](int64_t pixel, int64_t offset, int64_t length) {
      const T* from = static_cast<const T*>(data) + offset;
      float* to = out + (pixel - begin);
      int64_t i = 0;
      if constexpr (sizeof(T) <= sizeof(float))
        for (; step == 1 && i + kLanes<float> <= length; i += kLanes<float>) {
          Vec<float> x;
          load(from + i, x);
          store(x, to + i);
        }
      for (; i < length; ++i) to[i] = static_cast<float>(from[i * step]);
    });
  }
};

// The keys among which a class's confidence is wanted: `width` from `low`, of which it is number `rank` from below.
struct Interval {
  uint32_t low = 0, width = 0;
  int shift = 0;  // of a key's distance from `low`, to its bin
  int64_t rank = 0, count = 0;

  bool open() const { return width > 1; }

  void narrow(uint32_t from, uint64_t to) {
    low = from;
    width = static_cast<uint32_t>(to - from);
    shift = std::max(0, static_cast<int>(std::bit_width(width - 1)) - kDigit);
  }
};

struct Search {
  LabelView label;
  ValueView value;
  int64_t pixels, classes;
  // Of each class and, last, of pixels that are left out: none.
  std::vector<uint32_t> low, width;
  std::vector<int32_t> shift;
  std::vector<Interval> intervals;

  int64_t segments() const { return (pixels + kSegment - 1) / kSegment; }

  void prepare() {
    for (int64_t k = 0; k < classes; ++k) {
      low[k] = intervals[k].low;
      width[k] = intervals[k].open() ? intervals[k].width : 0;
      shift[k] = intervals[k].shift;
    }
  }
};

// Calls block(labels, values, count) for the pixels of some segments; NaN has no label.
template <class Block>
FASTUDA_INLINE void for_blocks(const Search& s, int64_t begin, int64_t end, const Block& block) {
  alignas(64) int32_t label[kBlock];
  alignas(64) float value[kBlock];
  const int64_t last = std::min(s.pixels, end * kSegment);
  const int32_t none = static_cast<int32_t>(s.classes);
  for (int64_t first = begin * kSegment; first < last; first += kBlock) {
    const int64_t count = std::min(kBlock, last - first);
    s.label.read(first, first + count, label);
    s.value.read(first, first + count, value);
    for (int64_t i = 0; i < count; ++i) {
      label[i] = value[i] == value[i] ? label[i] : none;
      value[i] += 0.0f;  // makes the two zeros one
    }
    block(label, value, count);
  }
}

FASTUDA_INLINE void count_all(const Search& s, int64_t begin, int64_t end, uint32_t* counts) {
  for_blocks(s, begin, end, [=](int32_t* label, const float* value, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const float positive = value[i] > 0.0f ? value[i] : 0.0f;
      const float inside = positive < 1.0f ? positive : 1.0f;
      label[i] = label[i] * kBins + static_cast<int32_t>(inside * kSteps) + (value[i] > 1.0f);
    }
    for (int64_t i = 0; i < count; ++i) ++counts[label[i]];
  });
}

// The distance of each pixel's key from its class's interval; true where that holds it.
FASTUDA_INLINE bool distance_of(const Search& s, int32_t label, float value, uint32_t& distance) {
  const int32_t bits = std::bit_cast<int32_t>(value);
  const uint32_t key = static_cast<uint32_t>(bits) ^ (static_cast<uint32_t>(bits >> 31) | 0x80000000u);
  distance = key - s.low[label];
  return distance < s.width[label];
}

FASTUDA_INLINE void count_inside(const Search& s, int64_t begin, int64_t end, uint32_t* counts) {
  const int32_t outside = static_cast<int32_t>(s.classes) * kBins;
  for_blocks(s, begin, end, [&](int32_t* label, const float* value, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      uint32_t distance;
      const bool inside = distance_of(s, label[i], value[i], distance);
      const uint32_t bin = static_cast<uint32_t>(label[i]) * kBins + (distance >> s.shift[label[i]]);
      // Sixteen cells in turn: an increment waits for the one before it in the same cell.
      label[i] = inside ? static_cast<int32_t>(bin) : outside + static_cast<int32_t>(i & 15);
    }
    for (int64_t i = 0; i < count; ++i) ++counts[label[i]];
  });
}

struct Found {
  int32_t label;
  uint32_t distance;
};

FASTUDA_INLINE void collect(const Search& s, int64_t begin, int64_t end, std::vector<Found>& found) {
  for_blocks(s, begin, end, [&](int32_t* label, const float* value, int64_t count) {
    alignas(64) uint32_t distance[kBlock];
    alignas(64) int32_t inside[kBlock];
    for (int64_t i = 0; i < count; ++i) inside[i] = distance_of(s, label[i], value[i], distance[i]);
    for (int64_t i = 0; i < count; i += 16) {
      int32_t any = 0;
      for (int64_t j = i; j < std::min(i + 16, count); ++j) any |= inside[j];
      if (!any) continue;
      for (int64_t j = i; j < std::min(i + 16, count); ++j)
        if (inside[j]) found.push_back({label[j], distance[j]});
    }
  });
}

// Counts (classes, kBins) of one pass.
template <class Pass>
std::vector<uint32_t> count(const Search& s, const Pass& pass) {
  std::vector<uint32_t> total((s.classes + 1) * kBins);
  std::mutex one_at_a_time;
  torch::stable::parallel_for(0, s.segments(), 1, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> own(total.size());
    with_isa<float>([&]<Isa isa>() {
      on_isa<float, isa>([&]() FASTUDA_INLINED { pass(begin, end, own.data()); });
    });
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    for (size_t i = 0; i < total.size(); ++i) total[i] += own[i];
  });
  return total;
}

// Moves an interval's rank and count into the bin that holds the rank, and returns the bin.
int32_t bin_of(const uint32_t* counts, Interval& interval) {
  int32_t bin = 0;
  for (; bin < kBins - 1 && interval.rank >= counts[bin]; ++bin) interval.rank -= counts[bin];
  interval.count = counts[bin];
  return bin;
}

// The rank from below of the wanted one of `count`, by the rule of the definition.
int64_t rank_of(int64_t count, double portion, bool from_top) {
  const double share = portion * static_cast<double>(count);
  if (from_top) return count - std::max<int64_t>(1, static_cast<int64_t>(std::floor(share)));
  return std::max<int64_t>(1, static_cast<int64_t>(std::ceil(share))) - 1;
}

void first_pass(Search& s, double portion, bool from_top) {
  const std::vector<uint32_t> counts = count(
      s, [&](int64_t begin, int64_t end, uint32_t* own) FASTUDA_INLINED { count_all(s, begin, end, own); });
  const uint32_t one = key_of(1.0f), above = key_of(std::numeric_limits<float>::infinity()) + 1;
  for (int64_t k = 0; k < s.classes; ++k) {
    Interval& interval = s.intervals[k];
    const uint32_t* own = counts.data() + k * kBins;
    int64_t all = 0;
    for (int32_t b = 0; b < kBins; ++b) all += own[b];
    if (all == 0) continue;
    interval.rank = rank_of(all, portion, from_top);
    const int32_t bin = bin_of(own, interval);
    const auto edge = [](int32_t b) { return key_of(static_cast<float>(b) / kSteps); };
    if (bin == kSteps + 1) interval.narrow(one + 1, above);
    else if (bin == kSteps) interval.narrow(one, one + 1);
    else interval.narrow(bin == 0 ? 0 : edge(bin), edge(bin + 1));
  }
}

void next_pass(Search& s) {
  const std::vector<uint32_t> counts = count(
      s, [&](int64_t begin, int64_t end, uint32_t* own) FASTUDA_INLINED { count_inside(s, begin, end, own); });
  for (int64_t k = 0; k < s.classes; ++k) {
    Interval& interval = s.intervals[k];
    if (!interval.open()) continue;
    const uint64_t size = uint64_t(1) << interval.shift;
    const uint32_t bin = static_cast<uint32_t>(bin_of(counts.data() + k * kBins, interval));
    const uint32_t from = interval.low + (bin << interval.shift);
    interval.narrow(from, std::min<uint64_t>(from + size, uint64_t(interval.low) + interval.width));
  }
}

// Ends the search among the pixels that are left.
void pick(Search& s) {
  std::vector<std::vector<uint32_t>> kept(s.classes);
  std::mutex one_at_a_time;
  torch::stable::parallel_for(0, s.segments(), 1, [&](int64_t begin, int64_t end) {
    std::vector<Found> found;
    with_isa<float>([&]<Isa isa>() {
      on_isa<float, isa>([&]() FASTUDA_INLINED { collect(s, begin, end, found); });
    });
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    for (const Found& f : found) kept[f.label].push_back(f.distance);
  });
  for (int64_t k = 0; k < s.classes; ++k) {
    Interval& interval = s.intervals[k];
    if (!interval.open()) continue;
    const auto wanted = kept[k].begin() + interval.rank;
    std::nth_element(kept[k].begin(), wanted, kept[k].end());
    interval.narrow(interval.low + *wanted, uint64_t(interval.low) + *wanted + 1);
  }
}

Tensor class_thresholds(
    const Tensor& confidence, const Tensor& label, int64_t num_classes, double portion, bool from_top,
    int64_t ignore_index) {
  const ScalarType type = confidence.scalar_type();
  STD_TORCH_CHECK(
      (label.dim() == 1 || label.dim() == 3) && label.dim() == confidence.dim() && label.numel() == confidence.numel(),
      "confidence and label must be (N, H, W) or (P,) of one shape");
  check_numbers(confidence, "confidence");
  STD_TORCH_CHECK(label.numel() < int64_t(1) << 32, "confidence must have fewer than 2^32 pixels");
  STD_TORCH_CHECK(num_classes >= 1 && num_classes < 1 << 19, "num_classes must be between 1 and 524287");
  Search s{label_view(label, num_classes, ignore_index), {label_grid(confidence), confidence.const_data_ptr(), type},
           label.numel(), num_classes};
  s.low.resize(num_classes + 1);
  s.width.resize(num_classes + 1);
  s.shift.resize(num_classes + 1);
  s.intervals.resize(num_classes);
  first_pass(s, portion, from_top);
  for (;;) {
    int64_t left = 0;
    for (const Interval& i : s.intervals) left += i.open() ? i.count : 0;
    if (left == 0) break;
    s.prepare();
    if (left > kMostKept) next_pass(s);
    else pick(s);
  }
  Tensor out = torch::stable::new_empty(confidence, {num_classes}, ScalarType::Float);
  float* to = static_cast<float*>(out.mutable_data_ptr());
  for (int64_t k = 0; k < num_classes; ++k)
    to[k] = s.intervals[k].width ? value_of(s.intervals[k].low) : 1.0f;
  return out;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("class_thresholds", TORCH_BOX(&fastuda::class_thresholds)); }
