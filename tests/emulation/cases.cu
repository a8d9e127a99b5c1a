// Small kernels with planted faults, and their clean twins: what the emulation must find and what it must let pass.
#include "cuda/launch_cooperative.h"

#include <cstdio>
#include <map>
#include <string>
#include <vector>

using namespace fastuda::cuda;

namespace {

constexpr int kThreads = 128;

// Sum of a block through warps and shared memory. Planted: the barrier between writing and reading partial sums.
template <bool kBarrier>
__global__ void block_sum(Pointer<const float> in, Pointer<float> out) {
  float x = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  const Pointer<float> parts = shared<float>(0);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  if (kBarrier) __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (unsigned i = 0; i < blockDim.x / 32; ++i) sum += parts[i];
    out[blockIdx.x] = sum;
  }
}

// Neighbours in a warp exchange through shared memory. Planted: a missing __syncwarp on either side of the read.
template <bool kBefore, bool kAfter>
__global__ void warp_exchange(Pointer<const float> in, Pointer<float> out) {
  const unsigned t = threadIdx.x;
  const Pointer<float> tile = shared<float>(0);
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[t] = in[t] + static_cast<float>(round);
    if (kBefore) __syncwarp();
    sum += tile[t ^ 1];
    if (kAfter) __syncwarp();
  }
  out[t] = sum;
}

__global__ void one_barrier_of_two(Pointer<float> out) {
  if (threadIdx.x < 64) __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void barrier_in_a_branch(Pointer<float> out) {
  if (threadIdx.x < 64) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void barrier_after_return(Pointer<float> out) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void half_a_shuffle(Pointer<float> out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);
  else
    __syncthreads();
}
__global__ void shuffle_after_return(Pointer<float> out) {
  if (threadIdx.x == 7) return;
  out[threadIdx.x] = __shfl_sync(0xffffffffu, 1.0f, 0);
}
__global__ void shuffle_from_outside(Pointer<float> out) {
  if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 20);
}

__global__ void endless(Pointer<float>) {
  while (__any_sync(0xffffffffu, 1)) __syncwarp();
}

__global__ void touch(Pointer<const float> in, Pointer<float> out, long long read, long long write) {
  if (threadIdx.x == 0) out[write] = in[read];
}
__global__ void touch_shared(int at) {
  if (threadIdx.x == 0) shared<float>(0)[at] = 1;
}
__global__ void pack_at(Pointer<const float> in, Pointer<float> out, int at) {
  if (threadIdx.x == 0) out[0] = load_pack<4>(in + at).at[3];
}
__global__ void unwritten_shared(Pointer<float> out) { out[threadIdx.x] = shared<float>(0)[threadIdx.x]; }
__global__ void unwritten_global(Pointer<float> out) { out[threadIdx.x] += 1; }
__global__ void same_element(Pointer<float> out) { out[0] = 1; }
__global__ void neighbour(Pointer<float> out) {
  if (threadIdx.x == 0) out[blockIdx.x] = 1;
  else if (threadIdx.x == 1 && blockIdx.x) out[8] = out[blockIdx.x - 1];
}

template <bool kBarrier>
__global__ void histogram(Pointer<float> out) {
  const Pointer<int> bins = shared<int>(0);
  if (threadIdx.x < 4) bins[threadIdx.x] = 0;
  __syncthreads();
  atomicAdd(bins + threadIdx.x % 4, 1);
  if (kBarrier) __syncthreads();
  if (threadIdx.x < 4) out[threadIdx.x] = static_cast<float>(bins[threadIdx.x]);
}
__global__ void ballots(Pointer<float> out) {
  const unsigned votes = __ballot_sync(0xffffffffu, threadIdx.x % 3 == 0);
  out[threadIdx.x] = static_cast<float>(__popc(votes & ((1u << threadIdx.x % 32) - 1)));
}
__global__ void who_came_first(Pointer<float> out) {
  const Pointer<int> next = shared<int>(0);
  if (threadIdx.x == 0) next[0] = 0;
  __syncthreads();
  out[threadIdx.x] = static_cast<float>(atomicAdd(next, 1));
}

// Every block adds its own number, then all read the total. Planted: the grid barrier, and a block that leaves it out.
template <bool kBarrier>
__global__ void grid_total(Pointer<float> parts, Pointer<float> out, int skip) {
  if (threadIdx.x == 0) parts[blockIdx.x] = static_cast<float>(blockIdx.x);
  if (kBarrier && static_cast<int>(blockIdx.x) != skip) grid_sync();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
  out[blockIdx.x] = sum;
}

struct Memory {
  std::vector<float> in, out, more;
  Memory() : in(kThreads * 4), out(kThreads * 4), more(64) {
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 7);
  }
  static Buffer of(std::vector<float>& v) { return {v.data(), static_cast<i64>(v.size() * sizeof(float))}; }
  Pointer<const float> read() { return global<const float>(of(in)); }
  Pointer<float> write() { return global<float>(of(out)); }
};

void run_case(const std::string& name, Memory& m) {
  const dim3 one(1), four(4), block(kThreads);
  const std::map<std::string, std::function<void()>> cases = {
      {"sum", [&] { launch(block_sum<true>, four, block, 16, nullptr, m.read(), m.write()); }},
      {"sum_without_barrier", [&] { launch(block_sum<false>, four, block, 16, nullptr, m.read(), m.write()); }},
      {"exchange", [&] { launch(warp_exchange<true, true>, one, block, 512, nullptr, m.read(), m.write()); }},
      {"exchange_no_first", [&] { launch(warp_exchange<false, true>, one, block, 512, nullptr, m.read(), m.write()); }},
      {"exchange_no_second", [&] { launch(warp_exchange<true, false>, one, block, 512, nullptr, m.read(), m.write()); }},
      {"one_barrier_of_two", [&] { launch(one_barrier_of_two, one, block, 0, nullptr, m.write()); }},
      {"barrier_in_a_branch", [&] { launch(barrier_in_a_branch, one, block, 0, nullptr, m.write()); }},
      {"barrier_after_return", [&] { launch(barrier_after_return, one, block, 0, nullptr, m.write()); }},
      {"half_a_shuffle", [&] { launch(half_a_shuffle, one, block, 0, nullptr, m.write()); }},
      {"shuffle_after_return", [&] { launch(shuffle_after_return, one, block, 0, nullptr, m.write()); }},
      {"shuffle_from_outside", [&] { launch(shuffle_from_outside, one, block, 0, nullptr, m.write()); }},
      {"endless", [&] { launch(endless, one, dim3(32), 0, nullptr, m.write()); }},
      {"inside", [&] { launch(touch, one, block, 0, nullptr, m.read(), m.write(), 511ll, 511ll); }},
      {"read_beyond", [&] { launch(touch, one, block, 0, nullptr, m.read(), m.write(), 512ll, 0ll); }},
      {"read_before", [&] { launch(touch, one, block, 0, nullptr, m.read(), m.write(), -1ll, 0ll); }},
      {"write_beyond", [&] { launch(touch, one, block, 0, nullptr, m.read(), m.write(), 0ll, 512ll); }},
      {"shared_beyond", [&] { launch(touch_shared, one, block, 64, nullptr, 16); }},
      {"pack", [&] { launch(pack_at, one, block, 0, nullptr, m.read(), m.write(), 508); }},
      {"pack_beyond", [&] { launch(pack_at, one, block, 0, nullptr, m.read(), m.write(), 512); }},
      {"pack_misaligned", [&] { launch(pack_at, one, block, 0, nullptr, m.read(), m.write(), 5); }},
      {"unwritten_shared", [&] { launch(unwritten_shared, one, block, 512, nullptr, m.write()); }},
      {"unwritten_global", [&] { launch(unwritten_global, one, block, 0, nullptr, m.write()); }},
      {"same_element", [&] { launch(same_element, one, block, 0, nullptr, m.write()); }},
      {"same_element_of_blocks", [&] { launch(same_element, four, dim3(1), 0, nullptr, m.write()); }},
      {"neighbour_block", [&] { launch(neighbour, dim3(2), block, 0, nullptr, m.write()); }},
      {"histogram", [&] { launch(histogram<true>, one, block, 16, nullptr, m.write()); }},
      {"histogram_no_barrier", [&] { launch(histogram<false>, one, block, 16, nullptr, m.write()); }},
      {"ballots", [&] { launch(ballots, one, block, 0, nullptr, m.write()); }},
      {"order", [&] { launch(who_came_first, one, block, 4, nullptr, m.write()); }},
      {"grid", [&] { launch_cooperative(grid_total<true>, four, block, 0, nullptr, m.write() + 8, m.write(), -1); }},
      {"grid_no_barrier",
       [&] {
         const auto parts = global<float>(Memory::of(m.more));
         launch_cooperative(grid_total<false>, four, block, 0, nullptr, parts, m.write(), -1);
       }},
      {"grid_one_block_leaves", [&] { launch_cooperative(grid_total<true>, four, block, 0, nullptr, m.write() + 8, m.write(), 2); }},
      {"grid_in_a_plain_launch", [&] { launch(grid_total<true>, four, block, 0, nullptr, m.write() + 8, m.write(), -1); }},
      {"no_threads", [&] { launch(same_element, one, dim3(0), 0, nullptr, m.write()); }},
  };
  cases.at(name)();
}

}  // namespace

// Runs a case; returns its fault or an empty text. `out` gets the first 128 results.
extern "C" const char* run(const char* name, unsigned long long seed, float* out) {
  static std::string fault;
  fault.clear();
  emulation::reset(seed);
  Memory memory;
  try {
    run_case(name, memory);
  } catch (const std::exception& error) {
    fault = error.what();
  }
  for (int i = 0; out && i < kThreads; ++i) out[i] = memory.out[i];
  return fault.c_str();
}

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) std::printf("%s: %s\n", argv[i], run(argv[i], 1, nullptr));
}
