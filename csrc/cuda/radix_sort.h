// A stable sort of rows by unsigned keys. The same keys give the same order in every run: no result depends on the
// order of atomic operations.
//
// Passes of up to 8 bits from the lowest. A pass counts the digits of each tile of 2048 rows, sums the counts over the
// tiles, and moves rows to their places: a warp finds the lanes of one digit by a ballot a bit and numbers them in
// order; the tile is laid out by digit in shared memory, so that rows of one digit are written side by side. Work is
// proportional to rows x passes, whatever the number of different keys and however skewed they are.
//
// Several segments of as many rows are sorted by the same launches, a row of the grid each. The first pass leaves out
// rows whose key is kNoKey; how many are left is a number in the card's memory, which the later passes read.
//
// RadixSort sorts one segment by keys in 0..buckets-1, then searches for where each bucket begins, a thread a bucket.
// Up to 255 buckets take one pass, up to 65535 two, up to 2^24 - 1 three. Scratch: 16 bytes a row (12 in one pass) and
// half a byte a row for counts, or 1 KB a tile.
#pragma once

#include "cuda/block_scan.h"

#if !defined(__CUDACC_RTC__)
#include <type_traits>
#endif

namespace fastuda::cuda {

constexpr int kRadixThreads = kScanThreads, kRadixWarps = kScanWarps;
constexpr int kRadixBits = 8, kRadixDigits = 1 << kRadixBits;
constexpr int kRadixItems = 8;  // rows of a thread
constexpr int kRadixTile = kRadixThreads * kRadixItems;
static_assert(kRadixThreads == kRadixDigits, "a thread owns a digit");

template <class Key>
constexpr Key kNoKey = ~Key(0);

// Shared memory of a block that moves rows: counts (warps, digits), places (digits), the sums of a scan, and its rows.
template <class Key>
struct RadixShared {
  static constexpr int places_at = kRadixWarps * kRadixDigits * static_cast<int>(sizeof(int));
  static constexpr int sums_at = places_at + kRadixDigits * static_cast<int>(sizeof(int));
  static constexpr int keys_at = sums_at + kScanBytes;
  static constexpr int rows_at = keys_at + kRadixTile * static_cast<int>(sizeof(Key));
  static constexpr int bytes = rows_at + kRadixTile * static_cast<int>(sizeof(u32));
  static_assert(keys_at % 16 == 0 && bytes <= 48 * 1024);
};

template <class Key>
struct RadixPass {
  u32 rows;  // of a segment
  int tiles, shift, bits;
  bool first;  // rows are in order: row i has the number i
  Pointer<Key> keys;         // (segments, rows), as the three below
  Pointer<u32> rows_in;
  Pointer<Key> keys_out;
  Pointer<u32> rows_out;
  Pointer<int> table;   // (segments, digits, tiles): rows of a tile, then those of the tiles before it
  Pointer<int> totals;  // (segments, digits)
  Pointer<u32> sizes;   // (segments): rows with a key, which the first pass writes; null where all have one

  __device__ __forceinline__ int digit(Key key) const { return static_cast<int>(key >> shift & ((1u << bits) - 1)); }
  // Rows of this block's segment that the pass goes over.
  __device__ __forceinline__ u32 size() const { return first || !sizes ? rows : static_cast<u32>(sizes[blockIdx.y]); }
};

template <class Key, int kItems>
__global__ void __launch_bounds__(kRadixThreads) radix_count(RadixPass<Key> s) {
  const u32 size = s.size(), begin = blockIdx.x * static_cast<u32>(kRadixThreads * kItems);
  if (begin >= size) return;
  const Pointer<int> counts = shared<int>(0);
  const Pointer<Key> keys = s.keys + static_cast<i64>(blockIdx.y) * s.rows;
  counts[threadIdx.x] = 0;
  __syncthreads();
  for (int i = 0; i < kItems; ++i) {
    const u32 at = begin + i * kRadixThreads + threadIdx.x;
    const Key key = at < size ? static_cast<Key>(keys[at]) : kNoKey<Key>;
    count_alike(counts, key == kNoKey<Key> ? -1 : s.digit(key));
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) >= 1 << s.bits) return;
  const i64 line = (static_cast<i64>(blockIdx.y) << s.bits) + threadIdx.x;
  s.table[line * s.tiles + blockIdx.x] = static_cast<int>(counts[threadIdx.x]);
}

// One digit of a segment a warp.
template <class Key, int kItems>
__global__ void __launch_bounds__(kRadixThreads) radix_offsets(RadixPass<Key> s) {
  const int lane = threadIdx.x % kWarp, digit = blockIdx.x * kRadixWarps + threadIdx.x / kWarp;
  if (digit >= 1 << s.bits) return;
  const int tiles = static_cast<int>(ceil_div<i64>(s.size(), kRadixThreads * kItems));
  const i64 line = (static_cast<i64>(blockIdx.y) << s.bits) + digit;
  int before = 0;
  for (int first = 0; first < tiles; first += kWarp) {
    const int tile = first + lane;
    const i64 at = line * s.tiles + tile;
    const int mine = tile < tiles ? static_cast<int>(s.table[at]) : 0, upto = warp_scan(mine);
    if (tile < tiles) s.table[at] = before + upto - mine;
    before += __shfl_sync(kFullWarp, upto, kWarp - 1);
  }
  if (lane == 0) s.totals[line] = before;
}

// Lanes of `among` with this lane's digit.
__device__ __forceinline__ u32 lanes_alike(u32 among, int digit, int bits) {
  for (int bit = 0; bit < bits; ++bit) {
    const bool one = digit >> bit & 1;
    const u32 votes = __ballot_sync(kFullWarp, one);
    among &= one ? votes : ~votes;
  }
  return among;
}

// From the counts (warps, digits) of a tile: where each warp's rows of a digit begin in the tile, in their place, and
// how far the rows of each digit move from there to the segment's order. Returns the rows of the tile.
template <class Key>
__device__ __forceinline__ int place_digits(
    const RadixPass<Key>& s, i64 segment, const Pointer<int>& counts, const Pointer<int>& places) {
  using At = RadixShared<Key>;
  const int t = threadIdx.x;
  const bool used = t < 1 << s.bits;
  const i64 line = (segment << s.bits) + t;
  const int total = used ? static_cast<int>(s.totals[line]) : 0;
  int own = 0, all, here;  // of this digit in the tile; of all digits in the segment, and in the tile
#pragma unroll
  for (int w = 0; w < kRadixWarps; ++w) own += counts[w * kRadixDigits + t];
  int place = block_scan(shared<int>(At::sums_at), total, all) - total;
  int start = block_scan(shared<int>(At::sums_at), own, here) - own;
  if (used) place += s.table[line * s.tiles + blockIdx.x];
  places[t] = place - start;
  for (int w = 0; w < kRadixWarps; ++w) {
    const int count = counts[w * kRadixDigits + t];
    counts[w * kRadixDigits + t] = start;
    start += count;
  }
  if (s.first && s.sizes && blockIdx.x == 0 && t == 0) s.sizes[segment] = static_cast<u32>(all);
  return here;
}

template <class Key, int kItems>
__global__ void __launch_bounds__(kRadixThreads) radix_scatter(RadixPass<Key> s) {
  using At = RadixShared<Key>;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, t = threadIdx.x;
  const u32 size = s.size(), tile = blockIdx.x * static_cast<u32>(kRadixThreads * kItems);
  if (tile >= size) return;
  const i64 segment = blockIdx.y, base = segment * s.rows;
  const Pointer<int> counts = shared<int>(0);  // (warps, digits): rows of the warp, then their first place in the tile
  const Pointer<int> mine = counts + warp * kRadixDigits, places = shared<int>(At::places_at);
  for (int i = t; i < kRadixWarps * kRadixDigits; i += kRadixThreads) counts[i] = 0;
  __syncthreads();
  const u32 begin = tile + warp * static_cast<u32>(kWarp * kItems);
  Key keys[kItems];
  int ranks[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const u32 first = begin + i * kWarp;
    keys[i] = kNoKey<Key>;
    if (first >= size) continue;
    if (first + lane < size) keys[i] = s.keys[base + first + lane];
    const bool inside = keys[i] != kNoKey<Key>;
    const int digit = s.digit(keys[i]);
    const u32 alike = lanes_alike(__ballot_sync(kFullWarp, inside), digit, s.bits);
    const int before = mine[digit], rank = __popc(alike & ((1u << lane) - 1));
    __syncwarp();
    if (inside && rank == 0) mine[digit] = before + __popc(alike);
    __syncwarp();
    ranks[i] = before + rank;
  }
  __syncthreads();
  const int here = place_digits(s, segment, counts, places);
  __syncthreads();
  const Pointer<Key> tile_keys = shared<Key>(At::keys_at);
  const Pointer<u32> tile_rows = shared<u32>(At::rows_at);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const u32 at = begin + i * kWarp + lane;
    if (keys[i] == kNoKey<Key>) continue;
    const int to = mine[s.digit(keys[i])] + ranks[i];
    tile_keys[to] = keys[i];
    tile_rows[to] = s.first ? at : static_cast<u32>(s.rows_in[base + at]);
  }
  __syncthreads();
  for (int i = t; i < here; i += kRadixThreads) {
    const Key key = tile_keys[i];
    const i64 to = base + static_cast<i64>(places[s.digit(key)]) + i;
    s.keys_out[to] = key;
    s.rows_out[to] = tile_rows[i];
  }
}

// starts[b]: the first sorted row whose key is b or more, for b in 0..buckets.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) bucket_starts(
    Pointer<u32> keys, u32 rows, u32 buckets, Pointer<int> starts) {
  const u32 bucket = blockIdx.x * static_cast<u32>(kThreads) + threadIdx.x;
  if (bucket > buckets) return;
  u32 low = 0, high = rows;
  while (low < high) {
    const u32 middle = low + (high - low) / 2;
    if (keys[middle] < bucket) low = middle + 1;
    else high = middle;
  }
  starts[bucket] = static_cast<int>(low);
}

#define FASTUDA_RADIX_SORT(Key)                                              \
  template __global__ void radix_count<Key, kRadixItems>(RadixPass<Key>);    \
  template __global__ void radix_offsets<Key, kRadixItems>(RadixPass<Key>);  \
  template __global__ void radix_scatter<Key, kRadixItems>(RadixPass<Key>);
FASTUDA_RADIX_SORT(u32)
template __global__ void bucket_starts<kRadixThreads>(Pointer<u32>, u32, u32, Pointer<int>);

#if !defined(__CUDACC_RTC__)

template <class Key>
void run_radix_pass(const RadixPass<Key>& s, u32 segments, Stream stream) {
  const dim3 block(kRadixThreads), tiles(static_cast<u32>(s.tiles), segments);
  const dim3 digits(static_cast<u32>(ceil_div(1 << s.bits, kRadixWarps)), segments);
  const int counts = kRadixDigits * static_cast<int>(sizeof(int));
  launch(radix_count<Key, kRadixItems>, tiles, block, counts, stream, s);
  launch(radix_offsets<Key, kRadixItems>, digits, block, 0, stream, s);
  launch(radix_scatter<Key, kRadixItems>, tiles, block, RadixShared<Key>::bytes, stream, s);
}

// Keys of `rows` rows, to be filled in before the sort. `buckets` is a key, too: of rows that take no part, sorted
// last.
struct RadixSort {
  u32 rows, buckets;
  int passes, bits, tiles;
  Pointer<u32> keys[2], order[2];
  Pointer<int> table, totals, starts;

  RadixSort(u32 rows, u32 buckets, Scratch& scratch) : rows(rows), buckets(buckets) {
    int all = 1;
    while (all < 32 && buckets >> all) ++all;
    passes = ceil_div(all, kRadixBits);
    bits = ceil_div(all, passes);
    tiles = static_cast<int>(ceil_div<i64>(rows, kRadixTile));
    for (int i = 0; i < 2; ++i) {
      take(scratch, rows, keys[i]);
      take(scratch, i == 0 && passes == 1 ? 0 : rows, order[i]);
    }
    take(scratch, static_cast<i64>(tiles) << bits, table);
    take(scratch, i64(1) << bits, totals);
    take(scratch, static_cast<i64>(buckets) + 1, starts);
  }

  // Where the scratch is only measured, the pointers are null.
  template <class P>
  static void take(Scratch& scratch, i64 elements, P& to) {
    using T = std::conditional_t<std::is_same_v<P, Pointer<int>>, int, u32>;
    const Buffer at = scratch.take(elements, sizeof(T));
    to = at.data ? global<T>(at) : P{};
  }

  // After `run`: keys in order, the numbers of their rows, and the first place of each bucket.
  const Pointer<u32>& sorted_keys() const { return keys[passes % 2]; }
  const Pointer<u32>& sorted_rows() const { return order[passes % 2]; }

  void run(Stream stream) const {
    for (int pass = 0; tiles && pass < passes; ++pass) {
      const int from = pass % 2, to = 1 - from;
      const RadixPass<u32> s{
          rows, tiles, pass * bits, bits, pass == 0, keys[from], order[from], keys[to], order[to], table, totals, {}};
      run_radix_pass(s, 1, stream);
    }
    const dim3 grid(static_cast<u32>(ceil_div<i64>(static_cast<i64>(buckets) + 1, kRadixThreads)));
    launch(bucket_starts<kRadixThreads>, grid, dim3(kRadixThreads), 0, stream, sorted_keys(), rows, buckets, starts);
  }
};

#endif
}  // namespace fastuda::cuda
