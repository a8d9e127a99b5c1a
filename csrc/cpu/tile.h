// A tile: a few vectors of pixels, transposed to [channel][pixel] so that every sum over channels stays in its lane.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/pixels.h"
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

// Writes value(channel, first pixel) -> Vec<Acc>, rounded to T where one vector instruction stores that, else to `type`.
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
