// A stable sort of rows by a key in 0..buckets-1: the same keys give the same order in every run, without atomics whose
// order matters.
//
// Passes of up to 8 bits from the lowest: one for up to 255 buckets, two up to 65535, three up to 2^24 - 1. A pass
// counts the digits of each tile of 2048 rows, sums the counts over the tiles, and writes rows to their places: a warp
// finds the lanes of one digit by a ballot a bit, and numbers them in order. Work is proportional to rows x passes,
// whatever the number of buckets and however skewed they are; where each bucket begins is then searched for, a thread
// a bucket.
//
// Scratch: 16 bytes a row (12 in one pass) and half a byte a row for counts, or 1 KB a tile.
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
constexpr int kRadixBytes = kRadixWarps * kRadixDigits * static_cast<int>(sizeof(int)) + kScanBytes;
static_assert(kRadixThreads == kRadixDigits, "a thread owns a digit");

struct RadixPass {
  u32 rows;
  int tiles, shift, bits;
  bool first;  // rows are in order: row i has the number i
  Pointer<u32> keys, rows_in, keys_out, rows_out;
  Pointer<int> table;   // (digits, tiles): rows of a tile, then those of the tiles before it
  Pointer<int> totals;  // (digits)

  __device__ __forceinline__ int digit(u32 key) const { return static_cast<int>(key >> shift & ((1u << bits) - 1)); }
};

template <int kItems>
__global__ void __launch_bounds__(kRadixThreads) radix_count(RadixPass s) {
  const Pointer<int> counts = shared<int>(0);
  counts[threadIdx.x] = 0;
  __syncthreads();
  const u32 begin = blockIdx.x * static_cast<u32>(kRadixThreads * kItems);
  for (int i = 0; i < kItems; ++i) {
    const u32 at = begin + i * kRadixThreads + threadIdx.x;
    if (at < s.rows) atomicAdd(counts + s.digit(s.keys[at]), 1);
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < 1 << s.bits)
    s.table[static_cast<i64>(threadIdx.x) * s.tiles + blockIdx.x] = static_cast<int>(counts[threadIdx.x]);
}

// One digit a block.
template <int kItems>
__global__ void __launch_bounds__(kRadixThreads) radix_offsets(RadixPass s) {
  const Pointer<int> sums = shared<int>(0);
  int before = 0;
  for (int first = 0; first < s.tiles; first += kRadixThreads) {
    const int tile = first + threadIdx.x;
    const i64 at = static_cast<i64>(blockIdx.x) * s.tiles + tile;
    const int mine = tile < s.tiles ? static_cast<int>(s.table[at]) : 0;
    int all;
    const int upto = block_scan(sums, mine, all);
    if (tile < s.tiles) s.table[at] = before + upto - mine;
    before += all;
  }
  if (threadIdx.x == 0) s.totals[blockIdx.x] = before;
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

template <int kItems>
__global__ void __launch_bounds__(kRadixThreads) radix_scatter(RadixPass s) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, t = threadIdx.x;
  const Pointer<int> counts = shared<int>(0);  // (warps, digits): rows of the warp, then their first place
  const Pointer<int> mine = counts + warp * kRadixDigits;
  for (int i = t; i < kRadixWarps * kRadixDigits; i += kRadixThreads) counts[i] = 0;
  __syncthreads();
  const u32 begin = (blockIdx.x * kRadixWarps + warp) * static_cast<u32>(kWarp * kItems);
  u32 keys[kItems];
  int ranks[kItems];
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const u32 first = begin + i * kWarp;
    if (first >= s.rows) break;
    const bool inside = first + lane < s.rows;
    keys[i] = inside ? static_cast<u32>(s.keys[first + lane]) : 0;
    const int digit = s.digit(keys[i]);
    const u32 alike = lanes_alike(__ballot_sync(kFullWarp, inside), digit, s.bits);
    const int before = mine[digit], rank = __popc(alike & ((1u << lane) - 1));
    __syncwarp();
    if (inside && rank == 0) mine[digit] = before + __popc(alike);
    __syncwarp();
    ranks[i] = before + rank;
  }
  const bool used = t < 1 << s.bits;
  const int total = used ? static_cast<int>(s.totals[t]) : 0;
  int all;
  int place = block_scan(shared<int>(kRadixBytes - kScanBytes), total, all) - total;
  if (used) place += s.table[static_cast<i64>(t) * s.tiles + blockIdx.x];
  for (int w = 0; w < kRadixWarps; ++w) {
    const int count = counts[w * kRadixDigits + t];
    counts[w * kRadixDigits + t] = place;
    place += count;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const u32 at = begin + i * kWarp + lane;
    if (at >= s.rows) break;
    const int to = mine[s.digit(keys[i])] + ranks[i];
    s.keys_out[to] = keys[i];
    s.rows_out[to] = s.first ? at : static_cast<u32>(s.rows_in[at]);
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

template __global__ void radix_count<kRadixItems>(RadixPass);
template __global__ void radix_offsets<kRadixItems>(RadixPass);
template __global__ void radix_scatter<kRadixItems>(RadixPass);
template __global__ void bucket_starts<kRadixThreads>(Pointer<u32>, u32, u32, Pointer<int>);

#if !defined(__CUDACC_RTC__)

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
    const dim3 block(kRadixThreads);
    for (int pass = 0; tiles && pass < passes; ++pass) {
      const int from = pass % 2, to = 1 - from;
      const RadixPass s{
          rows, tiles, pass * bits, bits, pass == 0, keys[from], order[from], keys[to], order[to], table, totals};
      launch(radix_count<kRadixItems>, dim3(tiles), block, kRadixDigits * int(sizeof(int)), stream, s);
      launch(radix_offsets<kRadixItems>, dim3(1u << bits), block, kScanBytes, stream, s);
      launch(radix_scatter<kRadixItems>, dim3(tiles), block, kRadixBytes, stream, s);
    }
    const dim3 grid(static_cast<u32>(ceil_div<i64>(static_cast<i64>(buckets) + 1, kRadixThreads)));
    launch(bucket_starts<kRadixThreads>, grid, block, 0, stream, sorted_keys(), rows, buckets, starts);
  }
};

#endif
}  // namespace fastuda::cuda
