// Counts of (truth, prediction) pairs on the CPU.
//
// The two labels of a pixel become one cell number, with a row and a column for ignored labels, so that no pixel needs
// a branch. A vector whose pixels all have the same pair is counted by one addition, which is the usual case. Otherwise
// four tables are used in turn, so that an increment seldom waits for the one before it. The counts are integers, so
// the order of the additions does not matter.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/parallel.h"
#include "cpu/pixels.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

typedef int32_t Cells __attribute__((vector_size(64)));

constexpr int64_t kBlock = 1024;               // pixels read at once: their labels stay in the nearest cache
constexpr int64_t kSegment = int64_t(1) << 18;  // pixels of a task; 32-bit counts are added to the result after each
constexpr int64_t kCellsOfFour = 1 << 12;      // up to this size there are four tables
constexpr int kLane = 16;

struct Pairs {
  LabelView truth, prediction;
  int64_t pixels, classes;
  int64_t* result;

  int64_t side() const { return classes + 1; }
  int64_t cells() const { return side() * side(); }
  int64_t tables() const { return cells() <= kCellsOfFour ? 4 : 1; }
};

FASTUDA_INLINE void load(const int32_t* from, Cells& to) { std::memcpy(&to, from, sizeof(to)); }

// Whether all lanes are `value`.
FASTUDA_INLINE bool uniform(const Cells& cells, int32_t value) {
  typedef uint64_t Half __attribute__((vector_size(32)));
  typedef uint64_t Quarter __attribute__((vector_size(16)));
  const Cells other = cells ^ value;
  Half half[2];
  std::memcpy(half, &other, sizeof(half));
  half[0] |= half[1];
  Quarter quarter[2];
  std::memcpy(quarter, half, sizeof(quarter));
  quarter[0] |= quarter[1];
  return (quarter[0][0] | quarter[0][1]) == 0;
}

// Adds the cells of `count` pixels.
FASTUDA_INLINE void add_cells(const int32_t* cell, int64_t count, uint32_t* table, int64_t next_table) {
  int64_t i = 0;
  for (; i + kLane <= count; i += kLane) {
    Cells cells;
    load(cell + i, cells);
    if (uniform(cells, cell[i])) {
      table[cell[i]] += kLane;
      continue;
    }
    for (int j = 0; j < kLane; ++j) ++table[(j & 3) * next_table + cell[i + j]];
  }
  for (; i < count; ++i) ++table[cell[i]];
}

FASTUDA_INLINE void count_segments(const Pairs& p, int64_t begin, int64_t end) {
  std::vector<uint32_t> table(p.cells() * p.tables());
  const int64_t next_table = p.tables() > 1 ? p.cells() : 0;
  const int32_t side = static_cast<int32_t>(p.side());
  alignas(64) int32_t cell[kBlock], other[kBlock];
  for (int64_t segment = begin; segment < end; ++segment) {
    const int64_t last = std::min(p.pixels, (segment + 1) * kSegment);
    for (int64_t first = segment * kSegment; first < last; first += kBlock) {
      const int64_t count = std::min(kBlock, last - first);
      p.truth.read(first, first + count, cell);
      p.prediction.read(first, first + count, other);
      for (int64_t i = 0; i < count; ++i) cell[i] = cell[i] * side + other[i];
      add_cells(cell, count, table.data(), next_table);
    }
    for (int64_t i = 0; i < p.classes; ++i)
      for (int64_t j = 0; j < p.classes; ++j) {
        int64_t sum = 0;
        for (int64_t t = 0; t < p.tables(); ++t) sum += table[t * p.cells() + i * side + j];
        if (sum) std::atomic_ref<int64_t>(p.result[i * p.classes + j]).fetch_add(sum, std::memory_order_relaxed);
      }
    std::fill(table.begin(), table.end(), 0);
  }
}

Tensor confusion_matrix(const Tensor& prediction, const Tensor& truth, int64_t num_classes) {
  const auto fits = [](const Tensor& t) { return t.dim() == 1 || t.dim() == 3; };
  STD_TORCH_CHECK(
      fits(prediction) && fits(truth) && prediction.numel() == truth.numel() && prediction.dim() == truth.dim(),
      "prediction and truth must be (N, H, W) or (P,) of one shape");
  STD_TORCH_CHECK(num_classes >= 1 && num_classes < 1 << 15, "num_classes must be between 1 and 32767");
  Tensor result = torch::stable::new_empty(truth, {num_classes, num_classes}, ScalarType::Long);
  int64_t* counts = static_cast<int64_t*>(result.mutable_data_ptr());
  std::fill_n(counts, num_classes * num_classes, 0);
  const Pairs p{
      label_view(truth, num_classes, -1), label_view(prediction, num_classes, -1), truth.numel(), num_classes, counts};
  const int64_t segments = (p.pixels + kSegment - 1) / kSegment;
  parallel<float>(segments, 1, [&]<Isa isa>(int64_t begin, int64_t end) FASTUDA_INLINED {
    count_segments(p, begin, end);
  });
  return result;
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) { m.impl("confusion_matrix", TORCH_BOX(&fastuda::confusion_matrix)); }
