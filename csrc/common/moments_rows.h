// Sums of rows of one class around a pivot, for the diagonal class moments.
//
// A class's table (pivot, sum, sum of squares) stays in the first-level cache while its rows stream by, eight at a
// time, so that the table is read and written once for eight rows. The rows of a class lie scattered, hence the
// prefetches: the hardware cannot guess the next ones.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "common/pixels.h"
#include "common/simd.h"

namespace fastuda {

constexpr int kRows = 8;                  // added together, before the table is touched; the first ones make the pivot
constexpr int64_t kAheadBytes = 1024;     // of each of these rows: how far ahead it is prefetched
constexpr int64_t kMostAhead = 64;        // rows, where they are short
constexpr int64_t kBeyondRows = kMostAhead + kRows;  // listed after the last one, to be prefetched
constexpr int64_t kStripBytes = 1 << 15;  // of a class's table, which is to stay in the first-level cache
constexpr int64_t kStagePixels = 256;     // of planes, transposed at a time
constexpr int64_t kStageChannels = 128;
constexpr int64_t kPlaneAhead = 256;      // bytes

// Pixels of one class: element offsets from `base`, whose channels are contiguous.
template <class T>
struct Group {
  const T* base;
  const int64_t* rows;
  int64_t count;
  T* level;       // room for the pivots as features, where those are not of the table's type
  int64_t ahead;  // rows[i + ahead] is prefetched with rows[i]
  bool first;     // the class has no pivot yet
  bool beyond;    // whole vectors may be read at the end of a row: what lies there goes to lanes nobody looks at
};

// Rows that are summed together, and where to prefetch meanwhile.
template <int kCount, class T>
struct Bundle {
  const T* from[kCount];
  uintptr_t next[kCount];
};

template <bool kPartial, class T>
FASTUDA_INLINE void read(const T* from, int lanes, Vec<Accumulate<T>>& x) {
  if constexpr (kPartial) load_partial<T, Accumulate<T>>(from, lanes, x);
  else load(from, x);
}

// One vector of channels of a bundle: adds sum and sum of squares of x - pivot to the table, or begins it. The line
// `at` bytes from each row's `next` is prefetched: all rows at one pace is faster than one whole row after the other.
template <bool kFirst, bool kPartial, bool kPrefetch, int kCount, class T>
FASTUDA_INLINE void add_vector(
    const Bundle<kCount, T>& rows, int64_t at, int64_t channel, int lanes, Accumulate<T>* table, int64_t padded) {
  using Acc = Accumulate<T>;
  Vec<Acc> pivot, sum{}, square{}, before, x[kFirst ? kCount : 1];
  if constexpr (kFirst) {
    pivot = Vec<Acc>{};
    for (int j = 0; j < kCount; ++j) {
      read<kPartial>(rows.from[j] + channel, lanes, x[j]);
      pivot += x[j];
    }
    pivot *= Acc(1) / kCount;
    if constexpr (!std::is_same_v<T, Acc>) {
      T rounded[kLanes<Acc>];  // so that a feature can equal it
      store(pivot, rounded);
      load(rounded, pivot);
    }
    store(pivot, table + channel);
  } else {
    load(table + channel, pivot);
  }
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) {
    Vec<Acc>& d = x[kFirst ? j : 0];
    if constexpr (kPrefetch) __builtin_prefetch(reinterpret_cast<const void*>(rows.next[j] + at));
    if constexpr (!kFirst) read<kPartial>(rows.from[j] + channel, lanes, d);
    d -= pivot;
    sum += d;
    square += d * d;
  }
  if constexpr (!kFirst) {
    load(table + padded + channel, before);
    sum += before;
    load(table + 2 * padded + channel, before);
    square += before;
  }
  store(sum, table + padded + channel);
  store(square, table + 2 * padded + channel);
}

// Channels [begin, end) of a bundle; one line of 64 bytes is prefetched with each line that is read.
template <bool kFirst, int kCount, class T>
FASTUDA_INLINE void add_channels(
    const Bundle<kCount, T>& rows, int64_t begin, int64_t end, bool beyond, Accumulate<T>* table, int64_t padded) {
  constexpr int step = kLanes<Accumulate<T>>, line = 64 / sizeof(T);
  int64_t c = begin, at = 0;
  for (; c + line <= end; c += line, at += 64) {
    add_vector<kFirst, false, true>(rows, at, c, step, table, padded);
    if constexpr (step < line) add_vector<kFirst, false, false>(rows, at, c + step, step, table, padded);
  }
  for (; c + (beyond ? 1 : step) <= end; c += step)
    add_vector<kFirst, false, true>(rows, at, c, step, table, padded);
  if (c < end) add_vector<kFirst, true, true>(rows, at, c, static_cast<int>(end - c), table, padded);
}

// Channels [begin, end) of rows [at, at + count) of a group, at most kCount. What is missing of kCount is read from
// `level`, which holds the pivots and therefore adds zeros.
template <bool kFirst, int kCount, class T>
FASTUDA_INLINE void add_rows(
    const Group<T>& group, int64_t at, int64_t count, const T* level, int64_t begin, int64_t end, Accumulate<T>* table,
    int64_t padded) {
  constexpr int64_t line = 64 / sizeof(T), reach = kAheadBytes / sizeof(T);
  Bundle<kCount, T> rows;
  for (int j = 0; j < kCount; ++j) {
    rows.from[j] = j < count ? group.base + group.rows[at + j] : level;
    rows.next[j] = reinterpret_cast<uintptr_t>(rows.from[j] + begin) + (j < count ? kAheadBytes : 0);
  }
  // All but the last KB of a row prefetches from the row itself, the last one from the row that comes next.
  const int64_t split = begin + std::max<int64_t>(end - begin - reach, 0) / line * line;
  for (int part = split == begin; part < 2; ++part) {
    if (part == 1)
      for (int j = 0; j < kCount; ++j)
        rows.next[j] = reinterpret_cast<uintptr_t>(group.base) + (group.rows[at + j + group.ahead] + begin) * sizeof(T);
    add_channels<kFirst>(rows, part ? split : begin, part ? end : split, group.beyond, table, padded);
  }
}

// All channels of a group, in strips whose table fits the first-level cache.
template <class T>
FASTUDA_INLINE void accumulate(const Group<T>& group, int64_t channels, Accumulate<T>* table, int64_t padded) {
  using Acc = Accumulate<T>;
  constexpr int64_t strip = kStripBytes / (3 * sizeof(Acc)) / 64 * 64;
  for (int64_t begin = 0; begin < channels; begin += strip) {
    const int64_t end = std::min(begin + strip, channels);
    int64_t at = 0;
    if (group.first && group.count >= kRows)
      add_rows<true, kRows>(group, 0, kRows, group.base, begin, end, table, padded), at = kRows;
    else if (group.first)
      add_rows<true, 1>(group, 0, 1, group.base, begin, end, table, padded), at = 1;
    for (; at + kRows <= group.count; at += kRows)
      add_rows<false, kRows>(group, at, kRows, group.base, begin, end, table, padded);
    const int64_t left = group.count - at;
    if (left == 0) continue;
    const T* level;
    if constexpr (std::is_same_v<T, Acc>) {
      level = table;
    } else {
      for (int64_t c = begin; c < end; c += kLanes<Acc>) {
        Vec<Acc> pivot;
        load(table + c, pivot);
        store(pivot, group.level + c);
      }
      level = group.level;
    }
    if (left > kRows / 2) add_rows<false, kRows>(group, at, left, level, begin, end, table, padded);
    else add_rows<false, kRows / 2>(group, at, left, level, begin, end, table, padded);
  }
}

// Copies channels [channel, channel + width) of `count` pixels into stage[pixel][width]. 16 planes (8 for float64) are
// followed at a time, a few lines ahead: the hardware loses track of so many.
template <class T>
FASTUDA_INLINE void stage_channels(
    const T* from, const int64_t* offsets, int64_t count, const FeatureView& view, int64_t channel, int64_t width,
    Accumulate<T>* stage, int64_t pitch) {
  using Acc = Accumulate<T>;
  constexpr int step = kLanes<Acc>;
  constexpr int64_t ahead = kPlaneAhead / sizeof(T);
  for (int64_t c = 0; c < width; c += step) {
    const T* at = from + (channel + c) * view.channel_stride;
    for (int64_t i = 0; i < count; i += step) {
      const bool run =
          i + step <= count && view.grid.column_stride == 1 && offsets[i + step - 1] - offsets[i] == step - 1;
      if (run && c + step <= width) {
        const bool here = i + ahead < count;  // else the first pixels of the next planes
        const uintptr_t next = reinterpret_cast<uintptr_t>(at) +
            (offsets[here ? i + ahead : i % ahead] + (here ? 0 : step * view.channel_stride)) * sizeof(T);
        Vec<Acc> block[step];
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) {
          __builtin_prefetch(reinterpret_cast<const void*>(next + j * view.channel_stride * sizeof(T)));
          load(at + offsets[i] + j * view.channel_stride, block[j]);
        }
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) store(block[j], stage + (i + j) * pitch + c);
      } else {
        for (int64_t p = i; p < std::min<int64_t>(i + step, count); ++p)
          for (int64_t j = 0; j < std::min<int64_t>(step, width - c); ++j)
            stage[p * pitch + c + j] = static_cast<Acc>(at[offsets[p] + j * view.channel_stride]);
      }
    }
  }
}

}  // namespace fastuda
