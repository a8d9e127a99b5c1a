// Diagonal class moments on the CPU: one read of the features, no copy of them.
//
// Pixels are cut into chunks whose number depends on the shape alone. A chunk keeps, for each class it saw, a pivot
// (mean of the first few pixels), the sum and the sum of squares of x - pivot. A counting sort lists the chunk's pixels
// by class; cpu/class_moments_rows.h adds them up, class after class. The chunks are merged in order (Chan et al.
// 1979), which makes the result independent of the number of threads.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "cpu/class_moments_full.h"
#include "cpu/class_moments_rows.h"
#include "cpu/parallel.h"
#include "cpu/pixels.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostRows = 1 << 14;  // of a chunk
constexpr int64_t kFewChunks = 8;       // there are more, unless they would be too short

struct Problem {
  FeatureView features;
  LabelView labels;
  const void* data;
  ScalarType type;     // of the features
  int64_t padded;      // channels rounded up to whole vectors
  int64_t chunk_rows;  // pixels of a chunk
  int64_t chunks;
  void* partials;   // (chunks, classes, 3, padded): pivot, sum, sum of squares
  int64_t* counts;  // (chunks, classes)
  void* mean;
  void* m2;

  int64_t classes() const { return labels.num_classes; }
  int64_t tile_rows() const { return features.channel_stride == 1 ? chunk_rows : kStagePixels; }
};

// Scratch of one chunk.
template <class Acc>
struct Workspace {
  std::vector<int32_t> labels;
  std::vector<int64_t> offsets, rows, starts;
  std::vector<Acc> stage, level;  // the pivots of a class, as features: not larger than as sums
};

// Lists pixels [begin, end) by class: rows[starts[k] .. starts[k + 1]) are the element offsets of class k's pixels in
// the features or, where they are planes, in the stage; `offsets` are those of all pixels in the planes.
template <class Acc>
FASTUDA_INLINE void group_by_class(const Problem& problem, int64_t begin, int64_t end, Workspace<Acc>& work) {
  const int64_t classes = problem.classes(), count = end - begin, step = problem.features.grid.column_stride;
  const bool planes = problem.features.channel_stride != 1;
  const int32_t* label = work.labels.data();
  int64_t *starts = work.starts.data(), *rows = work.rows.data(), *offsets = work.offsets.data();
  problem.labels.read(begin, end, work.labels.data());
  std::fill_n(starts, classes + 3, 0);
  for (int64_t i = 0; i < count; ++i) ++starts[label[i] + 2];
  for (int64_t k = 1; k <= classes + 1; ++k) starts[k + 1] += starts[k];
  problem.features.grid.runs(begin, end, [=](int64_t pixel, int64_t offset, int64_t length) {
    const int64_t first = pixel - begin;
    if (planes)
      for (int64_t i = 0; i < length; ++i) offsets[first + i] = offset + i * step;
    else
      for (int64_t i = 0; i < length; ++i) rows[starts[label[first + i] + 1]++] = offset + i * step;
  });
  if (planes)
    for (int64_t i = 0; i < count; ++i) rows[starts[label[i] + 1]++] = i * kStageChannels;
  const int64_t valid = starts[classes];
  std::fill_n(rows + valid, kBeyondRows, valid ? rows[valid - 1] : 0);  // what the last rows prefetch
}

template <class T, class Acc>
FASTUDA_INLINE void accumulate_classes(
    const Problem& problem, Workspace<Acc>& work, const T* base, int64_t channels, bool beyond, Acc* tables,
    const int64_t* counts) {
  const int64_t row_bytes = std::max<int64_t>(channels * int64_t(sizeof(T)), 1);
  const int64_t ahead = std::clamp<int64_t>(kRows * kAheadBytes / row_bytes, kRows, kMostAhead);
  T* const level = reinterpret_cast<T*>(work.level.data());
  for (int64_t k = 0; k < problem.classes(); ++k)
    if (const int64_t first = work.starts[k], count = work.starts[k + 1] - first; count)
      accumulate(
          Group<T>{base, work.rows.data() + first, count, level, ahead, counts[k] == 0, beyond}, channels,
          tables + k * 3 * problem.padded, problem.padded);
}

// Adds rows of the features without converting them first, which would write and read them once more.
template <class Acc, Isa isa>
void add_rows_of_features(const Problem& problem, Workspace<Acc>& work, Acc* tables, const int64_t* counts) {
  const FeatureView& view = problem.features;
  const int64_t* const rows = work.rows.data();
  const int64_t furthest = *std::max_element(rows, rows + work.starts[problem.classes()] + 1);
  const bool beyond = furthest + problem.padded <= view.grid.furthest() + view.channels;
  with_type<Acc>(problem.type, [&]<class T>() {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED {
      accumulate_classes(problem, work, static_cast<const T*>(problem.data), view.channels, beyond, tables, counts);
    });
  });
}

template <class Acc, Isa isa>
void add_planes(const Problem& problem, int64_t count, Workspace<Acc>& work, Acc* tables, const int64_t* counts) {
  const FeatureView& view = problem.features;
  for (int64_t c = 0; c < view.channels; c += kStageChannels) {
    const int64_t width = std::min(kStageChannels, view.channels - c);
    on_isa<Acc, isa>([&]() FASTUDA_INLINED {
      stage_channels<isa>(
          problem.data, problem.type, work.offsets.data(), count, view, c, width, work.stage.data(), kStageChannels);
      accumulate_classes(problem, work, work.stage.data(), width, true, tables + c, counts);
    });
  }
}

template <class Acc, Isa isa>
void add_chunk(const Problem& problem, int64_t chunk, Workspace<Acc>& work) {
  const FeatureView& view = problem.features;
  const int64_t classes = problem.classes(), tile = problem.tile_rows();
  Acc* tables = static_cast<Acc*>(problem.partials) + chunk * classes * 3 * problem.padded;
  int64_t* counts = problem.counts + chunk * classes;
  std::fill(counts, counts + classes, 0);
  const int64_t last = std::min(view.grid.pixels(), (chunk + 1) * problem.chunk_rows);
  for (int64_t begin = chunk * problem.chunk_rows; begin < last; begin += tile) {
    const int64_t end = std::min(begin + tile, last);
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { group_by_class(problem, begin, end, work); });
    if (view.channel_stride == 1) add_rows_of_features<Acc, isa>(problem, work, tables, counts);
    else add_planes<Acc, isa>(problem, end - begin, work, tables, counts);
    for (int64_t k = 0; k < classes; ++k) counts[k] += work.starts[k + 1] - work.starts[k];
  }
}

// Merges the partial sums of one class over the chunks, in order, in double.
template <class Acc>
FASTUDA_INLINE void merge_class(const Problem& problem, int64_t label, double* mean, double* m2) {
  const int64_t channels = problem.features.channels, padded = problem.padded;
  std::fill(mean, mean + channels, 0.0);
  std::fill(m2, m2 + channels, 0.0);
  double total = 0;
  for (int64_t chunk = 0; chunk < problem.chunks; ++chunk) {
    const double count = static_cast<double>(problem.counts[chunk * problem.classes() + label]);
    if (count == 0) continue;
    const Acc* pivot = static_cast<const Acc*>(problem.partials) + (chunk * problem.classes() + label) * 3 * padded;
    const Acc *sum = pivot + padded, *square = pivot + 2 * padded;
    const double each = 1 / count, share = count / (total + count), cross = total * share;
    // The next chunk's sums of this class lie far away, so the hardware does not prefetch them.
    const int64_t ahead = chunk + 1 < problem.chunks ? problem.classes() * 3 * padded : 0;
    constexpr int64_t block = 256 / sizeof(Acc);
    for (int64_t begin = 0; begin < channels; begin += block) {
      for (const Acc* next : {pivot + ahead, sum + ahead, square + ahead})
        for (int64_t c = begin; c < begin + block; c += 64 / sizeof(Acc)) __builtin_prefetch(next + c);
      for (int64_t c = begin; c < std::min(begin + block, channels); ++c) {
        const double shift = sum[c] * each, spread = square[c] - sum[c] * shift;
        const double delta = pivot[c] + shift - mean[c];
        mean[c] += delta * share;
        m2[c] += (spread < 0 ? 0 : spread) + delta * delta * cross;
      }
    }
    total += count;
  }
  Acc* out_mean = static_cast<Acc*>(problem.mean) + label * channels;
  Acc* out_m2 = static_cast<Acc*>(problem.m2) + label * channels;
  for (int64_t c = 0; c < channels; ++c) {
    out_mean[c] = static_cast<Acc>(mean[c]);
    out_m2[c] = static_cast<Acc>(m2[c]);
  }
}

template <class Acc, Isa isa>
void run_on(const Problem& problem) {
  const int64_t tile = std::min(problem.tile_rows(), problem.features.grid.pixels());
  torch::stable::parallel_for(0, problem.chunks, 1, [&](int64_t begin, int64_t end) {
    Workspace<Acc> work;
    work.labels.resize(tile);
    work.offsets.resize(tile);
    work.rows.resize(tile + kBeyondRows);
    work.starts.resize(problem.classes() + 3);
    work.level.resize(problem.padded);
    if (problem.features.channel_stride != 1) work.stage.resize(tile * kStageChannels);
    for (int64_t i = begin; i < end; ++i) add_chunk<Acc, isa>(problem, i, work);
  });
  torch::stable::parallel_for(0, problem.classes(), 1, [&](int64_t begin, int64_t end) {
    std::vector<double> mean(problem.features.channels), m2(problem.features.channels);
    on_isa<Acc, isa>([&]() FASTUDA_INLINED {
      for (int64_t k = begin; k < end; ++k) merge_class<Acc>(problem, k, mean.data(), m2.data());
    });
  });
}

// Pixels of a chunk. Long chunks need little memory for partial sums and have few incomplete bundles of rows; short
// ones keep more threads busy. A chunk has at most kMostRows, because the error of a float32 sum grows with its length.
int64_t rows_of_chunk(int64_t pixels, int64_t channels, int64_t classes) {
  const int64_t least = std::max<int64_t>(64 * classes, 256);
  const int64_t wanted = (int64_t(1) << 20) / std::max<int64_t>(channels, 1);
  const int64_t most = std::max(least, std::min(kMostRows, (pixels + kFewChunks - 1) / kFewChunks));
  return std::clamp(std::max(wanted, 2 * least), least, most);
}

std::tuple<Tensor, Tensor, Tensor> class_moments(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  const ScalarType type = features.scalar_type();
  const ScalarType statistic = sum_type(type);
  check_numbers(features, "features");
  Problem p{feature_view(features), label_view(labels, num_classes, ignore_index), features.const_data_ptr(),
            type};
  STD_TORCH_CHECK(p.labels.grid.pixels() == p.features.grid.pixels(), "labels must match the pixels of features");
  const int64_t channels = p.features.channels, lanes = 64 / bytes_of(statistic), pixels = p.features.grid.pixels();
  p.padded = (channels + lanes - 1) / lanes * lanes;
  p.chunk_rows = rows_of_chunk(pixels, channels, num_classes);
  p.chunks = (pixels + p.chunk_rows - 1) / p.chunk_rows;

  Tensor partials = torch::stable::new_empty(features, {p.chunks, num_classes, 3, p.padded}, statistic);
  Tensor counts = torch::stable::new_empty(features, {p.chunks, num_classes}, ScalarType::Long);
  Tensor count = torch::stable::new_empty(features, {num_classes}, ScalarType::Long);
  Tensor mean = torch::stable::new_empty(features, {num_classes, channels}, statistic);
  Tensor m2 = torch::stable::new_empty(features, {num_classes, channels}, statistic);
  p.partials = partials.mutable_data_ptr();
  p.counts = static_cast<int64_t*>(counts.mutable_data_ptr());
  p.mean = mean.mutable_data_ptr();
  p.m2 = m2.mutable_data_ptr();

  with_sums(type, [&]<class Acc>() { with_isa<Acc>([&]<Isa isa>() { run_on<Acc, isa>(p); }); });

  int64_t* out = static_cast<int64_t*>(count.mutable_data_ptr());
  std::fill(out, out + num_classes, 0);
  for (int64_t i = 0; i < p.chunks * num_classes; ++i) out[i % num_classes] += p.counts[i];
  return {count, mean, m2};
}

std::tuple<Tensor, Tensor, Tensor> class_moments_full(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  const ScalarType type = features.scalar_type();
  const ScalarType statistic = sum_type(type);
  check_numbers(features, "features");
  Tensor rows = features;  // planes are copied into rows: a pixel gathered from planes touches a cache line per channel
  if (features.stride(1) != 1) {
    rows = features.dim() == 2 ? features : torch::stable::transpose(torch::stable::transpose(features, 1, 2), 2, 3);
    rows = torch::stable::contiguous(rows);
    if (features.dim() == 4) rows = torch::stable::transpose(torch::stable::transpose(rows, 2, 3), 1, 2);
  }
  const FeatureView view = feature_view(rows);
  const LabelView classes = label_view(labels, num_classes, ignore_index);
  STD_TORCH_CHECK(classes.grid.pixels() == view.grid.pixels(), "labels must match the pixels of features");
  Tensor count = torch::stable::new_empty(features, {num_classes}, ScalarType::Long);
  Tensor mean = torch::stable::new_empty(features, {num_classes, view.channels}, statistic);
  Tensor m2 = torch::stable::new_empty(features, {num_classes, view.channels, view.channels}, statistic);
  with_sums(type, [&]<class Acc>() {
    with_isa<Acc>([&]<Isa isa>() {
      full_moments<Acc, isa>(
          view, classes, rows.const_data_ptr(), type, static_cast<int64_t*>(count.mutable_data_ptr()),
          mean.mutable_data_ptr(), m2.mutable_data_ptr());
    });
  });
  return {count, mean, m2};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("class_moments", TORCH_BOX(&fastuda::class_moments));
  m.impl("class_moments_full", TORCH_BOX(&fastuda::class_moments_full));
}
