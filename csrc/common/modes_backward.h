// The backward pass of mode_losses: both gradients from the saved slopes by the distance of each class.
//
// Lanes are channels. de = sum_k g_k e - sum_k g_k V_k and dV = (sum g) V - sum g e, V_k being the nearest mode of
// class k: one row a class, read from a panel of channels that stays in the L1 cache. For dV the pixels of a block are
// the set bits of one word per mode, so that the sum of a mode stays in registers.
// Pixels are cut into segments whose number depends on the shape alone; each sums into its own partial, and these are
// added in order, in double: the number of threads changes nothing.
#pragma once

#include "common/modes.h"

namespace fastuda {

constexpr int64_t kModeBlock = 64;  // pixels of a block, bits of a word
constexpr int64_t kModeSegments = 64;
constexpr int64_t kStreamedBytes = 1 << 25;

// Long segments keep their partial sums under a sixteenth of the features.
inline int64_t mode_segments(int64_t pixels, int64_t rows) {
  return std::clamp<int64_t>(pixels / std::max<int64_t>(kModePixels, 16 * rows), 1, kModeSegments);
}

// Calls run.operator()<vectors>(first vector) for the panels of a row: as wide as they may be, then powers of two.
template <int kWidth, class Run>
FASTUDA_INLINE void each_panel(int64_t first, int64_t vectors, const Run& run) {
  for (; first + kWidth <= vectors; first += kWidth) run.template operator()<kWidth>(first);
  if constexpr (kWidth > 1) each_panel<kWidth / 2>(first, vectors, run);
}

// The modes, [panel][mode][channel of the panel].
template <class Acc>
struct PanelModes {
  ModeRows<Acc> modes;
  Buffer<Acc> panels;

  PanelModes(const ModeProblem& p, int width) : modes(p) {
    panels.resize(modes.count * modes.padded);
    if (width == 8) fill<8>();
    else if (width == 4) fill<4>();
    else fill<2>();
  }

 private:
  template <int kWidth>
  void fill() {
    constexpr int step = kLanes<Acc>;
    each_panel<kWidth>(0, modes.padded / step, [&]<int kVectors>(int64_t first) {
      for (int64_t r = 0; r < modes.count; ++r)
        std::copy_n(
            modes.row(r) + first * step, kVectors * step,
            panels.data() + (modes.count * first + r * kVectors) * step);
    });
  }
};

template <class T, Isa isa>
struct ModeBackward {
  using Acc = Accumulate<T>;
  using Lanes = Vec<Acc>;
  static constexpr int step = kLanes<Acc>, panel = ModeMachine<isa>::panel;

  struct Work {
    ModeChunk chunk;
    int64_t result_offset[kModePixels], triplet_offset[kModePixels], cross_entropy_offset[kModePixels];
    Buffer<Acc> x, slope, g;  // panels of a block; slopes of the classes
    Buffer<int32_t> row, first;  // of the panels' modes: of each pixel's class, of each class
    Buffer<uint64_t> members;  // of each mode, pixels of the block
    Acc total[kModeBlock];
    bool valid[kModeBlock];
    bool streamed;  // the gradient is larger than caches, and its vectors lie on cache lines

    Work(const ModeProblem& p, int64_t padded) {
      x.resize(kModeBlock * padded);
      slope.resize(p.result.channel_stride == 1 ? 0 : kModeBlock * padded);
      g.resize(kModeBlock * p.classes());
      row.resize(kModeBlock * p.classes());
      members.resize(p.rows());
      first.resize(p.classes());
      for (int64_t k = 0; k < p.classes(); ++k) first.data()[k] = static_cast<int32_t>(k * p.per_class);
      const PixelGrid& to = p.result.grid;
      const int64_t strides[] = {to.image_stride, to.row_stride, to.column_stride, p.channels()};
      streamed = sizeof(T) == sizeof(Acc) && p.result.channel_stride == 1 &&
          to.pixels() * p.channels() * int64_t(sizeof(T)) >= kStreamedBytes &&
          reinterpret_cast<uintptr_t>(p.slope) % 64 == 0;
      for (const int64_t stride : strides) streamed = streamed && stride % step == 0;
    }
  };

  // to = from * scale; returns its sum.
  FASTUDA_INLINE static Acc scaled(const Acc* from, Acc scale, int64_t count, const Lanes& fresh, Acc* to) {
    Acc total = 0;
    if (count < step) {
      for (int64_t k = 0; k < count; ++k) total += to[k] = from[k] * scale;
      return total;
    }
    Lanes sum{}, w;
    int64_t k = 0;
    for (; k + step <= count; k += step) {
      load(from + k, w);
      store(w *= scale, to + k);
      sum += w;
    }
    if (k < count) {  // the last vector overlaps the one before, and what was summed there does not count again
      load(from + count - step, w);
      store(w *= scale, to + count - step);
      sum += fresh * w;
    }
    typename VecOf<Acc>::mask other;
#pragma GCC unroll 4
    for (int bit = step / 2; bit > 0; bit /= 2) {
#pragma GCC unroll 16
      for (int lane = 0; lane < step; ++lane) other[lane] = lane ^ bit;
      sum += __builtin_shuffle(sum, other);
    }
    return sum[0];
  }

  FASTUDA_INLINE static void choose(
      const uint8_t* __restrict nearest, const int32_t* __restrict first, int64_t classes, int32_t most,
      int32_t* __restrict row) {
    for (int64_t k = 0; k < classes; ++k) row[k] = first[k] + std::min<int32_t>(nearest[k], most);
  }

  // g_k = 2 x the slope by D_k, the modes they belong to, and the pixels of each mode.
  FASTUDA_INLINE static void read_slopes(const ModeProblem& p, Work& work, int64_t start, int64_t count) {
    const ModeChunk& chunk = work.chunk;
    const int64_t classes = p.classes();
    uint64_t* members = work.members.data();
    std::fill_n(members, p.rows(), uint64_t(0));
    Lanes fresh;
    for (int lane = 0; lane < step; ++lane) fresh[lane] = lane >= step - classes % step;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = chunk.order[start + i], at = chunk.begin + j;
      const int32_t own = chunk.label[j], rival = p.rival[at];
      Acc* g = work.g.data() + i * classes;
      int32_t* row = work.row.data() + i * classes;
      work.valid[i] = own < classes;
      work.total[i] = 0;
      if (!work.valid[i]) {
        std::fill_n(g, classes, Acc(0));
        std::fill_n(row, classes, 0);
        continue;
      }
      const Acc scale = 2 * static_cast<const Acc*>(p.grad_cross_entropy)[work.cross_entropy_offset[j]];
      const Acc hinge = static_cast<const Acc*>(p.triplet)[at] > 0
          ? 2 * static_cast<const Acc*>(p.grad_triplet)[work.triplet_offset[j]]
          : Acc(0);
      const Acc* weight = static_cast<const Acc*>(p.weight) + at * classes;
      const uint8_t* nearest = p.nearest + at * classes;
      __builtin_prefetch(weight + kModeBlock * classes);
      __builtin_prefetch(nearest + kModeBlock * classes);
      Acc total = scaled(weight, scale, classes, fresh, g);
      choose(nearest, work.first.data(), classes, static_cast<int32_t>(p.per_class) - 1, row);
      g[own] += hinge;
      if (rival >= 0 && rival < classes) g[rival] -= hinge;
      else total += hinge;
      work.total[i] = total;
      const uint64_t bit = uint64_t(1) << i;
      for (int64_t k = 0; k < classes; ++k) members[row[k]] |= bit;
    }
  }

  // The embeddings of a block, in panels, zero where the channels end.
  FASTUDA_INLINE static void load_block(
      const ModeProblem& p, const ModeRows<Acc>& modes, Work& work, int64_t start, int64_t count) {
    const ModeChunk& chunk = work.chunk;
    const T* from = static_cast<const T*>(p.data);
    const int64_t channels = p.channels(), stride = p.features.channel_stride;
    each_panel<panel>(0, modes.padded / step, [&]<int kVectors>(int64_t first) __attribute__((always_inline)) {
      Acc* to = work.x.data() + kModeBlock * first * step;
      Lanes q;
      if (stride == 1) {
        for (int64_t i = 0; i < count; ++i) {
          const T* row = from + chunk.offset[chunk.order[start + i]] + first * step;
          for (int v = 0; v < kVectors; ++v) {
            const int64_t rest = channels - (first + v) * step;
            if (rest >= step) load(row + v * step, q);
            else load_partial<T, Acc>(row + v * step, static_cast<int>(rest), q);
            store(q, to + (i * kVectors + v) * step);
          }
        }
        return;
      }
      for (int64_t i = 0; i < count; i += step) {
        int64_t at[step];
        for (int j = 0; j < step; ++j) at[j] = chunk.offset[chunk.order[start + std::min(i + j, count - 1)]];
        int64_t gaps = i + step > count;
        for (int j = 1; j < step; ++j) gaps += at[j] - at[j - 1] != 1;
        for (int v = 0; v < kVectors; ++v) {
          const int64_t channel = (first + v) * step, width = std::min<int64_t>(step, channels - channel);
          Lanes block[step];
          for (int64_t k = 0; k < step; ++k) {
            if (k >= width) block[k] = Lanes{};
            else if (gaps == 0) load(from + at[0] + (channel + k) * stride, block[k]);
            else
              for (int j = 0; j < step; ++j) block[k][j] = static_cast<Acc>(from[at[j] + (channel + k) * stride]);
          }
          transpose<Acc>(block);
          for (int j = 0; j < step && i + j < count; ++j) store(block[j], to + ((i + j) * kVectors + v) * step);
        }
      }
    });
  }

  // One panel of the embeddings' gradient.
  template <int kVectors>
  FASTUDA_INLINE static void slopes(
      const ModeProblem& p, const Acc* panels, Work& work, int64_t start, int64_t count, int64_t first, Ahead& ahead) {
    const int64_t classes = p.classes();
    const Acc* x = work.x.data() + kModeBlock * first * step;
    for (int64_t i = 0; i < count; ++i) {
      const Acc* g = work.g.data() + i * classes;
      const int32_t* row = work.row.data() + i * classes;
      Lanes sum[kVectors], u;
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        load(x + (i * kVectors + v) * step, sum[v]);
        sum[v] *= work.total[i];
      }
      for (int64_t k = 0; k < classes; ++k) {
        const Acc* at = panels + int64_t(row[k]) * (kVectors * step);
        asm("" : "+r"(at));  // one address with constant offsets, where GCC would keep one for every vector
        ahead.next();
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          load(at + v * step, u);
          sum[v] -= u * g[k];
        }
      }
      if (!work.valid[i])
        for (int v = 0; v < kVectors; ++v) sum[v] = Lanes{};
      if (p.result.channel_stride != 1) {
        Acc* to = work.slope.data() + (kModeBlock * first + i * kVectors) * step;
        for (int v = 0; v < kVectors; ++v) store(sum[v], to + v * step);
        continue;
      }
      T* to = static_cast<T*>(p.slope) + work.result_offset[work.chunk.order[start + i]] + first * step;
      if (work.streamed) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) stream_out<isa>(sum[v], to + v * step);
        continue;
      }
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const int64_t rest = p.channels() - (first + v) * step;
        if (rest >= step) {
          store(sum[v], to + v * step);
        } else {
          T last[step];
          store(sum[v], last);
          std::copy_n(last, rest, to + v * step);
        }
      }
    }
  }

  // sums[mode] += g x over the pixels of each mode, one panel; weights[mode] += g.
  template <int kVectors>
  FASTUDA_INLINE static void add_members(
      const ModeProblem& p, const Work& work, int64_t first, Acc* sums, Acc* weights) {
    const int64_t classes = p.classes();
    const Acc* x = work.x.data() + kModeBlock * first * step;
    const uint64_t* members = work.members.data();
    for (int64_t k = 0; k < classes; ++k)
      for (int64_t m = 0; m < p.per_class; ++m, ++members, sums += kVectors * step) {
        uint64_t left = *members;
        if (!left) continue;
        constexpr int at_once = kVectors > 4 ? 1 : 2;  // sums in flight hide the latency of an addition
        Lanes sum[at_once][kVectors], q;
        Acc total = 0;
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v)
          for (int j = 0; j < at_once; ++j) sum[j][v] = Lanes{};
        const auto add = [&](Lanes(&to)[kVectors]) __attribute__((always_inline)) {
          const int64_t i = __builtin_ctzll(left);
          left &= left - 1;
          const Acc g = work.g.data()[i * classes + k];
          const Acc* at = x + i * (kVectors * step);
          asm("" : "+r"(at));
          total += g;
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            load(at + v * step, q);
            to[v] += q * g;
          }
        };
        if (at_once == 2 && __builtin_popcountll(left) % 2) add(sum[0]);
        while (left) {
          add(sum[0]);
          if constexpr (at_once == 2) add(sum[1]);
        }
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          load(sums + v * step, q);
          if constexpr (at_once == 2) sum[0][v] += sum[1][v];
          store(q += sum[0][v], sums + v * step);
        }
        if (first == 0) weights[k * p.per_class + m] += total;
      }
  }

  // The gradient of a block into planes, from the panels it was left in.
  FASTUDA_INLINE static void store_planes(
      const ModeProblem& p, Work& work, int64_t padded, int64_t start, int64_t count) {
    T* out = static_cast<T*>(p.slope);
    const int64_t channels = p.channels(), stride = p.result.channel_stride;
    each_panel<panel>(0, padded / step, [&]<int kVectors>(int64_t first) __attribute__((always_inline)) {
      const Acc* from = work.slope.data() + kModeBlock * first * step;
      for (int64_t i = 0; i < count; i += step) {
        int64_t at[step];
        for (int j = 0; j < step; ++j)
          at[j] = work.result_offset[work.chunk.order[start + std::min(i + j, count - 1)]];
        const int64_t lanes = std::min<int64_t>(step, count - i);
        int64_t gaps = lanes < step;
        for (int j = 1; j < step; ++j) gaps += at[j] - at[j - 1] != 1;
        for (int v = 0; v < kVectors; ++v) {
          const int64_t channel = (first + v) * step, width = std::min<int64_t>(step, channels - channel);
          Lanes block[step];
          for (int j = 0; j < step; ++j) load(from + (std::min(i + j, count - 1) * kVectors + v) * step, block[j]);
          transpose<Acc>(block);
          for (int64_t k = 0; k < width; ++k) {
            if (gaps == 0) {
              store(block[k], out + at[0] + (channel + k) * stride);
              continue;
            }
            T rounded[step];
            store(block[k], rounded);
            for (int64_t j = 0; j < lanes; ++j) out[at[j] + (channel + k) * stride] = rounded[j];
          }
        }
      }
    });
  }

  FASTUDA_INLINE static void run_chunk(
      const ModeProblem& p, const PanelModes<Acc>& modes, int64_t begin, int64_t end, Work& work, Acc* sums,
      Acc* weights) {
    ModeChunk& chunk = work.chunk;
    const int64_t padded = modes.modes.padded, rows = p.rows();
    chunk.read(p, begin, end);
    chunk.place(p.result.grid, work.result_offset);
    chunk.place(p.triplet_grads, work.triplet_offset);
    chunk.place(p.cross_entropy_grads, work.cross_entropy_offset);
    for (int64_t start = 0; start < chunk.count; start += kModeBlock) {
      const int64_t count = std::min(kModeBlock, chunk.count - start);
      read_slopes(p, work, start, count);
      load_block(p, modes.modes, work, start, count);
      Ahead ahead = chunk.template following<T>(p, start + kModeBlock, kModeBlock);
      each_panel<panel>(0, padded / step, [&]<int kVectors>(int64_t first) __attribute__((always_inline)) {
        slopes<kVectors>(p, modes.panels.data() + rows * first * step, work, start, count, first, ahead);
        add_members<kVectors>(p, work, first, sums + rows * first * step, weights);
      });
      if (p.result.channel_stride != 1) store_planes(p, work, padded, start, count);
    }
    for (int64_t i = 0; i < chunk.size; ++i) {
      if (chunk.label[i] < p.classes() || (chunk.count > 0 && p.features.channel_stride != 1)) continue;
      T* to = static_cast<T*>(p.slope) + work.result_offset[i];
      for (int64_t c = 0; c < p.channels(); ++c) to[c * p.result.channel_stride] = T(0);
    }
  }

  // A segment's partial: sums of g x, [panel][mode][channel of the panel], then of g.
  FASTUDA_INLINE static void run(
      const ModeProblem& p, const PanelModes<Acc>& modes, int64_t segment, int64_t segments, Work& work) {
    const int64_t pixels = p.features.grid.pixels(), length = (pixels + segments - 1) / segments;
    const int64_t size = p.rows() * (modes.modes.padded + 1), last = std::min(pixels, (segment + 1) * length);
    Acc* sums = static_cast<Acc*>(p.partials) + segment * size;
    std::fill_n(sums, size, Acc(0));
    for (int64_t at = segment * length; at < last; at += kModePixels)
      run_chunk(
          p, modes, at, std::min(at + kModePixels, last), work, sums, sums + p.rows() * modes.modes.padded);
    if (work.streamed) fence_streams();
  }

  // dV of modes [begin, end) from all partials.
  FASTUDA_INLINE static void merge(
      const ModeProblem& p, const PanelModes<Acc>& modes, int64_t segments, int64_t begin, int64_t end) {
    const int64_t rows = p.rows(), padded = modes.modes.padded, size = rows * (padded + 1);
    for (int64_t r = begin; r < end; ++r) {
      double weight = 0;
      const Acc* weights = static_cast<const Acc*>(p.partials) + rows * padded + r;
      for (int64_t s = 0; s < segments; ++s) weight += weights[s * size];
      each_panel<panel>(0, padded / step, [&]<int kVectors>(int64_t first) __attribute__((always_inline)) {
        const Acc* from = static_cast<const Acc*>(p.partials) + (rows * first + r * kVectors) * step;
        double total[kVectors * step] = {};
        for (int64_t s = 0; s < segments; ++s)
          for (int c = 0; c < kVectors * step; ++c) total[c] += from[s * size + c];
        const int64_t channel = first * step, width = std::min<int64_t>(kVectors * step, p.channels() - channel);
        const Acc* v = modes.modes.row(r) + channel;
        Acc* to = static_cast<Acc*>(p.modes_slope) + r * p.channels() + channel;
        for (int64_t c = 0; c < width; ++c) to[c] = static_cast<Acc>(weight * v[c] - total[c]);
      });
    }
  }
};

}  // namespace fastuda
