// The contrastive bound's backward pass: the gradient from the saved softmax, written once.
#pragma once

#include "cpu/contrastive_bound_tile.h"

namespace fastuda {

// Zeros for the gradient of a pixel: zero bytes in any type.
inline void erase_gradient(const Bound& b, int64_t offset) {
  const int64_t size = bytes_of(b.type), stride = b.result.channel_stride * size;
  char* const to = static_cast<char*>(b.slope) + offset * size;
  if (b.result.channel_stride == 1) std::memset(to, 0, b.channels() * size);
  else
    for (int64_t c = 0; c < b.channels(); ++c) std::memset(to + c * stride, 0, size);
}

// Reads a chunk with its incoming gradients and the places of the outgoing ones; ignored pixels get their zeros.
template <class Acc, class Work>
FASTUDA_INLINE void read_gradients(const Bound& b, int64_t index, Work& work) {
  Chunk& chunk = work.chunk;
  read_chunk(b, index, chunk);
  chunk.place(b.result.grid, work.result_offset);
  int64_t at[kChunkPixels];
  chunk.place(b.grads, at);
  for (int64_t i = 0; i < chunk.size; ++i) {
    work.grad[i] = static_cast<const Acc*>(b.grad)[at[i]];
    if (chunk.label[i] >= b.classes()) erase_gradient(b, work.result_offset[i]);
  }
}

template <class Acc, Isa isa>
struct Backward : TilePass<Acc, isa> {
  using Base = TilePass<Acc, isa>;
  using typename Base::Lanes;
  using typename Base::M;
  using typename Base::Work;
  using Base::pixels;
  using Base::step;
  using Base::vectors;

  // slope += sum_k p_k Sigma_k q / (tau^2 |q|), for all tiles of a group.
  FASTUDA_INLINE static void full_slopes(const Bound& b, const Acc* packed, Work& work, int64_t tiles) {
    constexpr int rows = M::triangle_rows, columns = M::triangle_columns;
    const Triangle t = triangle<isa, true>(b);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      Acc* p = work.second.data() + tile * work.classes * pixels;
      for (int64_t k = 0; k < b.classes(); ++k)
        for (int v = 0; v < vectors; ++v, p += step) {
          Lanes a;
          load(p, a);
          store(a *= work.inverse[tile * vectors + v], p);
        }
    }
    for (int64_t r = 0; r < t.blocks(); ++r) {
      const int64_t width = t.width(r);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const Acc* x = work.x.data() + tile * work.channels * pixels;
        Acc* slope = work.slope.data() + tile * work.channels * pixels;
        for (int64_t c = 0; c < width; c += columns)
          add_symmetric<vectors, rows, columns>(
              work.second.data() + tile * work.classes * pixels, b.classes(), packed + c * rows * b.classes(),
              x + r * rows * pixels, x + c * pixels, slope + r * rows * pixels, slope + c * pixels);
      }
      packed += width * rows * b.classes();
    }
  }

  // Reads the softmax into `second`, subtracts the own class into `first`, and sums what the mean and a diagonal give.
  FASTUDA_INLINE static void slopes(
      const Bound& b, const Acc* packed, Work& work, int64_t tile, int64_t start, Lanes (&along)[vectors]) {
    const Chunk& chunk = work.chunk;
    const int64_t classes = b.classes();
    Acc *w = work.first.data() + tile * work.classes * pixels, *p = work.second.data() + tile * work.classes * pixels;
    TilePlace<pixels> where;
    Base::place_posterior(b, work, start, where);
    load_tile<isa>(b.posterior, kTypeOf<Acc>, where, p);
    std::copy(p, p + classes * pixels, w);
    for (int i = 0; i < where.count; ++i) {
      const int32_t label = chunk.label[chunk.order[start + i]];
      if (label < classes) w[label * pixels + i] -= 1;
    }
    const Acc* x = work.x.data() + tile * work.channels * pixels;
    Acc* slope = work.slope.data() + tile * work.channels * pixels;
    Lanes inverse[vectors];
    for (int v = 0; v < vectors; ++v) inverse[v] = work.inverse[tile * vectors + v], along[v] = Lanes{};
    Ahead ahead = following(b, chunk, start + pixels, pixels);
    const bool both = b.kind == Covariance::diagonal;
    for (int64_t c = 0; c < b.channels(); c += M::width) {
      const Acc* at = packed + c * classes * (both ? 2 : 1);
      const Acc* q = x + c * pixels;
      Acc* to = slope + c * pixels;
      if (both) blend<vectors, M::width, true>(w, p, classes, at, q, inverse, to, along, ahead);
      else blend<vectors, M::width, false>(w, p, classes, at, q, inverse, to, along, ahead);
    }
  }

  // The gradient of a tile: the part along q removed, divided by |q|, times the incoming gradient, then rounded.
  FASTUDA_INLINE static void write(
      const Bound& b, const Work& work, int64_t tile, int64_t start, const Lanes (&along)[vectors]) {
    using Mask = typename VecOf<Acc>::mask;
    const Acc* x = work.x.data() + tile * work.channels * pixels;
    const Acc* slope = work.slope.data() + tile * work.channels * pixels;
    const Chunk& chunk = work.chunk;
    TilePlace<pixels> where;
    Base::place(work, start, work.result_offset, b.channels(), b.result.channel_stride, where);
    Lanes scale[vectors], back[vectors];
    Mask valid[vectors];
    for (int v = 0; v < vectors; ++v) {
      const Lanes inverse = work.inverse[tile * vectors + v];
      for (int lane = 0; lane < step; ++lane) {
        const int i = chunk.order[std::min<int64_t>(start + v * step + lane, chunk.count - 1)];
        valid[v][lane] = chunk.label[i] < b.classes() ? -1 : 0;
        scale[v][lane] = work.grad[i];
      }
      scale[v] *= inverse;
      back[v] = b.normalize ? along[v] * inverse * inverse : Lanes{};
    }
    const auto value = [&](int64_t c, int at, Lanes& out) FASTUDA_INLINED {
      Lanes q;
      load(slope + c * pixels + at, out);
      load(x + c * pixels + at, q);
      const int v = at / step;
      out = valid[v] ? (out - q * back[v]) * scale[v] : Lanes{};
    };
    store_tile<isa, pixels, Acc>(value, where, b.slope, b.type);
  }

  // slope . q, once the full covariance has been added.
  FASTUDA_INLINE static void project(const Bound& b, const Work& work, int64_t tile, Lanes (&along)[vectors]) {
    const int64_t base = tile * work.channels * pixels;
    for (int v = 0; v < vectors; ++v) along[v] = Lanes{};
    for (int64_t c = 0; c < b.channels(); ++c)
      for (int v = 0; v < vectors; ++v) {
        Lanes a, q;
        load(work.slope.data() + base + c * pixels + v * step, a);
        load(work.x.data() + base + c * pixels + v * step, q);
        along[v] += a * q;
      }
  }

  FASTUDA_INLINE static void run(const Bound& b, const Packed<Acc>& packed, int64_t index, Work& work) {
    const Chunk& chunk = work.chunk;
    read_gradients<Acc>(b, index, work);
    for (int64_t start = 0; start < chunk.count; start += work.tiles * pixels) {
      const int64_t tiles = std::min(work.tiles, (chunk.count - start + pixels - 1) / pixels);
      Lanes along[kChunkPixels / pixels][vectors];
      for (int64_t t = 0; t < tiles; ++t) {
        Base::load_features(b, work, t, start + t * pixels);
        slopes(b, packed.rows.data(), work, t, start + t * pixels, along[t]);
      }
      if (b.kind == Covariance::full) {
        full_slopes(b, packed.triangle.data(), work, tiles);
        for (int64_t t = 0; t < tiles; ++t) project(b, work, t, along[t]);
      }
      for (int64_t t = 0; t < tiles; ++t) write(b, work, t, start + t * pixels, along[t]);
    }
  }
};

// The contrastive bound's backward pass where a pixel's channels follow one another, for the mean and a diagonal.
//
// Channels lie across the lanes: features are read and the gradient is written in their own layout, nothing is
// transposed. The sums over classes of a few pixels by a few vectors of channels stay in registers; what a block of
// channels needs of the statistics serves all pixels of a tile from the L1 cache.

constexpr int64_t kRowPixels = 24;  // of a tile: whole blocks of pixels
constexpr int64_t kRowSlots = 32;  // whole vectors of pixels
constexpr int64_t kStreamBytes = 1 << 23;  // gradients from here on are written past the caches

template <class Acc, Isa isa>
struct RowScratch {
  static constexpr int step = kLanes<Acc>;

  Chunk chunk;
  int64_t channels;  // padded to whole vectors
  Buffer<Acc> x, slope, weights;
  Vec<Acc> squared[kRowSlots] = {}, along[kRowSlots] = {};
  Acc inverse[kRowSlots], back[kRowSlots];
  const Acc* row[kRowPixels];
  int64_t result_offset[kChunkPixels];
  Acc grad[kChunkPixels];

  explicit RowScratch(const Bound& b) {
    channels = (b.channels() + step - 1) / step * step;
    x.resize(in_place(b) ? 0 : kRowPixels * channels);
    slope.resize(kRowPixels * pitch());
    weights.resize(kRowPixels * 2 * ((b.classes() + kWeights - 1) / kWeights * kWeights));
  }
  // Rows whose distance is a power of two would be mapped to the same few sets of the L1 cache.
  int64_t pitch() const { return channels + 64 / int64_t(sizeof(Acc)); }
  static bool in_place(const Bound& b) { return b.type == kTypeOf<Acc> && b.channels() % step == 0; }
};

inline bool by_rows(const Bound& b) {
  return b.kind != Covariance::full && b.features.channel_stride == 1 && b.result.channel_stride == 1;
}

template <class Acc, Isa isa>
struct BackwardRows {
  using Work = RowScratch<Acc, isa>;
  using Lanes = Vec<Acc>;
  using M = Machine<isa>;
  static constexpr int step = Work::step;
  static_assert(kRowPixels % M::row_pixels == 0 && kRowSlots % step == 0 && kRowPixels <= kRowSlots);

  static Blocks blocks(const Bound& b) { return Blocks((b.channels() + step - 1) / step, M::row_vectors); }

  // to[i] = the sum over the lanes of from[i].
  FASTUDA_INLINE static void add_lanes(const Lanes* from, Acc* to) {
    for (int64_t i = 0; i < kRowSlots; i += step) {
      Lanes block[step], sum{};
      for (int j = 0; j < step; ++j) block[j] = from[i + j];
      transpose<Acc>(block);
      for (int j = 0; j < step; ++j) sum += block[j];
      store(sum, to + i);
    }
  }

  // Finds the rows of pixels [start, start + count), or makes them where they must be converted, and 1 / |q|.
  FASTUDA_INLINE static void load_rows(const Bound& b, Work& work, int64_t start, int64_t count) {
    const int64_t vectors = work.channels / step;
    for (int64_t i = 0; i < kRowPixels; ++i) {
      const int32_t pixel = work.chunk.order[start + std::min(i, count - 1)];
      const int64_t at = work.chunk.offset[pixel];
      if (Work::in_place(b)) {
        work.row[i] = static_cast<const Acc*>(b.data) + at;
        continue;
      }
      Acc* const to = work.x.data() + i * work.channels;
      work.row[i] = to;
      read_rows<Acc, isa>(b.data, b.type, {at, nullptr}, 1, b.channels(), to, 0);
    }
    for (int64_t i = 0; b.normalize && i < kRowPixels; ++i) {
      Lanes part[4] = {}, q;
      int64_t v = 0;
      for (; v + 4 <= vectors; v += 4)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) load(work.row[i] + (v + j) * step, q), part[j] += q * q;
      for (; v < vectors; ++v) load(work.row[i] + v * step, q), part[0] += q * q;
      work.squared[i] = (part[0] + part[1]) + (part[2] + part[3]);
    }
    if (b.normalize) add_lanes(work.squared, work.inverse);
    for (int64_t i = 0; i < kRowPixels; ++i) {
      const Acc s = work.inverse[i];
      work.inverse[i] = !b.normalize ? Acc(1) : s > 0 ? 1 / std::sqrt(s) : s;
    }
  }

  // A pixel's factors of the means (softmax less the own class) and of the diagonals (softmax / |q|).
  FASTUDA_INLINE static void weigh(const Bound& b, Work& work, int64_t start, int64_t count) {
    const int64_t classes = b.classes();
    for (int64_t i = 0; i < count; ++i) {
      const int32_t pixel = work.chunk.order[start + i];
      const Acc* p = static_cast<const Acc*>(b.posterior) + (work.chunk.begin + pixel) * classes;
      const Acc inverse = work.inverse[i];
      Acc* to = work.weights.data() + i * 2 * kWeights;
      for (int64_t first = 0; first < classes; first += kWeights, to += kRowPixels * 2 * kWeights)
        for (int64_t k = 0; k < std::min(kWeights, classes - first); ++k) {
          to[k] = p[first + k];
          to[kWeights + k] = p[first + k] * inverse;
        }
      const int64_t own = work.chunk.label[pixel];
      work.weights.data()[(own / kWeights * kRowPixels + i) * 2 * kWeights + own % kWeights] -= 1;
    }
  }

  template <bool kSecond>
  FASTUDA_INLINE static void blend_tile(const Bound& b, const Acc* packed, Work& work, int64_t count, Ahead ahead) {
    const Blocks all = blocks(b);
    std::fill(work.along, work.along + kRowSlots, Lanes{});
    for (int64_t i = 0; i < all.count; ++i) {
      const int64_t c = all.first(i) * step, width = all.size(i);
      const Acc* rows = packed + c * b.classes() * (kSecond ? 2 : 1);
      for (int64_t p = 0; p < count; p += M::row_pixels)
        blend_rows_of<isa, M::row_pixels, M::row_vectors, kSecond>(
            width, work.weights.data() + p * 2 * kWeights, kRowPixels, b.classes(), rows, work.row + p, c,
            work.slope.data() + p * work.pitch() + c, work.pitch(), work.along + p, ahead);
    }
  }

  // The gradient of a tile: the part along q removed, divided by |q|, times the incoming gradient, then rounded.
  FASTUDA_INLINE static void write(const Bound& b, Work& work, int64_t start, int64_t count, bool stream) {
    const int64_t whole = b.channels() / step * step;
    add_lanes(work.along, work.back);
    for (int64_t i = 0; i < count; ++i) {
      const int32_t pixel = work.chunk.order[start + i];
      const Acc inverse = work.inverse[i], scale = work.grad[pixel] * inverse;
      const Acc back = b.normalize ? work.back[i] * inverse * inverse : Acc(0);
      const Acc* x = work.row[i];
      Acc* const slope = work.slope.data() + i * work.pitch();
      const int64_t at = work.result_offset[pixel];
      const auto value = [&](int64_t c, Lanes& out) FASTUDA_INLINED {
        Lanes q;
        load(slope + c, out);
        load(x + c, q);
        out = (out - q * back) * scale;
      };
      Lanes out;
      if (stream) {
        Acc* const to = static_cast<Acc*>(b.slope) + at;
        for (int64_t c = 0; c < whole; c += step) value(c, out), stream_out<isa>(out, to + c);
      } else if ((kWholeVectors<isa> || b.type == kTypeOf<Acc>) && whole == b.channels()) {
        with_type_on<Acc, isa>(b.type, [&]<class T>() FASTUDA_INLINED {
          for (int64_t c = 0; c < whole; c += step) value(c, out), store(out, static_cast<T*>(b.slope) + at + c);
        });
      } else {
        for (int64_t c = 0; c < work.channels; c += step) value(c, out), store(out, slope + c);
        write_rows<Acc, isa>(slope, 0, {at, nullptr}, 1, b.channels(), b.slope, b.type);
      }
    }
  }

  FASTUDA_INLINE static void run(const Bound& b, const Packed<Acc>& packed, int64_t index, Work& work) {
    read_gradients<Acc>(b, index, work);
    const bool stream = isa == Isa::avx512 && b.type == kTypeOf<float> && streams(b);
    for (int64_t start = 0; start < work.chunk.count; start += kRowPixels) {
      const int64_t count = std::min(kRowPixels, work.chunk.count - start);
      const Ahead ahead = following(b, work.chunk, start + kRowPixels, kRowPixels);
      load_rows(b, work, start, count);
      weigh(b, work, start, count);
      if (b.kind == Covariance::diagonal) blend_tile<true>(b, packed.rows.data(), work, count, ahead);
      else blend_tile<false>(b, packed.rows.data(), work, count, ahead);
      write(b, work, start, count, stream);
    }
  }

  // Whether the gradient consists of whole cache lines and is too large to stay in the caches until it is read.
  static bool streams(const Bound& b) {
    const PixelGrid& g = b.result.grid;
    const int64_t line = 64 / sizeof(Acc);
    return b.channels() % line == 0 && g.column_stride % line == 0 && g.row_stride % line == 0 &&
           g.image_stride % line == 0 && reinterpret_cast<uintptr_t>(b.slope) % 64 == 0 &&
           g.pixels() * b.channels() * int64_t(sizeof(Acc)) >= kStreamBytes;
  }
};

}  // namespace fastuda
