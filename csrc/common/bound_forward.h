// The contrastive bound's forward pass: scores, softmax and loss. A full covariance is read in its lower triangle only.
#pragma once

#include <limits>

#include "common/bound_tile.h"
#include "common/vector_math.h"

namespace fastuda {

template <class T, Isa isa>
struct Forward : TilePass<T, isa> {
  using Base = TilePass<T, isa>;
  using typename Base::Acc;
  using typename Base::Lanes;
  using typename Base::M;
  using typename Base::Work;
  using Base::pixels;
  using Base::step;
  using Base::vectors;

  // first[k] = q.mu_k / tau and, for a diagonal, second[k] = q^T Sigma_k q / (2 tau^2); q not normalised.
  FASTUDA_INLINE static void scores(
      const Bound& b, const Acc* packed, int64_t rows, int64_t blocks, const Acc* x, Acc* first, Acc* second,
      Ahead ahead) {
    const int64_t half = blocks * rows * b.channels();
    std::fill(first, first + blocks * rows * pixels, Acc(0));
    std::fill(second, second + blocks * rows * pixels, Acc(0));
    for (int64_t c = 0; c < b.channels(); c += kDepth) {
      const int64_t depth = std::min(kDepth, b.channels() - c);
      for (int64_t i = 0; i < blocks; ++i) {
        const Acc* at = packed + (i * b.channels() + c) * rows;
        const int64_t to = i * rows * pixels;
        add_dot_of<vectors, M::rows, false>(rows, x + c * pixels, depth, at, first + to, ahead);
        if (b.kind == Covariance::diagonal)
          add_dot_of<vectors, M::rows, true>(rows, x + c * pixels, depth, at + half, second + to, ahead);
      }
    }
  }

  // second[k] for all tiles of a group.
  FASTUDA_INLINE static void full_scores(const Bound& b, Work& work, int64_t tiles) {
    alignas(64) Acc y[M::rows * pixels];
    for (int64_t k = 0; k < b.classes(); ++k) {
      const Acc factor = static_cast<Acc>(b.covariance_scale[k] / (2 * b.temperature * b.temperature));
      for (int64_t row = 0; row < b.channels(); row += M::rows) {
        const int64_t depth = std::min<int64_t>(row + M::rows, b.channels());
        Base::pack(b, k, row, depth, true, work.sigma.data());
        for (int64_t t = 0; t < tiles; ++t) {
          const Acc* x = work.x.data() + t * work.channels * pixels;
          Base::sigma_times(x, depth, work.sigma.data(), y);
          Acc* to = work.second.data() + (t * work.classes + k) * pixels;
          for (int v = 0; v < vectors; ++v) {
            Lanes sum{}, a, q;
            for (int i = 0; i < M::rows; ++i) {
              load(y + i * pixels + v * step, a);
              load(x + (row + i) * pixels + v * step, q);
              sum += a * q;
            }
            load(to + v * step, a);
            store(a += sum * factor, to + v * step);
          }
        }
      }
    }
  }

  // Scores to softmax (left in `second`) and loss.
  FASTUDA_INLINE static void finish(
      const Bound& b, Work& work, int64_t tile, int64_t start, Acc* first, Acc* second) {
    const Chunk& chunk = work.chunk;
    const int64_t count = std::min<int64_t>(pixels, chunk.count - start);
    for (int v = 0; v < vectors; ++v) {
      const Lanes inverse = work.inverse[tile * vectors + v];
      Lanes a, c, top = Lanes{} - std::numeric_limits<Acc>::infinity(), sum{}, log;
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc *one = first + k * pixels + v * step, *two = second + k * pixels + v * step;
        load(one, a);
        load(two, c);
        store(a *= inverse, one);
        store(c = a + c * inverse * inverse, two);
        top = c > top ? c : top;
      }
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc* at = second + k * pixels + v * step;
        load(at, a);
        exp_negative(a - top, c);
        store(c, at);
        sum += c;
      }
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc* at = second + k * pixels + v * step;
        load(at, a);
        store(a /= sum, at);
      }
      log_from_one(sum, log);
      log += top;
      for (int lane = 0; lane < step && v * step + lane < count; ++lane) {
        const int32_t i = chunk.order[start + v * step + lane], label = chunk.label[i];
        if (label < b.classes())
          static_cast<Acc*>(b.loss)[chunk.begin + i] = log[lane] - first[label * pixels + v * step + lane];
      }
    }
    TilePlace<pixels> where;
    Base::place_posterior(b, work, start, where);
    const auto value = [&](int64_t k, int v, Lanes& out) __attribute__((always_inline)) {
      load(second + k * pixels + v, out);
    };
    store_tile(value, where, static_cast<Acc*>(b.posterior));
  }

  FASTUDA_INLINE static void run(const Bound& b, const Acc* packed, int64_t index, Work& work) {
    Chunk& chunk = work.chunk;
    chunk.read(b, index);
    Acc* loss = static_cast<Acc*>(b.loss) + chunk.begin;
    Acc* posterior = static_cast<Acc*>(b.posterior) + chunk.begin * b.classes();
    std::fill(loss, loss + chunk.size, Acc(0));
    for (int64_t i = 0; i < chunk.size; ++i)
      if (chunk.label[i] >= b.classes())
        std::fill(posterior + i * b.classes(), posterior + (i + 1) * b.classes(), Acc(0));
    const int64_t blocks = (b.classes() + M::rows - 1) / M::rows, rows = (b.classes() + blocks - 1) / blocks;
    for (int64_t start = 0; start < chunk.count; start += work.tiles * pixels) {
      const int64_t tiles = std::min(work.tiles, (chunk.count - start + pixels - 1) / pixels);
      for (int64_t t = 0; t < tiles; ++t) {
        Base::load_features(b, work, t, start + t * pixels);
        scores(
            b, packed, rows, blocks, work.x.data() + t * work.channels * pixels,
            work.first.data() + t * work.classes * pixels, work.second.data() + t * work.classes * pixels,
            Base::following(b, work, start + t * pixels));
      }
      if (b.kind == Covariance::full) full_scores(b, work, tiles);
      for (int64_t t = 0; t < tiles; ++t)
        finish(
            b, work, t, start + t * pixels, work.first.data() + t * work.classes * pixels,
            work.second.data() + t * work.classes * pixels);
    }
  }
};

}  // namespace fastuda
