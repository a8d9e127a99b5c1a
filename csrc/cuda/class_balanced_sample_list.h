// The chosen pixels of each image, or of each image and class, in rising order: counted by chunks, then written.
#pragma once

#include "cuda/launch_cooperative.h"
#include "cuda/class_balanced_sample_draw.h"

namespace fastuda::cuda {

constexpr u32 kListChunk = 1024;  // pixels of a warp

struct ClassList {
  ClassDraw draw;
  int lists, chunks;    // of an image: 1 or the classes; ceil(pixels / kListChunk)
  Pointer<int> table;   // (images, lists, chunks): pixels of the chunk, then those of the chunks before it
  Pointer<i64> result;  // (images, lists, wanted)
};

// The list of a pixel, or -1.
__device__ __forceinline__ int list_of(const ClassDraw& d, const RandomBits& random, u32 image, u32 pixel) {
  const int label = class_of(d.labels, image, pixel);
  if (label < 0) return -1;
  if (chosen_first(d, random, image, pixel, label)) return d.by_share ? 0 : label;
  if (!d.by_share) return -1;
  const u64 bound = d.second.bound[image];
  return bound != 0 && draw_key(draw_bits(d, random, image, pixel, 1), pixel) < bound ? 0 : -1;
}

// A warp walks over chunk `number` of all images', twice: to count and to write. Lane 0 alone owns the chunk's counts.
template <bool kWrite>
__device__ __forceinline__ void list_walk(const ClassList& s, i64 number) {
  const int lane = threadIdx.x % kWarp;
  const u32 image = static_cast<u32>(number / s.chunks);
  const int chunk = static_cast<int>(number % s.chunks);
  const i64 first_list = static_cast<i64>(image) * s.lists;
  const auto entry = [&](int list) { return (first_list + list) * s.chunks + chunk; };
  if constexpr (!kWrite) {
    for (int list = lane; list < s.lists; list += kWarp) s.table[entry(list)] = 0;
    __syncwarp();
  }
  const RandomBits random(s.draw.seed);
  const u32 begin = chunk * kListChunk;
  const u32 end = s.draw.pixels - begin < kListChunk ? s.draw.pixels : begin + kListChunk;
  int current = -1, next = 0;  // the list at hand, and how many pixels of it came before
  for (u32 at = begin; at < end; at += kWarp) {
    const u32 pixel = at + lane;
    const int mine = pixel < end ? list_of(s.draw, random, image, pixel) : -1;
    u32 todo = __ballot_sync(kFullWarp, mine >= 0);
    while (todo) {  // one list after the other
      const int list = __shfl_sync(kFullWarp, mine, __ffs(todo) - 1);
      const u32 same = __ballot_sync(kFullWarp, mine == list);
      if (list != current) {
        if (lane == 0) {
          if (current >= 0) s.table[entry(current)] = next;
          next = s.table[entry(list)];
        }
        next = __shfl_sync(kFullWarp, next, 0);
        current = list;
      }
      if constexpr (kWrite) {
        const i64 place = next + __popc(same & ((1u << lane) - 1));
        if (mine == list) s.result[(first_list + list) * s.draw.wanted + place] = pixel;
      }
      next += __popc(same);
      todo &= ~same;
    }
  }
  if (lane == 0 && current >= 0) s.table[entry(current)] = next;
}

// A list, by a block: counts of chunks become those of the chunks before, and -1 fills the end of the list.
__device__ __forceinline__ void list_chunks(const ClassList& s, i64 list) {
  const Pointer<int> sums = shared<int>(0);
  int before = 0;
  for (int first = 0; first < s.chunks; first += kDrawThreads) {
    const int chunk = first + threadIdx.x;
    const i64 at = list * s.chunks + chunk;
    const int mine = chunk < s.chunks ? static_cast<int>(s.table[at]) : 0;
    int all;
    const int upto = block_scan(sums, mine, all);
    if (chunk < s.chunks) s.table[at] = before + upto - mine;
    before += all;
  }
  for (i64 i = before + static_cast<i64>(threadIdx.x); i < s.draw.wanted; i += kDrawThreads)
    s.result[list * s.draw.wanted + i] = -1;
}

// The steps of a draw: clear, the first stream's, the second's (of a share only), then the three of the lists.
constexpr int kListStep = 1 + 2 * kDrawSteps, kDrawEnd = kListStep + 3;

__host__ __device__ __forceinline__ int next_draw_step(int step, bool by_share) {
  return step == kDrawSteps && !by_share ? kListStep : step + 1;
}

// The steps from `step` to before `end`, between which all blocks meet.
template <int kThreads>
__global__ void __launch_bounds__(kThreads, 4) draw_pixels(ClassList s, u32 block_pixels, int step, int end) {
  const ClassDraw& d = s.draw;
  const i64 warps = static_cast<i64>(gridDim.x) * kDrawWarps, chunks = static_cast<i64>(d.images) * s.chunks;
  const i64 warp = static_cast<i64>(blockIdx.x) * kDrawWarps + threadIdx.x / kWarp;
  while (true) {
    if (step == 0) {
      draw_clear(d);
    } else if (step <= kDrawSteps) {
      draw_step<false>(d, step - 1, block_pixels);
    } else if (step < kListStep) {
      draw_step<true>(d, step - 1 - kDrawSteps, block_pixels);
    } else if (step == kListStep) {
      for (i64 i = warp; i < chunks; i += warps) list_walk<false>(s, i);
    } else if (step == kListStep + 1) {
      for (i64 i = blockIdx.x; i < static_cast<i64>(d.images) * s.lists; i += gridDim.x) list_chunks(s, i);
    } else {
      for (i64 i = warp; i < chunks; i += warps) list_walk<true>(s, i);
    }
    step = next_draw_step(step, d.by_share);
    if (step >= end) return;
    grid_sync();
  }
}

template __global__ void draw_pixels<kDrawThreads>(ClassList, u32, int, int);

}  // namespace fastuda::cuda
