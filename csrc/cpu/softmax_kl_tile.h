// Divergences between two softmaxes: a tile of pixels on the CPU, pixels in lanes.
//
// With x = (a - max a) / T, y the same of the other and d = x - y, the normalisers' logarithms cancel in nearly all
// that is wanted: one sweep over the classes after that of the maxima finds both normalisers and the means of d under
// both softmaxes. KL(p || q) + KL(q || p) is the difference of these means, but summed as (p - q)(d - mean d), since
// nearly equal softmaxes have nearly equal means.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/scaled_exp.h"
#include "cpu/tile.h"
#include "cpu/vector_math.h"

namespace fastuda {

constexpr int64_t kKlChunk = 256;  // pixels of a task
constexpr int64_t kKlDepth = 32;   // classes added up at once: sums of sums lose few digits

// exp(x) for x <= 0, within a few units of the last place, by 2^t in whole and fraction; below -87 about 1e-38.
//
// The sum with a number whose last place is worth 1 rounds t to a whole number and leaves it in the sum's low bits; the
// fraction keeps its digits because the product is rounded only after the subtraction.
template <Isa isa>
FASTUDA_INLINE void exp_of(const Vec<float>& x, Vec<float>& out) {
  constexpr float magic = 0x1.8p23f, high = 1.44269502f, low = 1.925963033e-8f;
  const Vec<float> t = x < -87.0f ? Vec<float>{} - 87.0f : x;
  const Vec<float> sum = t * high + magic;
  const Vec<float> y = power_of_fraction(t * low + product_less<isa>(t, high, sum - magic));
  Words bits, exponent;
  std::memcpy(&bits, &y, sizeof(bits));
  std::memcpy(&exponent, &sum, sizeof(exponent));
  bits += exponent << 23;
  std::memcpy(&out, &bits, sizeof(out));
}

template <Isa isa>
FASTUDA_INLINE void exp_of(const Vec<double>& x, Vec<double>& out) {
  exp_negative(x, out);
}

// One of the two logits, and where its gradient goes: null for none.
struct KlSide {
  FeatureView view, result;
  const void* data;
  void* slope;
};

struct KlProblem {
  KlSide sides[2];
  torch::headeronly::ScalarType type;  // of both logits and of their gradients
  const uint8_t* mask;  // null: all count
  PixelGrid mask_grid, grad_grid;
  double temperature;
  bool symmetric;
  void* loss;        // of the forward pass, in the order of the pixels
  const void* grad;  // null in the forward pass

  int64_t classes() const { return sides[0].view.channels; }
  int64_t pixels() const { return sides[0].view.grid.pixels(); }
  int64_t chunks() const { return (pixels() + kKlChunk - 1) / kKlChunk; }
};

// A tile is gone through by one piece of code for both logits and both directions: to compile it takes long.
template <class Acc, Isa isa>
struct SoftmaxKl {
  using Lanes = Vec<Acc>;
  static constexpr int step = kLanes<Acc>, vectors = isa == Isa::avx512 ? 2 : 1, pixels = vectors * step;

  struct Work {
    std::vector<Acc> space;
    Acc *z[2], *d;  // [class][pixels]: logits, then their exponentials, then gradients; difference
    TilePlace<pixels> where;
    int64_t at[2][kKlChunk], result_at[2][kKlChunk], mask_at[kKlChunk], grad_at[kKlChunk];
    int64_t dense[2], result_dense[2];
    bool valid[pixels];
    Lanes unit[2][vectors];  // 1 / normaliser
    Lanes mean[2][vectors];  // of d
    Lanes log_ratio[vectors];

    explicit Work(const KlProblem& p) : space(3 * p.classes() * pixels + step) {
      const uintptr_t address = reinterpret_cast<uintptr_t>(space.data());
      z[0] = reinterpret_cast<Acc*>((address + 63) / 64 * 64);
      z[1] = z[0] + p.classes() * pixels;
      d = z[1] + p.classes() * pixels;
    }
  };

  static void offsets(const PixelGrid& grid, int64_t begin, int64_t end, int64_t* out) {
    grid.runs(begin, end, [&](int64_t pixel, int64_t offset, int64_t length) {
      for (int64_t i = 0; i < length; ++i) out[pixel - begin + i] = offset + i * grid.column_stride;
    });
  }

  // The offset of a chunk whose pixels follow one another in memory, or -1; else of each pixel.
  static int64_t place(const PixelGrid& grid, int64_t begin, int64_t end, int64_t* out) {
    if (grid.column_stride != 1 || begin % grid.width + (end - begin) > grid.width) {
      offsets(grid, begin, end, out);
      return -1;
    }
    offsets(grid, begin, begin + 1, out);
    return out[0];
  }

  static void begin_chunk(const KlProblem& p, Work& work, int64_t begin, int64_t end) {
    for (int i = 0; i < 2; ++i) {
      const KlSide& side = p.sides[i];
      work.dense[i] = place(side.view.grid, begin, end, work.at[i]);
      if (side.slope) work.result_dense[i] = place(side.result.grid, begin, end, work.result_at[i]);
    }
    if (p.mask) offsets(p.mask_grid, begin, end, work.mask_at);
    if (p.grad) offsets(p.grad_grid, begin, end, work.grad_at);
  }

  // Which pixels of a tile count; false for none.
  static bool read_mask(const KlProblem& p, Work& work, int64_t start, int count) {
    bool any = false;
    for (int i = 0; i < pixels; ++i) {
      work.valid[i] = i < count && (!p.mask || p.mask[work.mask_at[start + i]]);
      any |= work.valid[i];
    }
    return any;
  }

  static void set_where(Work& work, int64_t dense, int64_t* at, int count, const FeatureView& view) {
    for (int j = 0; dense >= 0 && j < count; ++j) at[j] = dense + j;
    work.where.template set<step>(at, count, view.channels, view.channel_stride);
  }

  FASTUDA_INLINE static void read_tile(const KlProblem& p, Work& work, int i, int64_t start, int count) {
    const FeatureView& view = p.sides[i].view;
    const void* data = p.sides[i].data;
    const int64_t dense = work.dense[i] < 0 ? -1 : work.dense[i] + start;
    if (dense < 0 || count < pixels) {
      set_where(work, dense, work.at[i] + start, count, view);
      return load_tile<isa>(data, p.type, work.where, work.z[i]);
    }
    if (!kWholeVectors<isa> && p.type != kTypeOf<Acc>)
      return read_rows<Acc, isa>(
          data, p.type, {dense, nullptr, view.channel_stride}, p.classes(), pixels, work.z[i], pixels);
    with_type_on<Acc, isa>(p.type, [&]<class T>() FASTUDA_INLINED {
      const T* from = static_cast<const T*>(data) + dense;
      Acc* to = work.z[i];
      for (int64_t c = 0; c < p.classes(); ++c, from += view.channel_stride, to += pixels)
        for (int v = 0; v < pixels; v += step) {
          Lanes x;
          load(from + v, x);
          store(x, to + v);
          __builtin_prefetch(from + pixels + v);  // of the next tile: too many planes for the hardware to follow
        }
    });
  }

  FASTUDA_INLINE static void write_tile(const KlProblem& p, Work& work, int i, int64_t start, int count) {
    const FeatureView& view = p.sides[i].result;
    void* data = p.sides[i].slope;
    const Acc* from = work.z[i];
    const int64_t dense = work.result_dense[i] < 0 ? -1 : work.result_dense[i] + start;
    if (dense < 0 || count < pixels) {
      const auto value = [=](int64_t c, int v, Lanes& out) FASTUDA_INLINED { load(from + c * pixels + v, out); };
      set_where(work, dense, work.result_at[i] + start, count, view);
      return store_tile<isa, pixels, Acc>(value, work.where, data, p.type);
    }
    if (!kWholeVectors<isa> && p.type != kTypeOf<Acc>)
      return write_rows<Acc, isa>(
          from, pixels, {dense, nullptr, view.channel_stride}, p.classes(), pixels, data, p.type);
    with_type_on<Acc, isa>(p.type, [&]<class T>() FASTUDA_INLINED {
      T* to = static_cast<T*>(data) + dense;
      const Acc* numbers = from;
      for (int64_t c = 0; c < p.classes(); ++c, to += view.channel_stride, numbers += pixels)
        for (int v = 0; v < pixels; v += step) {
          Lanes x;
          load(numbers + v, x);
          store(x, to + v);
        }
    });
  }

  FASTUDA_INLINE static Lanes largest(const Acc* x, int64_t classes, int v) {
    Lanes top, value;
    load(x + v * step, top);
    for (int64_t c = 1; c < classes; ++c) {
      load(x + c * pixels + v * step, value);
      top = value > top ? value : top;
    }
    return top;
  }

  // Normalisers and means of d; exponentials and d in the place of the logits.
  FASTUDA_INLINE static void sweep(const KlProblem& p, Work& work) {
    const Acc scale = static_cast<Acc>(1 / p.temperature);
    Acc *const first = work.z[0], *const second = work.z[1], *const difference = work.d;
    for (int v = 0; v < vectors; ++v) {
      const Lanes x_top = largest(first, p.classes(), v), y_top = largest(second, p.classes(), v);
      Lanes x_total{}, y_total{}, x_sum{}, y_sum{};
      for (int64_t begin = 0; begin < p.classes(); begin += kKlDepth) {
        Lanes x_part{}, y_part{}, x_mean{}, y_mean{};
        for (int64_t c = begin; c < std::min(begin + kKlDepth, p.classes()); ++c) {
          const int64_t at = c * pixels + v * step;
          Lanes x, y, x_exp, y_exp;
          load(first + at, x);
          load(second + at, y);
          x = (x - x_top) * scale;
          y = (y - y_top) * scale;
          exp_of<isa>(x, x_exp);
          exp_of<isa>(y, y_exp);
          const Lanes d = x - y;
          x_part += x_exp;
          y_part += y_exp;
          x_mean += x_exp * d;
          y_mean += y_exp * d;
          store(x_exp, first + at);
          store(y_exp, second + at);
          store(d, difference + at);
        }
        x_total += x_part;
        y_total += y_part;
        x_sum += x_mean;
        y_sum += y_mean;
      }
      work.unit[0][v] = Acc(1) / x_total;
      work.unit[1][v] = Acc(1) / y_total;
      work.mean[0][v] = x_sum / x_total;
      work.mean[1][v] = y_sum / y_total;
      if (!p.symmetric && !p.grad) {
        Lanes x_log, y_log;
        log_from_one(x_total, x_log);
        log_from_one(y_total, y_log);
        work.log_ratio[v] = x_log - y_log;
      }
    }
  }

  // sum_c (p_c - q_c)(d_c - mean d).
  FASTUDA_INLINE static Lanes divergence(const KlProblem& p, const Work& work, int v) {
    Lanes total{};
    for (int64_t begin = 0; begin < p.classes(); begin += kKlDepth) {
      Lanes part{};
      for (int64_t c = begin; c < std::min(begin + kKlDepth, p.classes()); ++c) {
        const int64_t at = c * pixels + v * step;
        Lanes first, second, d;
        load(work.z[0] + at, first);
        load(work.z[1] + at, second);
        load(work.d + at, d);
        part += (first * work.unit[0][v] - second * work.unit[1][v]) * (d - work.mean[0][v]);
      }
      total += part;
    }
    return total;
  }

  FASTUDA_INLINE static void write_loss(const KlProblem& p, const Work& work, bool any, int count, Acc* to) {
    const Acc square = static_cast<Acc>(p.temperature * p.temperature);
    Acc loss[pixels] = {};
    for (int v = 0; any && v < vectors; ++v) {
      const Lanes value = p.symmetric ? divergence(p, work, v) : work.log_ratio[v] - work.mean[1][v];
      store(value * square, loss + v * step);
    }
    for (int i = 0; i < count; ++i) to[i] = work.valid[i] ? loss[i] : Acc(0);
  }

  // The gradients of a tile in the place of the exponentials.
  FASTUDA_INLINE static void slopes(const KlProblem& p, Work& work, int64_t start) {
    alignas(64) Acc scale[pixels], keep[pixels];
    const Acc* grad = static_cast<const Acc*>(p.grad);
    for (int i = 0; i < pixels; ++i) {
      keep[i] = work.valid[i];
      scale[i] = work.valid[i] ? static_cast<Acc>(grad[work.grad_at[start + i]] * p.temperature) : Acc(0);
    }
    for (int v = 0; v < vectors; ++v) {
      Lanes weight, kept;
      load(scale + v * step, weight);
      load(keep + v * step, kept);
      const Lanes first_mean = work.mean[0][v], second_mean = work.mean[1][v];
      for (int64_t c = 0; c < p.classes(); ++c) {
        const int64_t at = c * pixels + v * step;
        Lanes first, second, d;
        load(work.z[0] + at, first);
        load(work.z[1] + at, second);
        load(work.d + at, d);
        first *= work.unit[0][v];
        second *= work.unit[1][v];
        const Lanes gap = first - second;
        const Lanes one = (p.symmetric ? first * (d - first_mean) + gap : gap) * weight;
        const Lanes two = (second * (second_mean - d) - gap) * weight;
        store(kept > Acc(0) ? one : Lanes{}, work.z[0] + at);
        store(kept > Acc(0) ? two : Lanes{}, work.z[1] + at);
      }
    }
  }

  FASTUDA_INLINE static void run(const KlProblem& p, int64_t begin_chunks, int64_t end_chunks) {
    Work work(p);
    for (int64_t chunk = begin_chunks; chunk < end_chunks; ++chunk) {
      const int64_t begin = chunk * kKlChunk, end = std::min(begin + kKlChunk, p.pixels());
      begin_chunk(p, work, begin, end);
      for (int64_t start = 0; start < end - begin; start += pixels) {
        const int count = static_cast<int>(std::min<int64_t>(pixels, end - begin - start));
        const bool any = read_mask(p, work, start, count);
        if (any) {
#pragma GCC unroll 1
          for (int i = 0; i < 2; ++i) read_tile(p, work, i, start, count);
          sweep(p, work);
        }
        if (p.loss) write_loss(p, work, any, count, static_cast<Acc*>(p.loss) + begin + start);
        if (!p.grad) continue;
        if (any) slopes(p, work, start);
        else std::fill(work.z[0], work.d, Acc(0));
#pragma GCC unroll 1
        for (int i = 0; i < 2; ++i)
          if (p.sides[i].slope) write_tile(p, work, i, start, count);
      }
    }
  }
};

}  // namespace fastuda
