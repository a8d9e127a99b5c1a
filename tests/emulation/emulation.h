// Test only: compiles a .cu file as C++ and runs its kernels on the CPU. Forced in before the source:
//
//     g++ -x c++ -std=c++20 -include tests/emulation/emulation.h -Icsrc kernel.cu ...
//
// fibers.h holds the threads and what they wait for, memory.h the pointers and what they check, this file the words of
// CUDA C++ that kernels use: index variables, barriers, warp exchanges, atomics, launches.
//
// What it cannot show: speed, coalescing, bank conflicts, registers, the width of a number held in a register, memory
// order between blocks without a grid barrier, and the intrinsics' own rounding (expf is the C library's).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>

#include "memory.h"

#define FASTUDA_EMULATION 1

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)

using uint3 = emulation::Index;
using dim3 = emulation::Index;

#define threadIdx (emulation::self().index)
#define blockIdx (emulation::self().block->index)
#define blockDim (emulation::machine.size)
#define gridDim (emulation::machine.grid)

inline void __syncthreads(emulation::Where where = emulation::Where::current()) { emulation::wait_block(where); }

inline void __syncwarp(unsigned mask = 0xffffffffu, emulation::Where where = emulation::Where::current()) {
  emulation::wait_warp(emulation::Exchange::sync, mask, 0, 0, where);
}

inline unsigned __ballot_sync(unsigned mask, int vote, emulation::Where where = emulation::Where::current()) {
  return static_cast<unsigned>(emulation::wait_warp(emulation::Exchange::ballot, mask, vote != 0, 0, where));
}

inline int __any_sync(unsigned mask, int vote, emulation::Where where = emulation::Where::current()) {
  return __ballot_sync(mask, vote, where) != 0;
}

inline int __all_sync(unsigned mask, int vote, emulation::Where where = emulation::Where::current()) {
  return __ballot_sync(mask, !vote, where) == 0;
}

namespace emulation {

template <class T>
T shuffle(unsigned mask, T value, int source, const Where& where) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = wait_warp(Exchange::shuffle, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, emulation::Where where = emulation::Where::current()) {
  const int self = emulation::self().lane;
  return emulation::shuffle(mask, value, (self & ~(width - 1)) | (lane & (width - 1)), where);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, emulation::Where where = emulation::Where::current()) {
  return emulation::shuffle(mask, value, emulation::self().lane ^ flip, where);
}

// As the hardware: a lane whose partner is outside keeps its own value.
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, emulation::Where where = emulation::Where::current()) {
  const int from = emulation::self().lane + static_cast<int>(by);
  return emulation::shuffle(mask, value, from < 32 ? from : emulation::self().lane, where);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, emulation::Where where = emulation::Where::current()) {
  const int from = emulation::self().lane - static_cast<int>(by);
  return emulation::shuffle(mask, value, from >= 0 ? from : emulation::self().lane, where);
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __ffs(int bits) { return bits ? std::countr_zero(static_cast<unsigned>(bits)) + 1 : 0; }

template <class T>
T atomicAdd(emulation::Pointer<T> at, std::type_identity_t<T> value) {
  return at.update([&](T before) { return before + value; });
}
template <class T>
T atomicAdd(T* at, std::type_identity_t<T> value) {
  return std::exchange(*at, *at + value);
}

template <class T>
T atomicMin(emulation::Pointer<T> at, std::type_identity_t<T> value) {
  return at.update([&](T before) { return std::min(before, value); });
}
template <class T>
T atomicMin(T* at, std::type_identity_t<T> value) {
  return std::exchange(*at, std::min(*at, value));
}

namespace emulation {

#if defined(FASTUDA_EMULATION_RAW)
template <class T>
using KernelPointer = T*;

template <class T>
T* shared_pointer(int64_t offset) {
  return reinterpret_cast<T*>(self().block->shared + offset);
}
template <class T>
T* global_pointer(void* data, int64_t) {
  return static_cast<T*>(data);
}
template <class As, class T>
As load_as(const T* from) {
  return *reinterpret_cast<const As*>(from);
}
template <class As, class T>
void store_as(T* to, const As& value) {
  *reinterpret_cast<As*>(to) = value;
}
#else
template <class T>
using KernelPointer = Pointer<T>;

template <class T>
Pointer<T> shared_pointer(int64_t offset) {
  return shared_memory<T>(offset);
}
template <class T>
Pointer<T> global_pointer(void* data, int64_t bytes) {
  return global_memory<T>(data, bytes);
}
template <class As, class T>
As load_as(const Pointer<T>& from) {
  return from.template get<As>(0);
}
template <class As, class T>
void store_as(const Pointer<T>& to, const As& value) {
  to.template set<As>(0, value);
}
#endif

template <class... Parameters, class... Arguments>
void start(
    bool cooperative, void (*kernel)(Parameters...), Index grid, Index size, int shared_bytes,
    const Arguments&... arguments) {
  machine.attach = attach_shared;
  new_launch();
  run([&] { kernel(arguments...); }, grid, size, shared_bytes, cooperative);
}

// Before each test: the schedule's seed, and nothing left of the test before.
inline void reset(uint64_t seed) {
  machine.random = seed * 0x9e3779b97f4a7c15ull + 0x2545f4914f6cdd1dull;
  machine.launches = machine.largest_shared = 0;
  global_shadows.clear();
}

}  // namespace emulation
