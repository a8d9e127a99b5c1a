// The contrastive bound's backward pass: the gradient from the saved softmax, written once.
#pragma once

#include "cpu/contrastive_bound_tile.h"

namespace fastuda {

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
    Ahead ahead = Base::following(b, work, start);
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

  FASTUDA_INLINE static void erase(const Bound& b, int64_t offset) {
    const int64_t size = bytes_of(b.type), stride = b.result.channel_stride * size;  // zeros are zero bytes in any type
    char* const to = static_cast<char*>(b.slope) + offset * size;
    if (b.result.channel_stride == 1) std::memset(to, 0, b.channels() * size);
    else
      for (int64_t c = 0; c < b.channels(); ++c) std::memset(to + c * stride, 0, size);
  }

  FASTUDA_INLINE static void run(const Bound& b, const Packed<Acc>& packed, int64_t index, Work& work) {
    Chunk& chunk = work.chunk;
    chunk.read(b, index);
    chunk.place(b.result.grid, work.result_offset);
    int64_t at[kChunkPixels];
    chunk.place(b.grads, at);
    for (int64_t i = 0; i < chunk.size; ++i) {
      work.grad[i] = static_cast<const Acc*>(b.grad)[at[i]];
      if (chunk.label[i] >= b.classes()) erase(b, work.result_offset[i]);
    }
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

}  // namespace fastuda
