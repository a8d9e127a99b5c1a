// Pixels of bilinearly upsampled scores tile by tile, and the gradient of such pixels back to the low-resolution nodes.
//
// The rows of a band lie between the same two low-resolution rows. A tile of columns is lerped along once for a band;
// a row of it is then one multiply-add a class away, and its gradient is summed down the columns before it is spread
// along the nodes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/products.h"
#include "cpu/upsample_rows.h"
#include "cpu/upsample_pixels.h"

namespace fastuda {

// Scores of an upsampled image and the labels of its pixels.
template <class Acc>
struct Upsampling {
  ScoreView scores;  // of all classes or of some that follow one another
  Taps<Acc> down, along;
  PixelPlane labels;
  int64_t classes, ignore_index;  // of the labels
  Acc unit;  // scores are multiplied by it: log2 e makes the softmax a power of two

  // Every pixel is a node: its gradient is the node's.
  bool same_size() const { return down.size == down.source && along.size == along.source; }
  // Partial gradients of a row of nodes, [node][class]; a vector can be read from its last one.
  int64_t node_row() const { return (along.source + 1) * scores.classes + kLanes<Acc>; }
};

// Output rows [begin, end) of an image and the low-resolution rows they touch; `offset` of those in the partial sums.
struct RowChunk {
  int64_t begin, end, first_node, nodes, offset;
};

// Four bands to a chunk, but not fewer than 32 rows nor more than 64: a chunk has one row of nodes more than bands.
template <class Acc>
std::vector<RowChunk> row_chunks(const Taps<Acc>& down) {
  const int64_t rows = std::clamp<int64_t>(4 * down.size / down.source, 32, 64);
  std::vector<RowChunk> chunks;
  int64_t offset = 0;
  for (int64_t row = 0; row < down.size;) {
    int64_t end = std::min(row + rows, down.size);
    if (end < down.size) {  // not through a band, if one ends in the chunk
      const int64_t whole = down.first[down.lower[end]];
      end = whole > row ? whole : end;
    }
    const int64_t nodes = down.lower[end - 1] - down.lower[row] + 2;
    chunks.push_back({row, end, down.lower[row], nodes, offset});
    offset += nodes;
    row = end;
  }
  return chunks;
}

// Where the gradient of an image's scores goes: partial sums of the nodes from those of the chunk's first row on, or
// where every pixel is a node, the result itself (class, row, column); nowhere if both are null.
template <class Acc>
struct SlopePlace {
  Acc *partial, *direct;
  bool more;  // whether the result is added to
};

// One thread's scratch, and the steps that all operators on upsampled tiles share.
template <class Acc, Isa isa>
class UpsampleTile {
 public:
  static constexpr int kVecs = isa == Isa::avx512 ? 2 : 1, kStep = kLanes<Acc>, kTile = kVecs * kStep;
  using V = Vec<Acc>;
  using Mask = typename VecOf<Acc>::mask;
  using Label = std::conditional_t<sizeof(Acc) == 8, int64_t, int32_t>;

  explicit UpsampleTile(const Upsampling<Acc>& u)
      : u_(u), classes_(u.scores.classes), padded_((classes_ + kStep - 1) / kStep * kStep),
        pitch_(row_pitch<Acc>(u.scores.width)), rows_(2 * classes_ * pitch_), base_(classes_ * kTile),
        rise_(classes_ * kTile), power_(classes_ * kTile), top_(padded_ * kTile), bottom_(padded_ * kTile) {}

 protected:
  // A Derived class says what is done with a row of a tile: bool row(y, x) returns whether any gradient was added,
  // done() ends a tile.
  template <class Derived>
  FASTUDA_INLINE static void run_tiles(
      Derived& tile, int64_t image, int64_t begin, int64_t end, const SlopePlace<Acc>& to) {
    const Upsampling<Acc>& u = tile.u_;
    tile.image_ = image;
    tile.held_ = -2;
    const int64_t first_band = u.down.lower[begin];
    for (int64_t row = begin; row < end;) {
      const int64_t band = u.down.lower[row], last = std::min<int64_t>(end, u.down.first[band + 1]);
      tile.hold(band);
      for (int64_t x = 0; x < u.along.size; x += kTile) {
        tile.columns(x, to.partial || to.direct);
        bool any = false;
        for (int64_t y = row; y < last; ++y) any |= tile.row(y, x);
        tile.done();
        if (any && to.partial) tile.spread(x, to.partial + (band - first_band) * u.node_row());
        if (to.direct) tile.write(row, x, to);
      }
      row = last;
    }
  }

  void hold(int64_t band) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { hold_rows(band); });
  }
  void columns(int64_t x, bool with_nodes) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { lerp_columns(x, with_nodes); });
  }
  void spread(int64_t x, Acc* nodes) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { spread_slopes(x, nodes); });
  }
  void write(int64_t y, int64_t x, const SlopePlace<Acc>& place) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { write_row(y, x, place); });
  }

  // The two low-resolution rows of a band; the lower one of the band before is the upper one of this.
  FASTUDA_INLINE void hold_rows(int64_t band) {
    const int64_t size = classes_ * pitch_;
    const bool next = band == held_ + 1;
    if (next) {
      std::swap(upper_, lower_);
    } else {
      upper_ = rows_.data();
      lower_ = upper_ + size;
    }
#pragma GCC unroll 1
    for (int i = next; i < 2; ++i)
      read_scores<Acc, isa>(u_.scores, image_, std::min(band + i, u_.scores.height - 1), i ? lower_ : upper_, pitch_);
    held_ = band;
  }

  // Scores of a tile's columns at the band's upper row, and how far they rise to its lower row.
  FASTUDA_INLINE void lerp_columns(int64_t x, bool with_nodes) {
    Along<Acc, isa> along[kVecs];
    for (int v = 0; v < kVecs; ++v) along[v].set(u_.along, x + v * kStep);
    const Acc *const upper = upper_, *const lower = lower_, unit = u_.unit;
    Acc *const base = base_.data(), *const rise = rise_.data();
    const int64_t classes = classes_, pitch = pitch_;
    for (int64_t k = 0; k < classes; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        V above, below;
        along[v](upper + k * pitch, above);
        along[v](lower + k * pitch, below);
        store(above * unit, base + k * kTile + v * kStep);
        store((below - above) * unit, rise + k * kTile + v * kStep);
      }
    }
    if (!with_nodes) return;
    std::memset(top_.data(), 0, padded_ * kTile * sizeof(Acc));
    std::memset(bottom_.data(), 0, padded_ * kTile * sizeof(Acc));
  }

  // A tile's scores, a row down between the two it lies between.
  struct Values {
    const Acc *base, *rise;
    Acc down;
    FASTUDA_INLINE V operator()(int64_t k, int v) const {
      V from, by;
      load(base + k * kTile + v * kStep, from);
      load(rise + k * kTile + v * kStep, by);
      return from + down * by;
    }
  };

  FASTUDA_INLINE Values values(int64_t y) const { return {base_.data(), rise_.data(), u_.down.weight[y]}; }

  // Reads the labels of a row of the tile; whether any of its pixels counts.
  FASTUDA_INLINE bool read_labels(int64_t y, int64_t x) {
    count_ = std::min<int64_t>(kTile, u_.along.size - x);
    bool any;
    if (count_ == kTile) {  // a number known to the compiler
      any = read_label_row(u_.labels, image_, y, x, kTile, u_.classes, u_.ignore_index, label_);
    } else {
      any = read_label_row(u_.labels, image_, y, x, count_, u_.classes, u_.ignore_index, label_);
      for (int i = count_; i < kTile; ++i) label_[i] = static_cast<Label>(u_.classes);
    }
    return any;
  }
  FASTUDA_INLINE Mask labels(int v) const {
    Mask label;
    std::memcpy(&label, label_ + v * kStep, sizeof(label));
    return label;
  }
  FASTUDA_INLINE Mask valid(int v) const { return labels(v) < static_cast<Label>(u_.classes); }

  // Leaves 2^(score - largest) of a row in power_, with the largest and the sum; with kOwn also the label's score, 0
  // without one.
  template <bool kOwn>
  FASTUDA_INLINE void powers(const Values& z, V (&most)[kVecs], V (&sum)[kVecs], V (&own)[kVecs]) {
    Acc* const to = power_.data();
    const int64_t classes = classes_;
    Mask label[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      most[v] = V{} - std::numeric_limits<Acc>::infinity();
      sum[v] = own[v] = V{};
      label[v] = labels(v);
    }
    for (int64_t k = 0; k < classes; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        const V value = z(k, v);
        most[v] = value > most[v] ? value : most[v];
        if constexpr (kOwn) own[v] = label[v] == static_cast<Label>(k) ? value : own[v];
      }
    }
    for (int64_t k = 0; k < classes; ++k) {
      for (int v = 0; v < kVecs; ++v) {
        V power;
        power_negative(z(k, v) - most[v], power);
        sum[v] += power;
        store(power, to + k * kTile + v * kStep);
      }
    }
  }

  // The scores of an ignored pixel may be anything. Its powers become 0, so that 0 times them is 0, not NaN.
  FASTUDA_INLINE void clean(const Mask& spoilt) {
    uint64_t words[8], any = 0;
    std::memcpy(words, &spoilt, sizeof(words));
    for (uint64_t word : words) any |= word;
    if (!any) return;
    for (int64_t k = 0; k < classes_; ++k)
      for (int i = 0; i < kTile; ++i)
        if (label_[i] >= u_.classes) power_.data()[k * kTile + i] = 0;
  }

  // Adds the gradient of a class in a row of the tile to its sums down the columns.
  FASTUDA_INLINE static void add_slope(const V& slope, Acc down, Acc* top, Acc* bottom) {
    V above, below;
    load(top, above);
    load(bottom, below);
    store(above + (1 - down) * slope, top);
    store(below + down * slope, bottom);
  }

  FASTUDA_INLINE static void add_lanes(const V& from, Vec<double>& to) {
    if constexpr (sizeof(Acc) == sizeof(double)) {
      to += from;
    } else {
      typedef float HalfVec __attribute__((vector_size(32)));
      HalfVec half[2];
      std::memcpy(half, &from, sizeof(from));
      to += __builtin_convertvector(half[0], Vec<double>) + __builtin_convertvector(half[1], Vec<double>);
    }
  }

  // The gradient of the tile's one row, where every pixel is a node.
  FASTUDA_INLINE void write_row(int64_t y, int64_t x, const SlopePlace<Acc>& place) {
    const int64_t width = u_.along.size, count = std::min<int64_t>(kTile, width - x);
    for (int64_t k = 0; k < classes_; ++k) {
      Acc* const to = place.direct + (k * u_.down.size + y) * width + x;
      const Acc* const from = top_.data() + k * kTile;
      for (int64_t i = 0; i + kStep <= count; i += kStep) {
        V slope, before{};
        load(from + i, slope);
        if (place.more) load(to + i, before);
        store(before + slope, to + i);
      }
      for (int64_t i = count / kStep * kStep; i < count; ++i) to[i] = (place.more ? to[i] : Acc(0)) + from[i];
    }
  }

  // The tile's gradient to the nodes on either side of each column, classes in the lanes.
  FASTUDA_INLINE void spread_slopes(int64_t x, Acc* nodes) {
    for (int64_t k = 0; k < padded_; k += kStep) {
#pragma GCC unroll 1
      for (int i = 0; i < 2 * kVecs; ++i) {
        const int side = i % 2, v = i / 2;
        const Acc* const slopes = (side ? bottom_ : top_).data() + k * kTile + v * kStep;
        V block[kStep];
#pragma GCC unroll 16
        for (int j = 0; j < kStep; ++j) load(slopes + j * kTile, block[j]);
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int j = 0; j < kStep; ++j) store(block[j], turned_ + j * kStep);
        along(turned_, x + v * kStep, nodes + side * u_.node_row() + k);
      }
    }
  }

  // Lanes beyond the classes hold zeros, which are added to the next node's first classes.
  FASTUDA_INLINE void along(const Acc* columns, int64_t x, Acc* nodes) {
    const int32_t* lower = u_.along.lower.data() + x;
    const Acc* weight = u_.along.weight.data() + x;
    V left{}, right{};
    int32_t cell = lower[0];
#pragma GCC unroll 1
    for (int i = 0; i < kStep; ++i) {
      if (lower[i] != cell) {
        add(left, nodes + cell * classes_);
        left = right;
        right = V{};
        if (lower[i] != cell + 1) {
          add(left, nodes + (cell + 1) * classes_);
          left = V{};
        }
        cell = lower[i];
      }
      V slope;
      load(columns + i * kStep, slope);
      left += (1 - weight[i]) * slope;
      right += weight[i] * slope;
    }
    add(left, nodes + cell * classes_);
    add(right, nodes + (cell + 1) * classes_);
  }
  FASTUDA_INLINE static void add(const V& value, Acc* to) {
    V sum;
    load(to, sum);
    store(sum + value, to);
  }

  const Upsampling<Acc>& u_;
  int64_t classes_, padded_, pitch_, image_ = 0, held_ = -2, count_ = 0;
  Buffer<Acc> rows_, base_, rise_, power_, top_, bottom_;
  Acc *upper_ = nullptr, *lower_ = nullptr;
  alignas(64) Label label_[kTile];
  alignas(64) Acc turned_[kStep * kStep];
};

// The gradient of a row of nodes: the chunks' partial rows in order, turned to (class, column); added with `more`.
template <class Acc>
FASTUDA_INLINE void gather_nodes(
    const Acc* const* parts, int64_t count, int64_t classes, int64_t width, int64_t class_stride, bool more, Acc* to) {
  constexpr int lanes = kLanes<Acc>;
  int64_t whole = 0, across = 0;
  if (classes >= lanes && width >= lanes) {
    whole = classes / lanes * lanes;
    across = width / lanes * lanes;
  }
  for (int64_t x = 0; x < across; x += lanes) {
    for (int64_t k = 0; k < whole; k += lanes) {
      Vec<Acc> block[lanes];
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) {
        block[j] = Vec<Acc>{};
        for (int64_t i = 0; i < count; ++i) {
          Vec<Acc> part;
          load(parts[i] + (x + j) * classes + k, part);
          block[j] += part;
        }
      }
      transpose<Acc>(block);
#pragma GCC unroll 16
      for (int j = 0; j < lanes; ++j) {
        Vec<Acc> before{};
        if (more) load(to + (k + j) * class_stride + x, before);
        store(before + block[j], to + (k + j) * class_stride + x);
      }
    }
  }
  for (int64_t k = 0; k < classes; ++k) {
    for (int64_t x = k < whole ? across : 0; x < width; ++x) {
      Acc sum = more ? to[k * class_stride + x] : Acc(0);
      for (int64_t i = 0; i < count; ++i) sum += parts[i][x * classes + k];
      to[k * class_stride + x] = sum;
    }
  }
}

}  // namespace fastuda
