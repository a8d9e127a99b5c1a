// Products of two thin matrices, summed in registers: 256 threads hold a square of sums, and what both matrices bring
// to the next step is fetched into registers while the step at hand is multiplied.
#pragma once

#include "cuda/kernel.h"

namespace fastuda::cuda {

constexpr int kTileSide = 16, kTileThreads = kTileSide * kTileSide, kTileQuad = 4;

// Wide squares read less, narrow ones waste less of a small matrix. double has the narrow one only: registers.
template <class Acc>
constexpr int kWideEdge = sizeof(Acc) == 8 ? 4 : 8;

// kEdge x kEdge sums a thread. A step multiplies `depth` rows of both operands; a thread brings one quad to each.
template <class Acc, int kEdge>
struct OuterTile {
  static constexpr int width = kTileSide * kEdge, depth = kTileThreads * kTileQuad / width;
  static constexpr int pitch = width + kTileQuad, operand = depth * pitch;  // elements
  static constexpr int row_threads = width / kTileQuad;
  static constexpr int bytes = 4 * operand * static_cast<int>(sizeof(Acc));  // two steps of two operands

  Acc sum[kEdge][kEdge];

  // Where in the square the i-th sum of thread `side` is: quads lie side by side over the threads.
  static __device__ __forceinline__ int at(int side, int i) {
    return i / kTileQuad * (kTileSide * kTileQuad) + side * kTileQuad + i % kTileQuad;
  }
  static __device__ __forceinline__ int x() { return threadIdx.x % kTileSide; }
  static __device__ __forceinline__ int y() { return threadIdx.x / kTileSide; }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kEdge; ++i)
#pragma unroll
      for (int j = 0; j < kEdge; ++j) sum[i][j] = 0;
  }

  // sum[i][j] += a[row][i] * b[row][j] over the rows of a step.
  __device__ __forceinline__ void add(const Pointer<Acc>& a, const Pointer<Acc>& b) {
#pragma unroll 1  // with more, cards have no registers left
    for (int row = 0; row < depth; ++row) {
      Acc down[kEdge], across[kEdge];
#pragma unroll
      for (int quad = 0; quad < kEdge; quad += kTileQuad) {
        const Pack<Acc, kTileQuad> left = load_pack<kTileQuad>(a + (row * pitch + at(y(), quad)));
        const Pack<Acc, kTileQuad> right = load_pack<kTileQuad>(b + (row * pitch + at(x(), quad)));
#pragma unroll
        for (int i = 0; i < kTileQuad; ++i) {
          down[quad + i] = left.at[i];
          across[quad + i] = right.at[i];
        }
      }
#pragma unroll
      for (int i = 0; i < kEdge; ++i)
#pragma unroll
        for (int j = 0; j < kEdge; ++j) sum[i][j] += down[i] * across[j];
    }
  }

  // Writes the thread's sums to a square of rows `pitch` elements apart.
  template <class Pitch>
  __device__ __forceinline__ void write(const Pointer<Acc>& to, Pitch pitch) const {
#pragma unroll
    for (int i = 0; i < kEdge; ++i)
#pragma unroll
      for (int j = 0; j < kEdge; j += kTileQuad) {
        Pack<Acc, kTileQuad> pack;
#pragma unroll
        for (int v = 0; v < kTileQuad; ++v) pack.at[v] = sum[i][j + v];
        store_pack(to + (at(y(), i) * pitch + at(x(), j)), pack);
      }
  }

  // Adds `steps` steps. fetch(step) of an operand reads the thread's quad, store(to) writes it to a step's rows;
  // `same`: b is a. All threads of the block take part; the shared memory is free again afterwards.
  template <class A, class B>
  __device__ __forceinline__ void multiply(int steps, bool same, A& a, B& b) {
    const Pointer<Acc> buffers = shared<Acc>(0);
    for (int step = -1; step < steps; ++step) {
      const bool more = step + 1 < steps;
      if (more) {
        a.fetch(step + 1);
        if (!same) b.fetch(step + 1);
      }
      if (step >= 0) {
        const Pointer<Acc> now = buffers + (step & 1) * 2 * operand;
        add(now, same ? now : now + operand);
      }
      if (more) {
        const Pointer<Acc> next = buffers + ((step + 1) & 1) * 2 * operand;
        a.store(next);
        if (!same) b.store(next + operand);
      }
      __syncthreads();
    }
  }
};

}  // namespace fastuda::cuda
