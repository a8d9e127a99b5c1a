// The backward pass of mode_losses: both gradients from the saved slopes by the distance of each class.
//
// Lanes are channels. de = sum_k g_k e - sum_k g_k V_k and dV = (sum g) V - sum g e, V_k being the nearest mode of
// class k: one row a class, read from a panel of channels that stays in the L1 cache. For dV the pixels of a block are
// the set bits of one word per mode, so that the sum of a mode stays in registers.
// Pixels are cut into segments whose number depends on the shape alone; each sums into its own partial, and these are
// added in order, in double: the number of threads changes nothing.
#pragma once

#include "cpu/mode_losses_members.h"
#include "cpu/mode_losses_modes.h"

namespace fastuda {

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

template <class Acc, Isa isa>
struct ModeBackward {
  using Lanes = Vec<Acc>;
  static constexpr int step = kLanes<Acc>, panel = ModeMachine<isa>::panel;

  struct Work {
    ModeChunk chunk;
    int64_t result_offset[kModePixels], triplet_offset[kModePixels], cross_entropy_offset[kModePixels];
    Buffer<Acc> x, slope, g;  // panels of a block; slopes of the classes
    int64_t pitch;  // of the rows of `near`
    Buffer<uint8_t> near;  // of each pixel, the nearest mode of each class
    Buffer<uint64_t> members;  // of each mode, pixels of the block
    Acc total[kModeBlock];
    bool valid[kModeBlock];
    bool streamed;  // the gradient is larger than caches, and its vectors lie on cache lines

    Work(const ModeProblem& p, int64_t padded) {
      x.resize(kModeRows * padded);
      slope.resize(p.result.channel_stride == 1 ? 0 : kModeBlock * padded);
      g.resize(kModeRows * p.classes());
      pitch = (p.classes() + kBytes - 1) / kBytes * kBytes;
      near.resize(kModeBlock * pitch + kBytes);
      members.resize(p.rows() + 1);  // one is read ahead
      const PixelGrid& to = p.result.grid;
      const int64_t strides[] = {to.image_stride, to.row_stride, to.column_stride, p.channels()};
      streamed = p.type == kTypeOf<Acc> && p.result.channel_stride == 1 &&
          to.pixels() * p.channels() * int64_t(sizeof(Acc)) >= kStreamedBytes &&
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

  // g_k = 2 x the slope by D_k, the modes they belong to, and the pixels of each mode.
  FASTUDA_INLINE static void read_slopes(const ModeProblem& p, Work& work, int64_t start, int64_t count) {
    const ModeChunk& chunk = work.chunk;
    const int64_t classes = p.classes();
    uint64_t usable = 0;
    Lanes fresh;
    for (int lane = 0; lane < step; ++lane) fresh[lane] = lane >= step - classes % step;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t j = chunk.order[start + i], at = chunk.begin + j;
      const int32_t own = chunk.label[j];
      const int64_t rival = p.rival[at];
      Acc* g = work.g.data() + i * classes;
      uint8_t* near = work.near.data() + i * work.pitch;
      work.valid[i] = own < classes;
      work.total[i] = 0;
      if (!work.valid[i]) {
        std::fill_n(g, classes, Acc(0));
        std::fill_n(near, classes, uint8_t(0));
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
      copy_bytes(nearest, classes, static_cast<uint8_t>(p.per_class - 1), near);
      g[own] += hinge;
      if (rival >= 0 && rival < classes) g[rival] -= hinge;
      else total += hinge;
      work.total[i] = total;
      usable |= uint64_t(1) << i;
    }
    find_members(work.near.data(), work.pitch, classes, p.per_class, usable, work.members.data());
  }

  // The embeddings of a block, in panels, zero where the channels end.
  FASTUDA_INLINE static void load_block(
      const ModeProblem& p, const ModeRows<Acc>& modes, Work& work, int64_t start, int64_t count) {
    const ModeChunk& chunk = work.chunk;
    const int64_t channels = p.channels(), stride = p.features.channel_stride;
    int64_t offsets[kModeBlock];
    for (int64_t i = 0; i < kModeBlock; ++i) offsets[i] = chunk.offset[chunk.order[start + std::min(i, count - 1)]];
    each_panel<panel>(0, modes.padded / step, [&]<int kVectors>(int64_t first) FASTUDA_INLINED {
      Acc* to = work.x.data() + kModeRows * first * step;
      if (stride == 1) {
        const int64_t width = std::min<int64_t>(channels - first * step, kVectors * step);
        if ((!kWholeVectors<isa> && p.type != kTypeOf<Acc>) || width < kVectors * step) {
          read_rows<Acc, isa>(p.data, p.type, {first * step, offsets}, count, width, to, kVectors * step);
          return;
        }
        with_type_on<Acc, isa>(p.type, [&]<class T>() FASTUDA_INLINED {
          for (int64_t i = 0; i < count; ++i) {
            const T* const row = static_cast<const T*>(p.data) + offsets[i] + first * step;
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) {
              Lanes q;
              load(row + v * step, q);
              store(q, to + (i * kVectors + v) * step);
            }
          }
        });
        return;
      }
      for (int64_t i = 0; i < count; i += step) {
        const int64_t* const at = offsets + i;
        int64_t gaps = i + step > count;
        for (int j = 1; j < step; ++j) gaps += at[j] - at[j - 1] != 1;
#pragma GCC unroll 1
        for (int v = 0; v < kVectors; ++v) {
          const int64_t channel = (first + v) * step;
          Lanes block[step];
          load_planes<isa, Acc>(
              p.data, p.type, at, gaps == 0, channel, stride, std::min<int64_t>(step, channels - channel), block);
          transpose<Acc>(block);
          for (int j = 0; j < step && i + j < count; ++j) store(block[j], to + ((i + j) * kVectors + v) * step);
        }
      }
    });
  }

  // One panel of the embeddings' gradient of kPixels pixels.
  template <int kVectors, int kPixels>
  FASTUDA_INLINE static void slopes(
      const ModeProblem& p, const Acc* panels, Work& work, int64_t start, int64_t i, int64_t first, Ahead& ahead) {
    constexpr int64_t width = kVectors * step;
    const int64_t classes = p.classes(), next = p.per_class * width;
    const Acc *x = work.x.data() + kModeRows * first * step + i * width, *g = work.g.data() + i * classes;
    const uint8_t* near = work.near.data() + i * work.pitch;
    Lanes sum[kPixels][kVectors], u;
#pragma GCC unroll 2
    for (int j = 0; j < kPixels; ++j)
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        ahead.next();
        load(x + j * width + v * step, sum[j][v]);
        sum[j][v] *= work.total[i + j];
      }
    // The bytes of the next eight classes are loaded one step ahead, so that no load of a mode waits for its address.
    uint64_t later[kPixels], chosen[kPixels];
    for (int j = 0; j < kPixels; ++j) std::memcpy(&later[j], near + j * work.pitch, 8);
    for (int64_t k0 = 0; k0 < classes; k0 += 8) {
#pragma GCC unroll 2
      for (int j = 0; j < kPixels; ++j) {
        chosen[j] = later[j];
        std::memcpy(&later[j], near + j * work.pitch + k0 + 8, 8);
        asm("" : "+r"(later[j]));
      }
      for (int64_t k = k0; k < std::min(k0 + 8, classes); ++k, panels += next) {
#pragma GCC unroll 2
        for (int j = 0; j < kPixels; ++j) {
          const Acc* at = panels + (chosen[j] & 255) * width;
          chosen[j] >>= 8;
          asm("" : "+r"(at));  // one address with constant offsets, where GCC would keep one for every vector
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) {
            load(at + v * step, u);
            sum[j][v] -= u * g[j * classes + k];
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int j = 0; j < kPixels; ++j) store_slope<kVectors>(p, work, start, i + j, first, sum[j]);
  }

  template <int kVectors>
  FASTUDA_INLINE static void store_slope(
      const ModeProblem& p, Work& work, int64_t start, int64_t i, int64_t first, Lanes (&sum)[kVectors]) {
    if (!work.valid[i])
      for (int v = 0; v < kVectors; ++v) sum[v] = Lanes{};
    if (p.result.channel_stride != 1) {
      Acc* to = work.slope.data() + (kModeBlock * first + i * kVectors) * step;
      for (int v = 0; v < kVectors; ++v) store(sum[v], to + v * step);
      return;
    }
    const int64_t at = work.result_offset[work.chunk.order[start + i]] + first * step;
    if (work.streamed) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) stream_out<isa>(sum[v], static_cast<Acc*>(p.slope) + at + v * step);
      return;
    }
    const int64_t count = std::min<int64_t>(p.channels() - first * step, kVectors * step);
    if ((kWholeVectors<isa> || p.type == kTypeOf<Acc>) && count == kVectors * step) {
      with_type_on<Acc, isa>(p.type, [&]<class T>() FASTUDA_INLINED {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) store(sum[v], static_cast<T*>(p.slope) + at + v * step);
      });
      return;
    }
    alignas(64) Acc row[kVectors * step];
    for (int v = 0; v < kVectors; ++v) store(sum[v], row + v * step);
    write_rows<Acc, isa>(row, 0, {at, nullptr}, 1, count, p.slope, p.type);
  }

  // sums[mode] += g x over the pixels of each mode, one panel; weights[mode] += g.
  template <int kVectors>
  FASTUDA_INLINE static void add_members(
      const ModeProblem& p, const Work& work, int64_t first, Acc* sums, Acc* weights) {
    constexpr int64_t width = kVectors * step;
    const int64_t classes = p.classes();
    const Acc* x = work.x.data() + kModeRows * first * step;
    const uint64_t* members = work.members.data();
    uint64_t following = *members++;
    for (int64_t k = 0; k < classes; ++k)
      for (int64_t m = 0; m < p.per_class; ++m, sums += width) {
        uint64_t left = following;
        following = *members++;
        if (!left) continue;
        Lanes sum[2][kVectors], q;  // two in flight hide the latency of an addition
        Acc total = 0;
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sum[0][v] = sum[1][v] = Lanes{};
        do {
#pragma GCC unroll 2
          for (int j = 0; j < 2; ++j) {
            const int64_t i = left ? __builtin_ctzll(left) : kModeBlock;
            left &= left - 1;
            const Acc g = work.g.data()[i * classes + k];
            const Acc* at = x + i * width;
            asm("" : "+r"(at));
            total += g;
#pragma GCC unroll 16
            for (int v = 0; v < kVectors; ++v) {
              load(at + v * step, q);
              sum[j][v] += q * g;
            }
          }
        } while (left);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) {
          load(sums + v * step, q);
          sum[0][v] += sum[1][v];
          store(q += sum[0][v], sums + v * step);
        }
        if (first == 0) weights[k * p.per_class + m] += total;
      }
  }

  // The gradient of a block into planes, from the panels it was left in.
  FASTUDA_INLINE static void store_planes(
      const ModeProblem& p, Work& work, int64_t padded, int64_t start, int64_t count) {
    const int64_t channels = p.channels(), stride = p.result.channel_stride;
    each_panel<panel>(0, padded / step, [&]<int kVectors>(int64_t first) FASTUDA_INLINED {
      const Acc* from = work.slope.data() + kModeBlock * first * step;
      for (int64_t i = 0; i < count; i += step) {
        int64_t at[step];
        for (int j = 0; j < step; ++j)
          at[j] = work.result_offset[work.chunk.order[start + std::min(i + j, count - 1)]];
        const int64_t lanes = std::min<int64_t>(step, count - i);
        int64_t gaps = lanes < step;
        for (int j = 1; j < step; ++j) gaps += at[j] - at[j - 1] != 1;
#pragma GCC unroll 1
        for (int v = 0; v < kVectors; ++v) {
          const int64_t channel = (first + v) * step, width = std::min<int64_t>(step, channels - channel);
          Lanes block[step];
          for (int j = 0; j < step; ++j) load(from + (std::min(i + j, count - 1) * kVectors + v) * step, block[j]);
          transpose<Acc>(block);
          fastuda::store_planes<isa, Acc>(block, at, lanes, gaps == 0, channel, stride, width, p.slope, p.type);
        }
      }
    });
  }

  FASTUDA_INLINE static void run_chunk(
      const ModeProblem& p, const PanelModes<Acc>& modes, int64_t begin, int64_t end, Work& work, Acc* sums,
      Acc* weights) {
    ModeChunk& chunk = work.chunk;
    const int64_t padded = modes.modes.padded, rows = p.rows();
    chunk.read(p.features, p.labels, begin, end);
    chunk.place(p.result.grid, work.result_offset);
    chunk.place(p.triplet_grads, work.triplet_offset);
    chunk.place(p.cross_entropy_grads, work.cross_entropy_offset);
    for (int64_t start = 0; start < chunk.count; start += kModeBlock) {
      const int64_t count = std::min(kModeBlock, chunk.count - start);
      read_slopes(p, work, start, count);
      load_block(p, modes.modes, work, start, count);
      Ahead ahead = following(p, chunk, start + kModeBlock, kModeBlock);
      each_panel<panel>(0, padded / step, [&]<int kVectors>(int64_t first) FASTUDA_INLINED {
        const Acc* panels = modes.panels.data() + rows * first * step;
        for (int64_t i = 0; i + 2 <= count; i += 2) slopes<kVectors, 2>(p, panels, work, start, i, first, ahead);
        if (count % 2) slopes<kVectors, 1>(p, panels, work, start, count - 1, first, ahead);
        add_members<kVectors>(p, work, first, sums + rows * first * step, weights);
      });
      if (p.result.channel_stride != 1) store_planes(p, work, padded, start, count);
    }
    for (int64_t i = 0; i < chunk.size; ++i) {
      if (chunk.label[i] < p.classes() || (chunk.count > 0 && p.features.channel_stride != 1)) continue;
      const int64_t size = bytes_of(p.type);  // zeros are zero bytes in any type
      char* to = static_cast<char*>(p.slope) + work.result_offset[i] * size;
      for (int64_t c = 0; c < p.channels(); ++c) std::memset(to + c * p.result.channel_stride * size, 0, size);
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
      each_panel<panel>(0, padded / step, [&]<int kVectors>(int64_t first) FASTUDA_INLINED {
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
