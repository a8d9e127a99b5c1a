// The contrastive bound's backward pass: the gradient from the saved softmax, written once.
#pragma once

#include "common/bound_tile.h"

namespace fastuda {

template <class T, Isa isa>
struct Backward : TilePass<T, isa> {
  using Base = TilePass<T, isa>;
  using typename Base::Acc;
  using typename Base::Lanes;
  using typename Base::M;
  using typename Base::Work;
  using Base::pixels;
  using Base::step;
  using Base::vectors;

  // slope += sum_k p_k Sigma_k q / (tau^2 |q|), for all tiles of a group.
  FASTUDA_INLINE static void full_slopes(const Bound& b, Work& work, int64_t tiles) {
    alignas(64) Acc y[M::rows * pixels];
    for (int64_t row = 0; row < b.channels(); row += M::rows)
      for (int64_t k = 0; k < b.classes(); ++k) {
        const Acc factor = static_cast<Acc>(b.covariance_scale[k] / (b.temperature * b.temperature));
        Base::pack(b, k, row, b.channels(), false, work.sigma.data());
        for (int64_t t = 0; t < tiles; ++t) {
          Base::sigma_times(work.x.data() + t * work.channels * pixels, b.channels(), work.sigma.data(), y);
          for (int v = 0; v < vectors; ++v) {
            Lanes p, a, before;
            load(work.second.data() + (t * work.classes + k) * pixels + v * step, p);
            p *= work.inverse[t * vectors + v] * factor;
            for (int i = 0; i < M::rows; ++i) {
              Acc* to = work.slope.data() + (t * work.channels + row + i) * pixels + v * step;
              load(y + i * pixels + v * step, a);
              load(to, before);
              store(before += p * a, to);
            }
          }
        }
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
    load_tile<pixels>(static_cast<const Acc*>(b.posterior), where, p);
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
    const auto value = [&](int64_t c, int at, Lanes& out) __attribute__((always_inline)) {
      Lanes q;
      load(slope + c * pixels + at, out);
      load(x + c * pixels + at, q);
      const int v = at / step;
      out = valid[v] ? (out - q * back[v]) * scale[v] : Lanes{};
    };
    store_tile(value, where, static_cast<T*>(b.slope));
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
    T* to = static_cast<T*>(b.slope) + offset;
    for (int64_t c = 0; c < b.channels(); ++c) to[c * b.result.channel_stride] = T(0);
  }

  FASTUDA_INLINE static void run(const Bound& b, const Acc* packed, int64_t index, Work& work) {
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
        slopes(b, packed, work, t, start + t * pixels, along[t]);
      }
      if (b.kind == Covariance::full) {
        full_slopes(b, work, tiles);
        for (int64_t t = 0; t < tiles; ++t) project(b, work, t, along[t]);
      }
      for (int64_t t = 0; t < tiles; ++t) write(b, work, t, start + t * pixels, along[t]);
    }
  }
};

}  // namespace fastuda
