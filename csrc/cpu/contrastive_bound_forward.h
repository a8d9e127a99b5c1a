// The contrastive bound's forward pass: scores, softmax and loss. A full covariance is read in its lower triangle only.
#pragma once

#include <limits>

#include "cpu/contrastive_bound_tile.h"
#include "cpu/vector_math.h"

namespace fastuda {

template <class Acc, Isa isa>
struct Forward : TilePass<Acc, isa> {
  using Base = TilePass<Acc, isa>;
  using typename Base::Lanes;
  using typename Base::M;
  using typename Base::Work;
  using Base::pixels;
  using Base::step;
  using Base::vectors;

  // first[k] = q.mu_k / tau and, for a diagonal, second[k] = q^T Sigma_k q / (2 tau^2); q not normalised.
  FASTUDA_INLINE static void scores(
      const Bound& b, const Acc* packed, const Acc* x, Acc* first, Acc* second, Ahead ahead) {
    const Blocks blocks(b.classes(), M::rows);
    const int64_t half = b.classes() * b.channels();
    std::fill(first, first + b.classes() * pixels, Acc(0));
    std::fill(second, second + b.classes() * pixels, Acc(0));
    for (int64_t c = 0; c < b.channels(); c += kDepth) {
      const int64_t depth = std::min(kDepth, b.channels() - c);
      for (int64_t i = 0; i < blocks.blocks; ++i) {
        const int64_t rows = blocks.size(i), to = blocks.first(i) * pixels;
        const Acc* at = packed + blocks.first(i) * b.channels() + c * rows;
#pragma GCC unroll 1
        for (int square = 0; square <= (b.kind == Covariance::diagonal); ++square)
          add_dot_of<vectors, M::rows>(
              rows, x + c * pixels, depth, at + square * half, square, (square ? second : first) + to, ahead);
      }
    }
  }

  // second[k] for all tiles of a group; one tile's channels stay in the L1 cache while all classes pass.
  FASTUDA_INLINE static void full_scores(const Bound& b, const Acc* packed, Work& work, int64_t tiles) {
    const Triangle t = triangle<isa, false>(b);
    for (int64_t r = 0; r < t.blocks(); ++r) {
      const int64_t depth = t.width(r), row = r * M::rows;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const Acc* x = work.x.data() + tile * work.channels * pixels;
        Acc* second = work.second.data() + tile * work.classes * pixels;
        for (int64_t k = 0; k < b.classes(); ++k)
          for (int64_t c = 0; c < depth; c += kDepth)
            add_quadratic<vectors, M::rows>(
                x + c * pixels, std::min(kDepth, depth - c), packed + (k * depth + c) * M::rows, x + row * pixels,
                second + k * pixels);
      }
      packed += b.classes() * depth * M::rows;
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
      const Lanes share = 1 / sum;
      for (int64_t k = 0; k < b.classes(); ++k) {
        Acc* at = second + k * pixels + v * step;
        load(at, a);
        store(a *= share, at);
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
    const auto value = [&](int64_t k, int v, Lanes& out) FASTUDA_INLINED {
      load(second + k * pixels + v, out);
    };
    store_tile<isa, pixels, Acc>(value, where, b.posterior, kTypeOf<Acc>);
  }

  FASTUDA_INLINE static void run(const Bound& b, const Packed<Acc>& packed, int64_t index, Work& work) {
    Chunk& chunk = work.chunk;
    chunk.read(b, index);
    Acc* loss = static_cast<Acc*>(b.loss) + chunk.begin;
    Acc* posterior = static_cast<Acc*>(b.posterior) + chunk.begin * b.classes();
    std::fill(loss, loss + chunk.size, Acc(0));
    for (int64_t i = 0; i < chunk.size; ++i)
      if (chunk.label[i] >= b.classes())
        std::fill(posterior + i * b.classes(), posterior + (i + 1) * b.classes(), Acc(0));
    for (int64_t start = 0; start < chunk.count; start += work.tiles * pixels) {
      const int64_t tiles = std::min(work.tiles, (chunk.count - start + pixels - 1) / pixels);
      for (int64_t t = 0; t < tiles; ++t) {
        Base::load_features(b, work, t, start + t * pixels);
        scores(
            b, packed.rows.data(), work.x.data() + t * work.channels * pixels,
            work.first.data() + t * work.classes * pixels, work.second.data() + t * work.classes * pixels,
            Base::following(b, work, start + t * pixels));
      }
      if (b.kind == Covariance::full) full_scores(b, packed.triangle.data(), work, tiles);
      for (int64_t t = 0; t < tiles; ++t)
        finish(
            b, work, t, start + t * pixels, work.first.data() + t * work.classes * pixels,
            work.second.data() + t * work.classes * pixels);
    }
  }
};

}  // namespace fastuda
