// The forward pass of mode_losses: distances to all modes in one pass over a tile, nearest modes, both losses, slopes.
#pragma once

#include <limits>

#include "cpu/mode_losses_modes.h"
#include "cpu/vector_math.h"

namespace fastuda {

// The mean of the modes, -2 u of each, [block][channel][row of the block], and |u|^2.
template <class Acc>
struct PackedModes {
  ModeRows<Acc> modes;
  Blocks blocks;
  Buffer<Acc> centre, rows, squared;

  PackedModes(const ModeProblem& p, int64_t most) : modes(p), blocks(p.rows(), most) {
    const int64_t channels = modes.channels;
    centre.resize(channels);
    rows.resize(modes.count * channels);
    squared.resize(modes.count);
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t r = 0; r < modes.count; ++r) sum += modes.row(r)[c];
      centre.data()[c] = static_cast<Acc>(sum / modes.count);
    }
    for (int64_t i = 0; i < blocks.count; ++i)
      for (int64_t b = 0; b < blocks.size(i); ++b) {
        const int64_t r = blocks.first(i) + b;
        Acc* to = rows.data() + blocks.first(i) * channels + b;
        double sum = 0;
        for (int64_t c = 0; c < channels; ++c) {
          const Acc u = modes.row(r)[c] - centre.data()[c];
          to[c * blocks.size(i)] = -2 * u;
          sum += double(u) * u;
        }
        squared.data()[r] = static_cast<Acc>(sum);
      }
  }
};

template <class Acc, Isa isa>
struct ModeForward {
  using Lanes = Vec<Acc>;
  using Mask = typename VecOf<Acc>::mask;
  using Whole = std::conditional_t<sizeof(Acc) == 8, int64_t, int32_t>;  // an element of a mask
  using M = ModeMachine<isa>;
  static constexpr int step = kLanes<Acc>, vectors = M::vectors, pixels = vectors * step;
  static constexpr Acc infinity = std::numeric_limits<Acc>::infinity();
  static constexpr Acc kClose = Acc(1) / 32;  // a distance below this share of |x|^2 has lost too many digits

  struct Work {
    ModeChunk chunk;
    TilePlace<pixels> where;
    Buffer<Acc> x, products, more, distance, share, close;
    Buffer<Whole> nearest;
    alignas(64) Whole label[pixels];
    Lanes squared[vectors];

    explicit Work(const ModeProblem& p) {
      x.resize(p.channels() * pixels);
      products.resize(p.rows() * pixels);
      more.resize(M::rows * pixels);
      distance.resize(p.classes() * pixels);
      share.resize(p.classes() * pixels);
      nearest.resize(p.classes() * pixels);
      close.resize((p.channels() + step) * step);
    }
  };

  // x = e - centre and |x|^2 of a tile.
  FASTUDA_INLINE static void load_features(
      const ModeProblem& p, const PackedModes<Acc>& packed, Work& work, int64_t start) {
    const ModeChunk& chunk = work.chunk;
    int64_t at[pixels];
    const int count = static_cast<int>(std::clamp<int64_t>(chunk.count - start, 1, pixels));
    for (int i = 0; i < count; ++i) at[i] = chunk.offset[chunk.order[start + i]];
    work.where.template set<step>(at, count, p.channels(), p.features.channel_stride);
    for (int i = 0; i < pixels; ++i)
      work.label[i] = i < count ? chunk.label[chunk.order[start + i]] : static_cast<Whole>(p.classes());
    for (int v = 0; v < vectors; ++v) work.squared[v] = Lanes{};
    if (p.features.channel_stride == 1 && p.channels() >= step) return centre_rows(p, packed, work);
    Acc* x = work.x.data();
    load_tile<isa>(p.data, p.type, work.where, x);
    const Acc* centre = packed.centre.data();
    for (int64_t c0 = 0; c0 < p.channels(); c0 += kModeDepth) {
      Lanes part[vectors], q;
      for (int v = 0; v < vectors; ++v) part[v] = Lanes{};
      for (int64_t c = c0; c < std::min(c0 + kModeDepth, p.channels()); ++c)
        for (int v = 0; v < vectors; ++v) {
          load(x + c * pixels + v * step, q);
          q -= centre[c];
          part[v] += q * q;
          store(q, x + c * pixels + v * step);
        }
      for (int v = 0; v < vectors; ++v) work.squared[v] += part[v];
    }
  }

  // The same in one pass, of rows of channels.
  FASTUDA_INLINE static void centre_rows(const ModeProblem& p, const PackedModes<Acc>& packed, Work& work) {
    const char* bytes = static_cast<const char*>(p.data);
    const int64_t size = bytes_of(p.type);
    const Acc* centre = packed.centre.data();
    const int64_t channels = p.channels();
    for (int v = 0; v < vectors; ++v) {
      const int64_t* at = work.where.offset + v * step;
      Acc* x = work.x.data() + v * step;
      for (int64_t c0 = 0; c0 < channels; c0 += kModeDepth) {
        Lanes part[4] = {}, q;
        for (int64_t next = c0; next < std::min(c0 + kModeDepth, channels); next += step) {
          const int64_t c = std::min(next, channels - step);  // the last block overlaps the one before
          Lanes block[step];
#pragma GCC unroll 16
          for (int j = 0; j < step; ++j) __builtin_prefetch(bytes + (at[j] + c + 2 * step) * size);
          read_block<isa, Acc>(p.data, p.type, at, c, block);
#pragma GCC unroll 16
          for (int j = 0; j < step; ++j) {
            block[j] -= centre[c + j];
            store(block[j], x + (c + j) * pixels);
          }
          if (c == next) {
#pragma GCC unroll 16
            for (int j = 0; j < step; ++j) part[j % 4] += block[j] * block[j];
          } else {
            for (int64_t j = next; j < channels; ++j) {
              load(x + j * pixels, q);
              part[0] += q * q;
            }
          }
        }
        work.squared[v] += (part[0] + part[1]) + (part[2] + part[3]);
      }
    }
  }

  FASTUDA_INLINE static void multiply(const ModeProblem& p, const PackedModes<Acc>& packed, Work& work, Ahead ahead) {
    const Blocks& blocks = packed.blocks;
    for (int64_t c = 0; c < std::max<int64_t>(p.channels(), 1); c += kModeDepth) {
      const int64_t depth = std::min(kModeDepth, p.channels() - c);
      for (int64_t i = 0; i < blocks.count; ++i) {
        const int64_t first = blocks.first(i), size = blocks.size(i);
        Acc* const products = work.products.data() + first * pixels;
        Acc* const to = c == 0 ? products : work.more.data();
        set_dot_of<vectors, M::rows>(
            size, work.x.data() + c * pixels, depth, packed.rows.data() + first * p.channels() + c * size, to, ahead);
        if (c == 0) continue;
        for (int64_t at = 0; at < size * pixels; at += step) {
          Lanes before, more;
          load(products + at, before);
          load(to + at, more);
          store(before += more, products + at);
        }
      }
    }
  }

  // The nearest mode of each class and its distance; smallest distance of all.
  FASTUDA_INLINE static void nearest(
      const ModeProblem& p, const PackedModes<Acc>& packed, Work& work, int v, Lanes& low) {
    const Acc *product = work.products.data() + v * step, *squared = packed.squared.data();
    const Lanes xx = work.squared[v];
    low = Lanes{} + infinity;
    for (int64_t k = 0; k < p.classes(); ++k) {
      Lanes best, d;
      Mask which{};
      load(product, best);
      best = (best + *squared++) + xx;
      product += pixels;
      for (int64_t m = 1; m < p.per_class; ++m) {
        load(product, d);
        d = (d + *squared++) + xx;
        product += pixels;
        const Mask less = d < best;
        best = less ? d : best;
        which = less ? Mask{} + static_cast<Whole>(m) : which;
      }
      store(best, work.distance.data() + k * pixels + v * step);
      std::memcpy(work.nearest.data() + k * pixels + v * step, &which, sizeof(which));
      low = best < low ? best : low;
    }
  }

  // |e - V|^2 of kRows modes.
  template <int kRows>
  FASTUDA_INLINE static void differences(const Acc* e, const Acc* v, int64_t padded, Acc* out) {
    Lanes sum[kRows], q, d;
    for (int r = 0; r < kRows; ++r) sum[r] = Lanes{};
    for (int64_t c = 0; c < padded; c += step) {
      load(e + c, q);
      for (int r = 0; r < kRows; ++r) {
        load(v + r * padded + c, d);
        d = q - d;
        sum[r] += d * d;
      }
    }
    for (int r = 0; r < kRows; ++r) {
      alignas(64) Acc part[step];
      store(sum[r], part);
      for (int width = step / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) part[lane] += part[lane + width];
      out[r] = part[0];
    }
  }

  // A class of one pixel again, by differences.
  FASTUDA_INLINE static void refine(
      const ModeProblem& p, const ModeRows<Acc>& modes, Work& work, int64_t k, int i) {
    Acc best = 0, d[4];
    Whole which = 0;
    for (int64_t m = 0; m < p.per_class; m += 4) {
      const int64_t n = std::min<int64_t>(4, p.per_class - m);
      const Acc *e = work.close.data() + i % step * modes.padded, *v = modes.row(k * p.per_class + m);
      if (n == 4) differences<4>(e, v, modes.padded, d);
      else if (n == 3) differences<3>(e, v, modes.padded, d);
      else if (n == 2) differences<2>(e, v, modes.padded, d);
      else differences<1>(e, v, modes.padded, d);
      for (int64_t j = 0; j < n; ++j)
        if (m + j == 0 || d[j] < best) {
          best = d[j];
          which = static_cast<Whole>(m + j);
        }
    }
    work.distance.data()[k * pixels + i] = best;
    work.nearest.data()[k * pixels + i] = which;
  }

  // The embeddings of pixels [i, i + lanes) of a tile as rows, from planes.
  FASTUDA_INLINE static void load_rows(const ModeProblem& p, const ModeRows<Acc>& modes, Work& work, int i) {
    for (int64_t channel = 0; channel < p.channels(); channel += step) {
      Lanes block[step];
      load_planes<isa, Acc>(
          p.data, p.type, work.where.offset + i, work.where.dense[i], channel, work.where.channel_stride,
          std::min<int64_t>(step, p.channels() - channel), block);
      transpose<Acc>(block);
      for (int j = 0; j < step; ++j) store(block[j], work.close.data() + j * modes.padded + channel);
    }
  }

  FASTUDA_INLINE static void refine_pixel(
      const ModeProblem& p, const ModeRows<Acc>& modes, Work& work, int i, Acc limit) {
    if (p.features.channel_stride == 1) {
      Acc* const to = work.close.data() + i % step * modes.padded;
      read_rows<Acc, isa>(p.data, p.type, {work.where.offset[i], nullptr}, 1, p.channels(), to, 0);
    }
    for (int64_t k = 0; k < p.classes(); ++k)
      if (!(work.distance.data()[k * pixels + i] >= limit)) refine(p, modes, work, k, i);
  }

  FASTUDA_INLINE static void refine_close(
      const ModeProblem& p, const ModeRows<Acc>& modes, Work& work, int v, const Lanes& low) {
    const Lanes limit = work.squared[v] * kClose;
    alignas(64) Acc limits[step];
    alignas(64) Whole far[step];
    const Mask fine = low >= limit;
    std::memcpy(far, &fine, sizeof(fine));
    store(limit, limits);
    bool loaded = p.features.channel_stride == 1;
    for (int lane = 0; lane < step; ++lane) {
      if (far[lane] || work.label[v * step + lane] >= p.classes()) continue;
      if (!loaded) load_rows(p, modes, work, v * step);
      loaded = true;
      refine_pixel(p, modes, work, v * step + lane, limits[lane]);
    }
  }

  // Losses of a vector of pixels; what the slopes by the distances need is left in `share`.
  FASTUDA_INLINE static void losses(const ModeProblem& p, Work& work, int64_t start, int v) {
    Acc *distance = work.distance.data() + v * step, *share = work.share.data() + v * step;
    const Acc inverse = static_cast<Acc>(1 / (2 * p.sigma2));
    Mask label, rival = Mask{} - 1;
    std::memcpy(&label, work.label + v * step, sizeof(label));
    Lanes mine{}, best = Lanes{} + infinity, d, e, sum{}, log;
    for (int64_t k = 0; k < p.classes(); ++k) {
      load(distance + k * pixels, d);
      const Mask own = label == static_cast<Whole>(k);
      mine = own ? d : mine;
      d = own ? Lanes{} + infinity : d;
      const Mask less = d < best;
      best = less ? d : best;
      rival = less ? Mask{} + static_cast<Whole>(k) : rival;
    }
    // Differences of squares are computed as products: a fused multiply-add would not give exactly 0 for a^2 - a^2.
    const Lanes low = mine < best ? mine : best;
    Lanes high = mine - low;
    if (p.square) high *= mine + low;
    for (int64_t k = 0; k < p.classes(); ++k) {
      load(distance + k * pixels, d);
      e = low - d;
      if (p.square) e *= low + d;
      exp_negative(e * inverse, e);
      sum += e;
      store(e, share + k * pixels);
    }
    log_from_one(sum, log);
    log += high * inverse;
    const Lanes scale = inverse / sum;
    for (int64_t k = 0; k < p.classes(); ++k) {
      load(share + k * pixels, e);
      const Mask own = label == static_cast<Whole>(k);
      e = (own ? Lanes{} + inverse : Lanes{}) - e * scale;
      if (p.square) {
        load(distance + k * pixels, d);
        e *= d + d;
      }
      store(e, share + k * pixels);
    }
    Lanes hinge = mine - best + static_cast<Acc>(p.margin);
    hinge = hinge < 0 ? Lanes{} : hinge;
    alignas(64) Acc hinges[step], logs[step];
    alignas(64) Whole rivals[step];
    store(hinge, hinges);
    store(log, logs);
    std::memcpy(rivals, &rival, sizeof(rival));
    const ModeChunk& chunk = work.chunk;
    for (int lane = 0; lane < step && v * step + lane < work.where.count; ++lane) {
      const int64_t at = chunk.begin + chunk.order[start + v * step + lane];
      static_cast<Acc*>(p.triplet)[at] = hinges[lane];
      static_cast<Acc*>(p.cross_entropy)[at] = logs[lane];
      // A tile without a pixel that counts holds an ignored one in its first place: it has no own class.
      const auto own = work.label[v * step + lane];
      p.own_mode[at] = own < p.classes() ? work.nearest.data()[own * pixels + v * step + lane] : -1;
      p.rival[at] = rivals[lane];
    }
  }

  // Rows of K slopes, and of K bytes, four of them packed into a word in the lanes.
  FASTUDA_INLINE static void write_rows(const ModeProblem& p, Work& work, int64_t start) {
    const ModeChunk& chunk = work.chunk;
    const int64_t classes = p.classes();
    const int count = std::clamp(work.where.count, 1, pixels);
    int64_t at[pixels];
    for (int i = 0; i < count; ++i) at[i] = (chunk.begin + chunk.order[start + i]) * classes;
    TilePlace<pixels> where;
    where.template set<step>(at, count, classes, 1);
    const Acc* share = work.share.data();
    const auto value = [&](int64_t k, int v, Lanes& out) FASTUDA_INLINED {
      load(share + k * pixels + v, out);
    };
    store_tile<isa, pixels, Acc>(value, where, p.weight, kTypeOf<Acc>);
    const Whole* nearest = work.nearest.data();
    for (int64_t next = 0; classes >= 4 && next < classes; next += 4) {
      const int64_t k = std::min(next, classes - 4);  // the last word overlaps the one before
      uint32_t word[pixels];
      for (int i = 0; i < pixels; ++i) {
        const Whole* four = nearest + k * pixels + i;
        word[i] = static_cast<uint32_t>(
            four[0] | four[pixels] << 8 | four[2 * pixels] << 16 | four[3 * pixels] << 24);
      }
      for (int i = 0; i < count; ++i) std::memcpy(p.nearest + at[i] + k, word + i, 4);
    }
    for (int64_t k = 0; classes < 4 && k < classes; ++k)
      for (int i = 0; i < count; ++i) p.nearest[at[i] + k] = static_cast<uint8_t>(nearest[k * pixels + i]);
  }

  // Asks for the lines of a tile's results, `bytes` a pixel.
  FASTUDA_INLINE static void expect_results(
      const ModeChunk& chunk, const void* results, int64_t bytes, int64_t start) {
    const int64_t from = chunk.begin + chunk.order[start];
    const int64_t to = chunk.begin + chunk.order[std::min<int64_t>(start + pixels, chunk.count) - 1] + 1;
    expect_writes(static_cast<const char*>(results) + from * bytes, (to - from) * bytes);
  }

  FASTUDA_INLINE static void erase_ignored(const ModeProblem& p, const ModeChunk& chunk) {
    const int64_t classes = p.classes();
    for (int64_t i = 0; i < chunk.size; ++i) {
      if (chunk.label[i] < classes) continue;
      const int64_t at = chunk.begin + i;
      static_cast<Acc*>(p.triplet)[at] = static_cast<Acc*>(p.cross_entropy)[at] = 0;
      p.own_mode[at] = p.rival[at] = -1;
      std::fill_n(static_cast<Acc*>(p.weight) + at * classes, classes, Acc(0));
      std::fill_n(p.nearest + at * classes, classes, uint8_t(0));
    }
  }

  FASTUDA_INLINE static void run(
      const ModeProblem& p, const PackedModes<Acc>& packed, int64_t first, int64_t last, Work& work) {
    ModeChunk& chunk = work.chunk;
    chunk.read(p.features, p.labels, first, last);
    for (int64_t start = 0; start < chunk.count; start += pixels) {
      load_features(p, packed, work, start);
      expect_results(chunk, p.weight, p.classes() * sizeof(Acc), start);
      expect_results(chunk, p.nearest, p.classes(), start);
      multiply(p, packed, work, following(p, chunk, start + pixels, pixels));
      for (int v = 0; v * step < work.where.count; ++v) {
        Lanes low;
        nearest(p, packed, work, v, low);
        refine_close(p, packed.modes, work, v, low);
        losses(p, work, start, v);
      }
      write_rows(p, work, start);
    }
    erase_ignored(p, chunk);
  }
};

}  // namespace fastuda
