// A tile: a few vectors of pixels, transposed to [channel][pixel] so that every sum over channels stays in its lane.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/pixels.h"
#include "cpu/products.h"
#include "cpu/widen.h"

namespace fastuda {

// Where the pixels of a tile lie in a strided tensor; lanes beyond `count` repeat the last pixel, never written.
template <int kPixels>
struct TilePlace {
  int64_t offset[kPixels];
  int64_t channels, channel_stride;
  int count;
  bool dense[kPixels];  // at the first pixel of a vector: its pixels follow one another in memory

  template <int kStep>
  FASTUDA_INLINE void set(const int64_t* offsets, int pixels, int64_t all_channels, int64_t stride) {
    count = pixels;
    channels = all_channels;
    channel_stride = stride;
    for (int i = 0; i < kPixels; ++i) offset[i] = offsets[i < pixels ? i : pixels - 1];
    for (int i = 0; i < kPixels; i += kStep) {
      int64_t gaps = 0;
      for (int j = 1; j < kStep; ++j) gaps += offset[i + j] - offset[i + j - 1] != 1;
      dense[i] = gaps == 0 && i + kStep <= pixels;
    }
  }
};

// The pixels of a work item, and the order in which tiles take them.
template <int64_t kPixels>
struct PixelChunk {
  int32_t label[kPixels];
  int64_t offset[kPixels];
  int32_t order[kPixels];
  int64_t begin, size, count;

  // Pixels [first, last), at most kPixels.
  void read(const FeatureView& features, const LabelView& labels, int64_t first, int64_t last) {
    begin = first;
    size = last - first;
    labels.read(first, last, label);
    place(features.grid, offset);
    // Rows of channels can be taken from anywhere; planes are read along the pixels, without gaps.
    const bool rows = features.channel_stride == 1;
    int64_t valid = 0;
    for (int64_t i = 0; i < size; ++i) valid += label[i] < labels.num_classes;
    count = 0;
    for (int64_t i = 0; i < size; ++i)
      if (rows ? label[i] < labels.num_classes : valid > 0) order[count++] = static_cast<int32_t>(i);
  }

  // to[i] = where pixel i of the chunk lies in a tensor.
  void place(const PixelGrid& grid, int64_t* to) const {
    grid.runs(begin, begin + size, [&](int64_t pixel, int64_t at, int64_t length) {
      for (int64_t i = 0; i < length; ++i) to[pixel - begin + i] = at + i * grid.column_stride;
    });
  }

  // The cache lines of `pixels` pixels from `next` of the order on, where their channels lie in a row. At most twice as
  // many lines as they have: between them may lie pixels that are ignored.
  Ahead following(
      const FeatureView& features, const void* data, torch::headeronly::ScalarType type, int64_t next,
      int64_t pixels) const {
    if (features.channel_stride != 1 || next >= count) return {};
    const int64_t from = offset[order[next]], last = offset[order[std::min(next + pixels, count) - 1]];
    const int64_t bytes = bytes_of(type), most = 2 * pixels * features.channels;
    const int64_t numbers = std::clamp<int64_t>(last - from + features.channels, 0, most);
    return {reinterpret_cast<uintptr_t>(data) + from * bytes, numbers * bytes / 64};
  }
};

// to[channel][kPixels] = the tile of numbers that one vector instruction loads, whatever their type.
template <int kPixels, class T, class Acc>
FASTUDA_INLINE void load_tile_of(const T* from, const TilePlace<kPixels>& place, Acc* to) {
  constexpr int step = kLanes<Acc>;
  for (int v = 0; v < kPixels; v += step) {
    if (place.channel_stride == 1 && place.channels >= step) {
      for (int64_t c = 0; c < place.channels; c += step) {
        c = std::min(c, place.channels - step);  // the last block overlaps the one before
        Vec<Acc> block[step];
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) load(from + place.offset[v + j] + c, block[j]);
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) store(block[j], to + (c + j) * kPixels + v);
      }
    } else if (place.dense[v]) {
      for (int64_t c = 0; c < place.channels; ++c) {
        Vec<Acc> x;
        load(from + place.offset[v] + c * place.channel_stride, x);
        store(x, to + c * kPixels + v);
      }
    } else {
      read_scattered(
          from, type_of<T>(), place.offset + v, step, 0, place.channel_stride, place.channels, to + v, kPixels);
    }
  }
}

// to[channel][kPixels] = the tile, converted to the accumulator's type from `type`.
template <Isa isa, int kPixels, class Acc>
FASTUDA_INLINE void load_tile(
    const void* data, torch::headeronly::ScalarType type, const TilePlace<kPixels>& place, Acc* to) {
  constexpr int step = kLanes<Acc>;
  if (kWholeVectors<isa> || type == kTypeOf<Acc>) {
    with_type_on<Acc, isa>(type, [&]<class T>() FASTUDA_INLINED {
      on_isa<Acc, isa>([&]() FASTUDA_INLINED { load_tile_of<kPixels>(static_cast<const T*>(data), place, to); });
    });
    return;
  }
#pragma GCC unroll 1
  for (int v = 0; v < kPixels; v += step) {
    const int64_t* const at = place.offset + v;
    if (place.channel_stride == 1 && place.channels >= step) {
      for (int64_t next = 0; next < place.channels; next += step) {
        const int64_t c = std::min(next, place.channels - step);
        alignas(64) Acc copy[step * step];
        Vec<Acc> block[step];
        read_rows<Acc, isa>(data, type, {c, at}, step, step, copy, step);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) load(copy + j * step, block[j]);
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) store(block[j], to + (c + j) * kPixels + v);
      }
    } else if (place.dense[v]) {
      read_rows<Acc, isa>(
          data, type, {at[0], nullptr, place.channel_stride}, place.channels, step, to + v, kPixels);
    } else {
      read_scattered(data, type, at, step, 0, place.channel_stride, place.channels, to + v, kPixels);
    }
  }
}

// Writes value(channel, first pixel) -> Vec<Acc>, rounded to T where a vector of T is stored at once, else to `type`.
template <Isa isa, class T, int kPixels, class Acc, class Value>
FASTUDA_INLINE void store_tile_of(
    const Value& value, const TilePlace<kPixels>& place, T* data, torch::headeronly::ScalarType type) {
  constexpr int step = kLanes<Acc>;
  const bool direct = kWholeVectors<isa> || type == kTypeOf<Acc>;
  for (int v = 0; v < place.count; v += step) {
    const int lanes = std::min(step, place.count - v);
    const int64_t* const at = place.offset + v;
    alignas(64) Acc copy[step * step];
    if (place.channel_stride == 1 && place.channels >= step) {
      for (int64_t c = 0; c < place.channels; c += step) {
        c = std::min(c, place.channels - step);
        Vec<Acc> block[step];
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) value(c + j, v, block[j]);
        transpose<Acc>(block);
        if (direct && lanes == step) {
#pragma GCC unroll 16
          for (int j = 0; j < step; ++j) store(block[j], data + at[j] + c);
        } else {
#pragma GCC unroll 16
          for (int j = 0; j < step; ++j) store(block[j], copy + j * step);
          write_rows<Acc, isa>(copy, step, {c, at}, lanes, step, data, type);
        }
      }
    } else if (direct && place.dense[v]) {
      for (int64_t c = 0; c < place.channels; ++c) {
        Vec<Acc> x;
        value(c, v, x);
        store(x, data + at[0] + c * place.channel_stride);
      }
    } else {
      for (int64_t c = 0; c < place.channels; c += step) {
        const int64_t count = std::min<int64_t>(step, place.channels - c), first = c * place.channel_stride;
        for (int64_t j = 0; j < count; ++j) {
          Vec<Acc> x;
          value(c + j, v, x);
          store(x, copy + j * step);
        }
        if (place.dense[v])
          write_rows<Acc, isa>(copy, step, {first + at[0], nullptr, place.channel_stride}, count, step, data, type);
        else write_scattered(copy, step, at, lanes, first, place.channel_stride, count, data, type);
      }
    }
  }
}

// Writes value(channel, first pixel) -> Vec<Acc>, rounded to `type`, to the tile's place.
template <Isa isa, int kPixels, class Acc, class Value>
FASTUDA_INLINE void store_tile(
    const Value& value, const TilePlace<kPixels>& place, void* data, torch::headeronly::ScalarType type) {
  with_type_on<Acc, isa>(type, [&]<class T>() FASTUDA_INLINED {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED {
      store_tile_of<isa, T, kPixels, Acc>(value, place, static_cast<T*>(data), type);
    });
  });
}

}  // namespace fastuda
