// Diagonal class moments on the CPU: one read of the features, no copy of them.
//
// Pixels are cut into chunks whose number depends on the shape alone. A chunk keeps, for each class it saw, a pivot
// (mean of the first few pixels), the sum and the sum of squares of x - pivot. Inside a chunk, tiles of pixels are
// grouped by class with a counting sort, so that sums stay in registers while the label does not change. The chunks are
// merged in order (Chan et al. 1979), which makes the result independent of the number of threads.
#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/moments_full.h"
#include "common/pixels.h"
#include "common/simd.h"

namespace fastuda {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kPivotRows = 16;
constexpr int64_t kRunRows = 64;

struct Problem {
  FeatureView features;
  LabelView labels;
  const void* data;
  int64_t padded;      // channels rounded up to whole vectors
  int64_t chunk_rows;  // pixels of a chunk
  int64_t chunks;
  void* partials;   // (chunks, classes, 3, padded): pivot, sum, sum of squares
  int64_t* counts;  // (chunks, classes)
  void* mean;
  void* m2;

  int64_t classes() const { return labels.num_classes; }
};

// Rows of one class inside a tile: element offsets from `base`, whose channels are contiguous.
template <class T>
struct Group {
  const T* base;
  const int64_t* rows;
  int64_t count;
  bool first;  // the class has no pivot yet
};

// Walks over the next tile while this one is summed: rows of a class are scattered, and the hardware cannot guess them.
struct Prefetch {
  uintptr_t at;

  FASTUDA_INLINE void next(int64_t bytes) {
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(reinterpret_cast<const void*>(at + line), 0, 2);
    at += bytes;
  }
};

template <bool kPartial, class T>
FASTUDA_INLINE void read(const T* from, int lanes, Vec<Accumulate<T>>& x) {
  if constexpr (kPartial) load_partial<T, Accumulate<T>>(from, lanes, x);
  else load(from, x);
}

// Adds kWidth vectors of channels, starting at `channel`, of one group to its partial sums.
template <int kWidth, bool kPartial, class T>
FASTUDA_INLINE void accumulate(
    const Group<T>& group, int64_t channel, int lanes, Accumulate<T>* sums, int64_t padded, Prefetch* ahead) {
  using Acc = Accumulate<T>;
  constexpr int step = kLanes<Acc>;
  const T* base = group.base + channel;
  Acc* at = sums + channel;
  Vec<Acc> pivot[kWidth], sum[kWidth], square[kWidth], x;
  if (group.first) {
    const int64_t rows = std::min(group.count, kPivotRows);
    for (int j = 0; j < kWidth; ++j) pivot[j] = Vec<Acc>{};
    for (int64_t i = 0; i < rows; ++i)
      for (int j = 0; j < kWidth; ++j) {
        read<kPartial>(base + group.rows[i] + j * step, lanes, x);
        pivot[j] += x;
      }
    for (int j = 0; j < kWidth; ++j) store(pivot[j] /= static_cast<Acc>(rows), at + j * step);
  }
  for (int j = 0; j < kWidth; ++j) {
    load(at + j * step, pivot[j]);
    sum[j] = square[j] = Vec<Acc>{};
  }
  for (int64_t i = 0; i < group.count; ++i) {
    const int64_t row = group.rows[i];
    if (ahead) ahead->next(kWidth * step * sizeof(T));
    for (int j = 0; j < kWidth; ++j) {
      read<kPartial>(base + row + j * step, lanes, x);
      x -= pivot[j];
      sum[j] += x;
      square[j] += x * x;
    }
  }
  for (int j = 0; j < kWidth; ++j) {
    for (int part = 1; part <= 2; ++part) {
      Vec<Acc> total = part == 1 ? sum[j] : square[j], before;
      Acc* to = at + part * padded + j * step;
      if (!group.first) {
        load(to, before);
        total += before;
      }
      store(total, to);
    }
  }
}

// All channels [0, channels) of one group, in blocks as wide as the registers allow and short runs of rows: what a sum
// in float32 loses grows with the number of rows added one by one.
template <int kWidth, class T>
FASTUDA_INLINE void accumulate_channels(
    const Group<T>& group, int64_t channels, Accumulate<T>* sums, int64_t padded, Prefetch* ahead) {
  constexpr int step = kLanes<Accumulate<T>>;
  for (int64_t begin = 0; begin < group.count; begin += kRunRows) {
    const Group<T> run{
        group.base, group.rows + begin, std::min(group.count - begin, kRunRows), group.first && begin == 0};
    int64_t c = 0;
    for (; c + kWidth * step <= channels; c += kWidth * step)
      accumulate<kWidth, false>(run, c, step, sums, padded, ahead);
    for (; c + step <= channels; c += step) accumulate<1, false>(run, c, step, sums, padded, ahead);
    if (c < channels) accumulate<1, true>(run, c, static_cast<int>(channels - c), sums, padded, ahead);
  }
}

// Copies channels [channel, channel + width) of `count` pixels into stage[pixel][width].
template <class T>
FASTUDA_INLINE void stage_channels(
    const T* from, const int64_t* offsets, int64_t count, const FeatureView& view, int64_t channel, int64_t width,
    Accumulate<T>* stage, int64_t pitch) {
  using Acc = Accumulate<T>;
  constexpr int step = kLanes<Acc>;
  for (int64_t i = 0; i < count; i += step) {
    const bool run =
        i + step <= count && view.grid.column_stride == 1 && offsets[i + step - 1] - offsets[i] == step - 1;
    for (int64_t c = 0; c < width; c += step) {
      const T* at = from + (channel + c) * view.channel_stride;
      if (run && c + step <= width) {
        Vec<Acc> block[step];
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) load(at + offsets[i] + j * view.channel_stride, block[j]);
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) store(block[j], stage + (i + j) * pitch + c);
      } else {
        for (int64_t p = i; p < std::min<int64_t>(i + step, count); ++p)
          for (int64_t j = 0; j < std::min<int64_t>(step, width - c); ++j)
            stage[p * pitch + c + j] = static_cast<Acc>(at[offsets[p] + j * view.channel_stride]);
      }
    }
  }
}

// Scratch of one chunk.
template <class T>
struct Workspace {
  std::vector<int32_t> labels;
  std::vector<int64_t> offsets, rows, starts;
  std::vector<Accumulate<T>> stage;
};

constexpr int64_t kStagePixels = 256;
constexpr int64_t kTileBytes = 1 << 18;

// A tile and the next one fit the second-level cache, unless there are many classes to make runs for.
template <class T>
int64_t tile_pixels(const Problem& problem) {
  if (problem.features.channel_stride != 1) return kStagePixels;
  const int64_t row_bytes = std::max<int64_t>(problem.features.channels * int64_t(sizeof(T)), 1);
  return std::clamp<int64_t>(kTileBytes / row_bytes, std::clamp<int64_t>(4 * problem.classes(), 128, 1024), 1024);
}

// Groups pixels [begin, end) by class: rows[starts[k] .. starts[k + 1]) are the positions of class k in the tile.
template <class T>
FASTUDA_INLINE void group_by_class(const Problem& problem, int64_t begin, int64_t end, Workspace<T>& work) {
  const int64_t classes = problem.classes(), count = end - begin;
  problem.labels.read(begin, end, work.labels.data());
  problem.features.grid.runs(begin, end, [&](int64_t pixel, int64_t offset, int64_t length) {
    for (int64_t i = 0; i < length; ++i)
      work.offsets[pixel - begin + i] = offset + i * problem.features.grid.column_stride;
  });
  std::fill(work.starts.begin(), work.starts.end(), 0);
  for (int64_t i = 0; i < count; ++i) ++work.starts[work.labels[i] + 2];
  for (int64_t k = 1; k <= classes + 1; ++k) work.starts[k + 1] += work.starts[k];
  for (int64_t i = 0; i < count; ++i) work.rows[work.starts[work.labels[i] + 1]++] = i;
}

template <int kWidth, class T>
FASTUDA_INLINE void chunk_body(const Problem& problem, int64_t chunk, Workspace<T>& work) {
  using Acc = Accumulate<T>;
  const FeatureView& view = problem.features;
  const T* data = static_cast<const T*>(problem.data);
  const int64_t classes = problem.classes(), padded = problem.padded, tile = tile_pixels<T>(problem);
  constexpr int64_t pitch = kWidth * kLanes<Acc>;
  Acc* partials = static_cast<Acc*>(problem.partials) + chunk * classes * 3 * padded;
  int64_t* counts = problem.counts + chunk * classes;
  std::fill(counts, counts + classes, 0);
  const int64_t last = std::min(problem.features.grid.pixels(), (chunk + 1) * problem.chunk_rows);
  for (int64_t begin = chunk * problem.chunk_rows; begin < last; begin += tile) {
    const int64_t end = std::min(begin + tile, last);
    group_by_class(problem, begin, end, work);
    int64_t* rows = work.rows.data();
    const int64_t* starts = work.starts.data();
    if (view.channel_stride == 1) {
      Prefetch ahead{reinterpret_cast<uintptr_t>(data + work.offsets[end - begin - 1] + view.grid.column_stride)};
      for (int64_t i = 0; i < starts[classes]; ++i) rows[i] = work.offsets[rows[i]];
      for (int64_t k = 0; k < classes; ++k)
        if (const int64_t n = starts[k + 1] - starts[k])
          accumulate_channels<kWidth>(
              Group<T>{data, rows + starts[k], n, counts[k] == 0}, view.channels, partials + k * 3 * padded,
              padded, &ahead);
    } else {
      for (int64_t i = 0; i < starts[classes]; ++i) rows[i] *= pitch;
      for (int64_t c = 0; c < view.channels; c += pitch) {
        const int64_t width = std::min(pitch, view.channels - c);
        stage_channels(data, work.offsets.data(), end - begin, view, c, width, work.stage.data(), pitch);
        for (int64_t k = 0; k < classes; ++k)
          if (const int64_t n = starts[k + 1] - starts[k])
            accumulate_channels<kWidth>(
                Group<Acc>{work.stage.data(), rows + starts[k], n, counts[k] == 0}, width,
                partials + k * 3 * padded + c, padded, nullptr);
      }
    }
    for (int64_t k = 0; k < classes; ++k) counts[k] += starts[k + 1] - starts[k];
  }
}

// Merges the partial sums of one class over the chunks, in order, in double.
template <class T>
FASTUDA_INLINE void merge_body(const Problem& problem, int64_t label, double* mean, double* m2) {
  using Acc = Accumulate<T>;
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
    for (int64_t c = 0; c < channels; ++c) {
      const double shift = sum[c] * each, spread = square[c] - sum[c] * shift;
      const double delta = pivot[c] + shift - mean[c];
      mean[c] += delta * share;
      m2[c] += (spread < 0 ? 0 : spread) + delta * delta * cross;
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

// Widths: 3 registers a vector; 32 registers of 64 bytes hold 8 vectors, 16 of 32 bytes hold 2, 16 of 16 bytes one.
template <class T>
struct Kernels {
  using Chunk = void (*)(const Problem&, int64_t, Workspace<T>&);
  using Merge = void (*)(const Problem&, int64_t, double*, double*);
  static constexpr int64_t kMaxPitch = 8 * kLanes<Accumulate<T>>;

  FASTUDA_TARGET_AVX512 static void chunk_avx512(const Problem& p, int64_t i, Workspace<T>& w) {
    chunk_body<8>(p, i, w);
  }
  FASTUDA_TARGET_AVX2 static void chunk_avx2(const Problem& p, int64_t i, Workspace<T>& w) { chunk_body<2>(p, i, w); }
  static void chunk_portable(const Problem& p, int64_t i, Workspace<T>& w) { chunk_body<1>(p, i, w); }
  FASTUDA_TARGET_AVX512 static void merge_avx512(const Problem& p, int64_t k, double* a, double* b) {
    merge_body<T>(p, k, a, b);
  }
  FASTUDA_TARGET_AVX2 static void merge_avx2(const Problem& p, int64_t k, double* a, double* b) {
    merge_body<T>(p, k, a, b);
  }
  static void merge_portable(const Problem& p, int64_t k, double* a, double* b) { merge_body<T>(p, k, a, b); }

  static Chunk chunk() {
    return cpu_isa() == Isa::avx512 ? chunk_avx512 : cpu_isa() == Isa::avx2 ? chunk_avx2 : chunk_portable;
  }
  static Merge merge() {
    return cpu_isa() == Isa::avx512 ? merge_avx512 : cpu_isa() == Isa::avx2 ? merge_avx2 : merge_portable;
  }
};

template <class T>
void run(const Problem& problem) {
  const int64_t tile = tile_pixels<T>(problem);
  torch::stable::parallel_for(0, problem.chunks, 1, [&](int64_t begin, int64_t end) {
    Workspace<T> work;
    work.labels.resize(tile);
    work.offsets.resize(tile);
    work.rows.resize(tile);
    work.starts.resize(problem.classes() + 3);
    if (problem.features.channel_stride != 1) work.stage.resize(tile * Kernels<T>::kMaxPitch);
    for (int64_t i = begin; i < end; ++i) Kernels<T>::chunk()(problem, i, work);
  });
  torch::stable::parallel_for(0, problem.classes(), 1, [&](int64_t begin, int64_t end) {
    std::vector<double> mean(problem.features.channels), m2(problem.features.channels);
    for (int64_t k = begin; k < end; ++k) {
      Kernels<T>::merge()(problem, k, mean.data(), m2.data());
    }
  });
}

// Long chunks keep the partial sums under 5 % of the features, short ones keep many threads busy.
int64_t rows_of_chunk(int64_t channels, int64_t classes) {
  return std::max<int64_t>({64 * classes, (int64_t(1) << 19) / std::max<int64_t>(channels, 1), 256});
}

std::tuple<Tensor, Tensor, Tensor> class_moments(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  const ScalarType type = features.scalar_type();
  const bool wide = type == ScalarType::Double;
  const ScalarType statistic = wide ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(
      wide || type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
      "features must be float32, float16, bfloat16 or float64");
  Problem p{feature_view(features), label_view(labels, num_classes, ignore_index), features.const_data_ptr()};
  STD_TORCH_CHECK(p.labels.grid.pixels() == p.features.grid.pixels(), "labels must match the pixels of features");
  const int64_t channels = p.features.channels, lanes = wide ? 8 : 16, pixels = p.features.grid.pixels();
  p.padded = (channels + lanes - 1) / lanes * lanes;
  p.chunk_rows = rows_of_chunk(channels, num_classes);
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

  if (wide) run<double>(p);
  else if (type == ScalarType::Float) run<float>(p);
  else if (type == ScalarType::Half) run<torch::headeronly::Half>(p);
  else run<torch::headeronly::BFloat16>(p);

  int64_t* out = static_cast<int64_t*>(count.mutable_data_ptr());
  std::fill(out, out + num_classes, 0);
  for (int64_t i = 0; i < p.chunks * num_classes; ++i) out[i % num_classes] += p.counts[i];
  return {count, mean, m2};
}

std::tuple<Tensor, Tensor, Tensor> class_moments_full(
    const Tensor& features, const Tensor& labels, int64_t num_classes, int64_t ignore_index) {
  const ScalarType type = features.scalar_type();
  const ScalarType statistic = type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half ||
          type == ScalarType::BFloat16,
      "features must be float32, float16, bfloat16 or float64");
  Tensor rows = features;  // planes are copied: pixels of a class are gathered, and lie scattered in every plane
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
  const auto run = [&]<class T>(T) {
    full_moments<T>(
        view, classes, rows.const_data_ptr(), static_cast<int64_t*>(count.mutable_data_ptr()), mean.mutable_data_ptr(),
        m2.mutable_data_ptr());
  };
  if (type == ScalarType::Double) run(double{});
  else if (type == ScalarType::Float) run(float{});
  else if (type == ScalarType::Half) run(torch::headeronly::Half{});
  else run(torch::headeronly::BFloat16{});
  return {count, mean, m2};
}

}  // namespace
}  // namespace fastuda

STABLE_TORCH_LIBRARY_IMPL(fastuda, CPU, m) {
  m.impl("class_moments", TORCH_BOX(&fastuda::class_moments));
  m.impl("class_moments_full", TORCH_BOX(&fastuda::class_moments_full));
}
