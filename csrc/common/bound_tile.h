// A tile of pixels of the contrastive bound, what both passes do with it.
//
// A tile is transposed to [channel][pixel] once, so that the sums over channels, the softmax over classes and the
// gradient all stay in their lane, and one broadcast number of the statistics serves every pixel of the tile. Ignored
// pixels of (P, A) and channels_last features are left out of the tiles. The next tile is fetched meanwhile.
// A full covariance is visited class by class, a few rows of it against a group of tiles. Every pixel is computed from
// start to end by one thread: the number of threads changes nothing.
#pragma once

#include "common/bound.h"

namespace fastuda {

// Register blocks of each instruction set: vectors of pixels, classes (or rows of Sigma), channels.
template <Isa isa>
struct Machine;
template <>
struct Machine<Isa::avx512> {
  static constexpr int vectors = 2, rows = 12, width = 6;
};
template <>
struct Machine<Isa::avx2> {
  static constexpr int vectors = 1, rows = 6, width = 3;
};
template <>
struct Machine<Isa::portable> {
  static constexpr int vectors = 1, rows = 3, width = 1;
};

template <class T, Isa isa>
struct Scratch {
  using Acc = Accumulate<T>;
  static constexpr int step = kLanes<Acc>, pixels = Machine<isa>::vectors * step;

  Chunk chunk;
  int64_t tiles;  // of a group
  int64_t channels, classes;  // padded to whole blocks
  Buffer<Acc> x, slope, first, second, sigma;
  Vec<Acc> inverse[kChunkPixels / step];
  int64_t result_offset[kChunkPixels];
  Acc grad[kChunkPixels];

  explicit Scratch(const Bound& b) {
    constexpr int64_t block = std::max(Machine<isa>::rows, Machine<isa>::width);
    channels = (b.channels() + block) / block * block;
    classes = b.classes() + Machine<isa>::rows;
    tiles = 1;
    if (b.kind == Covariance::full)
      tiles = std::clamp<int64_t>(kGroupBytes / (channels * pixels * sizeof(Acc)), 4, kChunkPixels / pixels);
    x.resize(tiles * channels * pixels);
    slope.resize(b.slope ? tiles * channels * pixels : 0);
    first.resize(tiles * classes * pixels);
    second.resize(tiles * classes * pixels);
    sigma.resize(b.kind == Covariance::full ? channels * Machine<isa>::rows : 0);
  }
};

// What both passes do with one tile. Everything but their entry points is inlined into those.
template <class T, Isa isa>
struct TilePass {
  using Acc = Accumulate<T>;
  using Work = Scratch<T, isa>;
  using M = Machine<isa>;
  static constexpr int step = kLanes<Acc>, pixels = Work::pixels, vectors = M::vectors;
  using Lanes = Vec<Acc>;

  // Pixels [start, start + pixels) of the chunk's order.
  FASTUDA_INLINE static void place(
      const Work& work, int64_t start, const int64_t* offsets, int64_t channels, int64_t stride,
      TilePlace<pixels>& out) {
    int64_t at[pixels];
    const int count = static_cast<int>(std::min<int64_t>(pixels, work.chunk.count - start));
    for (int i = 0; i < count; ++i) at[i] = offsets[work.chunk.order[start + i]];
    out.template set<step>(at, count, channels, stride);
  }

  // The softmax of the chunk's pixels lies in rows of K.
  FASTUDA_INLINE static void place_posterior(const Bound& b, const Work& work, int64_t start, TilePlace<pixels>& out) {
    int64_t at[pixels];
    const int count = static_cast<int>(std::min<int64_t>(pixels, work.chunk.count - start));
    for (int i = 0; i < count; ++i) at[i] = (work.chunk.begin + work.chunk.order[start + i]) * b.classes();
    out.template set<step>(at, count, b.classes(), 1);
  }

  // Transposes a tile and computes 1 / |q| of its pixels (1 without normalisation).
  FASTUDA_INLINE static void load_features(const Bound& b, Work& work, int64_t tile, int64_t start) {
    TilePlace<pixels> where;
    place(work, start, work.chunk.offset, b.channels(), b.features.channel_stride, where);
    Acc* x = work.x.data() + tile * work.channels * pixels;
    load_tile<pixels>(static_cast<const T*>(b.data), where, x);
    Lanes squared[vectors], q;
    for (int v = 0; v < vectors; ++v) squared[v] = Lanes{};
    if (b.normalize)
      for (int64_t c0 = 0; c0 < b.channels(); c0 += kDepth) {
        Lanes part[vectors];
        for (int v = 0; v < vectors; ++v) part[v] = Lanes{};
        for (int64_t c = c0; c < std::min(c0 + kDepth, b.channels()); ++c)
          for (int v = 0; v < vectors; ++v) {
            load(x + c * pixels + v * step, q);
            part[v] += q * q;
          }
        for (int v = 0; v < vectors; ++v) squared[v] += part[v];
      }
    for (int v = 0; v < vectors; ++v) {
      Lanes& inverse = work.inverse[tile * vectors + v];
      for (int lane = 0; lane < step; ++lane) {
        const Acc s = squared[v][lane];
        inverse[lane] = !b.normalize ? Acc(1) : s > 0 ? 1 / std::sqrt(s) : s;
      }
    }
  }

  // Lines of the features that the tile after this one will read, where they lie in a row.
  FASTUDA_INLINE static Ahead following(const Bound& b, const Work& work, int64_t start) {
    const Chunk& chunk = work.chunk;
    if (b.features.channel_stride != 1 || start + pixels >= chunk.count) return {};
    const T* from = static_cast<const T*>(b.data) + chunk.offset[chunk.order[start + pixels]];
    return {reinterpret_cast<uintptr_t>(from), int64_t(pixels * b.channels() * sizeof(T) / 64)};
  }
  // y += rows [row, row + M::rows) of Sigma times q, over `depth` channels.
  FASTUDA_INLINE static void sigma_times(const Acc* x, int64_t depth, const Acc* sigma, Acc* y) {
    Ahead none;
    std::fill(y, y + M::rows * pixels, Acc(0));
    for (int64_t c = 0; c < depth; c += kDepth)
      add_dot<vectors, M::rows, false>(x + c * pixels, std::min(kDepth, depth - c), sigma + c * M::rows, y, none);
  }

  FASTUDA_INLINE static void pack(const Bound& b, int64_t k, int64_t row, int64_t depth, bool lower, Acc* to) {
    const int64_t a = b.channels();
    if (b.covariance.scalar_type() == torch::headeronly::ScalarType::Double)
      pack_sigma<M::rows>(
          static_cast<const double*>(b.covariance.const_data_ptr()) + k * a * a, a, row, depth, lower, to);
    else
      pack_sigma<M::rows>(
          static_cast<const float*>(b.covariance.const_data_ptr()) + k * a * a, a, row, depth, lower, to);
  }
};

}  // namespace fastuda
