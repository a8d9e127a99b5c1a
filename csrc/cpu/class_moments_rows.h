// Sums of rows of one class around a pivot, for the diagonal class moments.
//
// A class's table (pivot, sum, sum of squares) stays in the first-level cache while its rows stream by, eight at a
// time, so that the table is read and written once for eight rows. The rows of a class lie scattered in memory, so the
// hardware does not prefetch them: the code does.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/pixels.h"
#include "cpu/widen.h"

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
  T* level;       // room for the pivots as features
  int64_t ahead;  // rows[i + ahead] is prefetched with rows[i]
  bool first;     // the class has no pivot yet
  bool beyond;    // whole vectors may be read at the end of a row: the lanes beyond it are never used
};

// Rows that are summed together, and where to prefetch meanwhile.
template <int kCount, class T>
struct Bundle {
  const T* from[kCount];
  uintptr_t next[kCount];
};

// Adds sum and sum of squares of x - pivot to one vector of channels of a table.
template <class Acc>
struct VectorSums {
  Acc* table;
  int64_t padded;
  Vec<Acc> pivot, sum{}, square{};

  FASTUDA_INLINE VectorSums(Acc* at, int64_t pitch) : table(at), padded(pitch) { load(at, pivot); }
  FASTUDA_INLINE void add(const Vec<Acc>& x) {
    const Vec<Acc> d = x - pivot;
    sum += d;
    square += d * d;
  }
  FASTUDA_INLINE void finish() {
    Vec<Acc> before;
    load(table + padded, before);
    store(sum += before, table + padded);
    load(table + 2 * padded, before);
    store(square += before, table + 2 * padded);
  }
};

// One vector of channels of a bundle. The line `at` bytes from each row's `next` is prefetched: all rows at one pace is
// faster than one whole row after the other.
template <bool kPrefetch, int kCount, class T, class Acc>
FASTUDA_INLINE void add_vector(
    const Bundle<kCount, T>& rows, int64_t at, int64_t channel, Acc* table, int64_t padded) {
  VectorSums<Acc> sums(table + channel, padded);
#pragma GCC unroll 8
  for (int j = 0; j < kCount; ++j) {
    Vec<Acc> x;
    if constexpr (kPrefetch) __builtin_prefetch(reinterpret_cast<const void*>(rows.next[j] + at));
    load(rows.from[j] + channel, x);
    sums.add(x);
  }
  sums.finish();
}

// The same of the channels at the end of rows beyond which nothing may be read.
template <int kCount, class T, class Acc>
FASTUDA_INLINE void add_last_channels(
    const Bundle<kCount, T>& rows, int64_t at, int64_t channel, int lanes, Acc* table, int64_t padded) {
  VectorSums<Acc> sums(table + channel, padded);
#pragma GCC unroll 1
  for (int j = 0; j < kCount; ++j) {
    T numbers[kLanes<Acc>] = {};
    Vec<Acc> x;
    __builtin_prefetch(reinterpret_cast<const void*>(rows.next[j] + at));
    std::copy_n(rows.from[j] + channel, lanes, numbers);
    load(numbers, x);
    sums.add(x);
  }
  sums.finish();
}

// Channels [begin, end) of a bundle; one line of 64 bytes is prefetched with each line that is read.
template <int kCount, class T, class Acc>
FASTUDA_INLINE void add_channels(
    const Bundle<kCount, T>& rows, int64_t begin, int64_t end, bool beyond, Acc* table, int64_t padded) {
  constexpr int step = kLanes<Acc>, line = 64 / sizeof(T);
  int64_t c = begin, at = 0;
  for (; c + line <= end; c += line, at += 64) {
    add_vector<true>(rows, at, c, table, padded);
    if constexpr (step < line) add_vector<false>(rows, at, c + step, table, padded);
  }
  for (; c + (beyond ? 1 : step) <= end; c += step) add_vector<true>(rows, at, c, table, padded);
  if (c < end) add_last_channels(rows, at, c, static_cast<int>(end - c), table, padded);
}

// Channels [begin, end) of rows [at, at + count) of a group, at most kCount. What is missing of kCount is read from
// `level`, which holds the pivots and therefore adds zeros.
template <int kCount, class T, class Acc>
FASTUDA_INLINE void add_rows(
    const Group<T>& group, int64_t at, int64_t count, const T* level, int64_t begin, int64_t end, Acc* table,
    int64_t padded) {
  constexpr int64_t line = 64 / sizeof(T), reach = kAheadBytes / sizeof(T);
  Bundle<kCount, T> rows;
  for (int j = 0; j < kCount; ++j) {
    rows.from[j] = j < count ? group.base + group.rows[at + j] : level;
    rows.next[j] = reinterpret_cast<uintptr_t>(rows.from[j] + begin) + (j < count ? kAheadBytes : 0);
  }
  // All but the last KB of a row prefetches from the row itself, the last one from the row that comes next.
  const int64_t split = begin + std::max<int64_t>(end - begin - reach, 0) / line * line;
#pragma GCC unroll 1
  for (int part = split == begin; part < 2; ++part) {
    if (part == 1)
      for (int j = 0; j < kCount; ++j)
        rows.next[j] = reinterpret_cast<uintptr_t>(group.base) + (group.rows[at + j + group.ahead] + begin) * sizeof(T);
    add_channels(rows, part ? split : begin, part ? end : split, group.beyond, table, padded);
  }
}

// Begins the table of a class: its pivot is the mean of its first `count` rows, rounded as a feature is, so that a
// feature can equal it.
template <class T, class Acc>
FASTUDA_INLINE void begin_table(
    const Group<T>& group, int64_t count, int64_t begin, int64_t end, Acc* table, int64_t padded) {
  constexpr int step = kLanes<Acc>;
  for (int64_t c = begin; c < end; c += step) {
    const bool whole = group.beyond || c + step <= end;
    Vec<Acc> x[kRows], pivot{};
    if (whole && count == kRows) {
#pragma GCC unroll 8
      for (int j = 0; j < kRows; ++j) load(group.base + group.rows[j] + c, x[j]);
      pivot = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
    } else {
#pragma GCC unroll 1
      for (int64_t j = 0; j < count; ++j) {
        load_partial<T, Acc>(group.base + group.rows[j] + c, static_cast<int>(std::min<int64_t>(step, end - c)), x[0]);
        pivot += x[0];
      }
    }
    pivot *= Acc(1) / static_cast<Acc>(count);
    T rounded[step];
    store(pivot, rounded);
    load(rounded, pivot);
    store(pivot, table + c);
    store(Vec<Acc>{}, table + padded + c);
    store(Vec<Acc>{}, table + 2 * padded + c);
  }
}

// All channels of a group, in strips whose table fits the first-level cache.
template <class T, class Acc>
FASTUDA_INLINE void accumulate(const Group<T>& group, int64_t channels, Acc* table, int64_t padded) {
  constexpr int64_t strip = kStripBytes / (3 * sizeof(Acc)) / 64 * 64;
  for (int64_t begin = 0; begin < channels; begin += strip) {
    const int64_t end = std::min(begin + strip, channels);
    if (group.first) begin_table(group, group.count >= kRows ? kRows : 1, begin, end, table, padded);
    int64_t at = 0;
    for (; at + kRows <= group.count; at += kRows)
      add_rows<kRows>(group, at, kRows, group.base, begin, end, table, padded);
    const int64_t left = group.count - at;
    if (left == 0) continue;
    for (int64_t c = begin; c < end; c += kLanes<Acc>) {
      Vec<Acc> pivot;
      load(table + c, pivot);
      store(pivot, group.level + c);
    }
    if (left > kRows / 2) add_rows<kRows>(group, at, left, group.level, begin, end, table, padded);
    else add_rows<kRows / 2>(group, at, left, group.level, begin, end, table, padded);
  }
}

// Copies channels [channel, channel + width) of `count` pixels into stage[pixel][width]. 16 planes (8 for float64) are
// prefetched at a time, a few lines ahead: the hardware does not follow so many streams.
template <Isa isa, class Acc>
FASTUDA_INLINE void stage_channels(
    const void* data, torch::headeronly::ScalarType type, const int64_t* offsets, int64_t count,
    const FeatureView& view, int64_t channel, int64_t width, Acc* stage, int64_t pitch) {
  constexpr int step = kLanes<Acc>;
  const int64_t size = bytes_of(type), ahead = kPlaneAhead / size;
  for (int64_t c = 0; c < width; c += step) {
    for (int64_t i = 0; i < count; i += step) {
      const bool run =
          i + step <= count && view.grid.column_stride == 1 && offsets[i + step - 1] - offsets[i] == step - 1;
      const int64_t first = (channel + c) * view.channel_stride;
      if (run && c + step <= width) {
        const bool here = i + ahead < count;  // else the first pixels of the next planes
        const int64_t next =
            first + offsets[here ? i + ahead : i % ahead] + (here ? 0 : step * view.channel_stride);
        const uintptr_t later = reinterpret_cast<uintptr_t>(data) + next * size;
#pragma GCC unroll 1
        for (int j = 0; j < step; ++j)
          __builtin_prefetch(reinterpret_cast<const void*>(later + j * view.channel_stride * size));
        alignas(64) Acc copy[step * step];
        const Acc* from = static_cast<const Acc*>(data) + first + offsets[i];
        int64_t plane = view.channel_stride;
        if (type != kTypeOf<Acc>) {
          const Rows planes{first + offsets[i], nullptr, view.channel_stride};
          read_rows<Acc, isa>(data, type, planes, step, step, copy, step);
          from = copy;
          plane = step;
        }
        Vec<Acc> block[step];
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) load(from + j * plane, block[j]);
        transpose<Acc>(block);
#pragma GCC unroll 16
        for (int j = 0; j < step; ++j) store(block[j], stage + (i + j) * pitch + c);
      } else {
        const Rows pixels{first, offsets + i, 0, view.channel_stride};
        read_rows<Acc, isa>(
            data, type, pixels, std::min<int64_t>(step, count - i), std::min<int64_t>(step, width - c),
            stage + i * pitch + c, pitch);
      }
    }
  }
}

}  // namespace fastuda
