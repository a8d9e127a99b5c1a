// A tile of pixels of the contrastive bound, and the steps that both passes share.
//
// A tile is transposed to [channel][pixel] once, so that the sums over channels, the softmax over classes and the
// gradient all stay in their lane, and one broadcast number of the statistics serves every pixel of the tile. Ignored
// pixels of (P, A) and channels_last features are left out of the tiles. The next tile is fetched meanwhile.
// A full covariance is visited by a few rows of its triangle at a time, all classes of them against a group of tiles.
// Every pixel is computed by one thread from start to end, so the result does not depend on the number of threads.
#pragma once

#include "cpu/contrastive_bound_statistics.h"

namespace fastuda {

// Register blocks of each instruction set. width: channels; for the gradient of a full covariance a block of the
// triangle; where channels lie across the lanes, pixels and vectors of channels.
template <Isa isa>
struct Machine : ProductBlock<isa> {
  static constexpr int width = by_isa<isa>(6, 3, 1);
  static constexpr int triangle_rows = by_isa<isa>(4, 3, 3), triangle_columns = by_isa<isa>(3, 2, 1);
  static constexpr int row_pixels = by_isa<isa>(6, 2, 1), row_vectors = by_isa<isa>(2, 1, 1);
};

// What a full covariance's triangle is cut into.
template <Isa isa, bool kBackward>
Triangle triangle(const Bound& b) {
  if constexpr (kBackward)
    return {b.channels(), b.classes(), Machine<isa>::triangle_rows, Machine<isa>::triangle_columns};
  return {b.channels(), b.classes(), Machine<isa>::rows, 1};
}

// A call's packed statistics: of the mean and a diagonal, of a full covariance.
template <class Acc>
struct Packed {
  Buffer<Acc> rows, triangle;
};

template <class Acc, Isa isa>
struct Scratch {
  static constexpr int step = kLanes<Acc>, pixels = Machine<isa>::vectors * step;

  Chunk chunk;
  int64_t tiles;  // of a group
  int64_t channels, classes;  // padded to whole blocks
  Buffer<Acc> x, slope, first, second;
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
  }
};

// What both passes do with one tile. Everything but their entry points is inlined into those.
template <class Acc, Isa isa>
struct TilePass {
  using Work = Scratch<Acc, isa>;
  using M = Machine<isa>;
  static constexpr int step = kLanes<Acc>, pixels = Work::pixels, vectors = M::vectors;
  using Lanes = Vec<Acc>;

  // Pixels [start, start + pixels) of the chunk's order.
  FASTUDA_INLINE static void place(
      const Work& work, int64_t start, const int64_t* offsets, int64_t channels, int64_t stride,
      TilePlace<pixels>& out) {
    int64_t at[pixels];
    const int count = static_cast<int>(std::min<int64_t>(pixels, work.chunk.count - start));
    if (count < 1) __builtin_unreachable();  // else the compiler warns of a pixel before the first
    for (int i = 0; i < count; ++i) at[i] = offsets[work.chunk.order[start + i]];
    out.template set<step>(at, count, channels, stride);
  }

  // The softmax of the chunk's pixels lies in rows of K.
  FASTUDA_INLINE static void place_posterior(const Bound& b, const Work& work, int64_t start, TilePlace<pixels>& out) {
    int64_t at[pixels];
    const int count = static_cast<int>(std::min<int64_t>(pixels, work.chunk.count - start));
    if (count < 1) __builtin_unreachable();  // else the compiler warns of a pixel before the first
    for (int i = 0; i < count; ++i) at[i] = (work.chunk.begin + work.chunk.order[start + i]) * b.classes();
    out.template set<step>(at, count, b.classes(), 1);
  }

  // Transposes a tile and computes 1 / |q| of its pixels (1 without normalisation).
  FASTUDA_INLINE static void load_features(const Bound& b, Work& work, int64_t tile, int64_t start) {
    TilePlace<pixels> where;
    place(work, start, work.chunk.offset, b.channels(), b.features.channel_stride, where);
    Acc* x = work.x.data() + tile * work.channels * pixels;
    Lanes squared[vectors];
    if (b.features.channel_stride == 1 && b.channels() % step == 0) {
      transpose_rows(b, where, x, squared);
    } else {
      load_tile<isa>(b.data, b.type, where, x);
      sum_squares(b, x, squared);
    }
    for (int v = 0; v < vectors; ++v) {
      Lanes& inverse = work.inverse[tile * vectors + v];
      for (int lane = 0; lane < step; ++lane) {
        const Acc s = squared[v][lane];
        inverse[lane] = !b.normalize ? Acc(1) : s > 0 ? 1 / std::sqrt(s) : s;
      }
    }
  }

  // The squares are summed while the block is in registers, in four sums that do not wait for each other.
  FASTUDA_INLINE static void transpose_rows(
      const Bound& b, const TilePlace<pixels>& where, Acc* x, Lanes (&squared)[vectors]) {
    for (int v = 0; v < vectors; ++v) {
      Lanes part[4] = {};
      for (int64_t c = 0; c < b.channels(); c += step) {
        Lanes block[step];
        load_square<isa, Acc>(b.data, b.type, where.offset + v * step, c, block);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) {
          store(block[j], x + (c + j) * pixels + v * step);
          part[j % 4] += block[j] * block[j];
        }
      }
      squared[v] = (part[0] + part[1]) + (part[2] + part[3]);
    }
  }

  FASTUDA_INLINE static void sum_squares(const Bound& b, const Acc* x, Lanes (&squared)[vectors]) {
    Lanes q;
    for (int v = 0; v < vectors; ++v) squared[v] = Lanes{};
    for (int64_t c0 = 0; b.normalize && c0 < b.channels(); c0 += kDepth)
      for (int v = 0; v < vectors; ++v) {
        Lanes part[4] = {};
        for (int64_t c = c0; c < std::min(c0 + kDepth, b.channels()); ++c) {
          load(x + c * pixels + v * step, q);
          part[c % 4] += q * q;
        }
        squared[v] += (part[0] + part[1]) + (part[2] + part[3]);
      }
  }
};

}  // namespace fastuda
