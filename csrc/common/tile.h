// A tile: a few vectors of pixels, transposed to [channel][pixel] so that every sum over channels stays in its lane.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/pixels.h"
#include "common/simd.h"

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

// to[channel][kPixels] = the tile, converted to the accumulator's type.
template <int kPixels, class T>
FASTUDA_INLINE void load_tile(const T* from, const TilePlace<kPixels>& place, Accumulate<T>* to) {
  using Acc = Accumulate<T>;
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
      for (int j = v; j < v + step; ++j)
        for (int64_t c = 0; c < place.channels; ++c)
          to[c * kPixels + j] = static_cast<Acc>(from[place.offset[j] + c * place.channel_stride]);
    }
  }
}

// Writes value(channel, first pixel) -> Vec<Acc>, rounded to T, to the tile's place.
template <int kPixels, class T, class Value>
FASTUDA_INLINE void store_tile(const Value& value, const TilePlace<kPixels>& place, T* to) {
  using Acc = Accumulate<T>;
  constexpr int step = kLanes<Acc>;
  for (int v = 0; v < place.count; v += step) {
    const int lanes = std::min(step, place.count - v);
    if (place.channel_stride == 1 && place.channels >= step) {
      for (int64_t c = 0; c < place.channels; c += step) {
        c = std::min(c, place.channels - step);
        Vec<Acc> block[step];
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) value(c + j, v, block[j]);
        transpose<Acc>(block);
        if (lanes == step) {
#pragma GCC unroll 16
          for (int j = 0; j < step; ++j) store(block[j], to + place.offset[v + j] + c);
        } else {
          for (int j = 0; j < lanes; ++j) store(block[j], to + place.offset[v + j] + c);
        }
      }
    } else if (place.dense[v]) {
      for (int64_t c = 0; c < place.channels; ++c) {
        Vec<Acc> x;
        value(c, v, x);
        store(x, to + place.offset[v] + c * place.channel_stride);
      }
    } else {
      for (int64_t c = 0; c < place.channels; ++c) {
        Vec<Acc> x;
        value(c, v, x);
        T rounded[step];
        store(x, rounded);
        for (int j = 0; j < lanes; ++j) to[place.offset[v + j] + c * place.channel_stride] = rounded[j];
      }
    }
  }
}

}  // namespace fastuda
