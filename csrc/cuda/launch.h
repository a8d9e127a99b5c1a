// How kernels are launched and how they hold pointers. With it a .cu file compiles with nvcc, with NVRTC and, for
// tests, as plain C++ with tests/emulation (whose header is included first and defines FASTUDA_EMULATION).
//
// Rules that make a kernel run in all three: pointers are Pointer<T>, made from a Buffer by global<T>() on the host or
// by shared<T>() in the kernel; shared memory is dynamic only; several elements at once go through load_pack.
#pragma once

#if !defined(FASTUDA_EMULATION) && !defined(__CUDACC_RTC__)
#include <cuda_runtime.h>
#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#endif

namespace fastuda::cuda {

using i64 = long long;
using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

// Memory of a tensor from its first element to its last.
struct Buffer {
  void* data;
  i64 bytes;
};

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

#if defined(FASTUDA_EMULATION)

template <class T>
using Pointer = emulation::KernelPointer<T>;
using Stream = void*;

template <class T>
Pointer<T> shared(int offset) {
  return emulation::shared_pointer<T>(offset);
}

template <class T>
Pointer<T> global(const Buffer& buffer) {
  return emulation::global_pointer<T>(buffer.data, buffer.bytes);
}

template <int N, template <class> class P, class T>
auto load_pack(const P<T>& from) {
  return emulation::load_as<Pack<std::remove_const_t<T>, N>>(from);
}
template <int N, class T>
auto load_pack(T* from) {
  return emulation::load_as<Pack<std::remove_const_t<T>, N>>(from);
}

template <int N, class P, class T>
void store_pack(const P& to, const Pack<T, N>& values) {
  emulation::store_as(to, values);
}

template <class Kernel, class... Arguments>
void launch(Kernel kernel, dim3 grid, dim3 block, int shared_bytes, Stream, const Arguments&... arguments) {
  emulation::start(false, kernel, grid, block, shared_bytes, arguments...);
}
template <class Kernel, class... Arguments>
void launch_cooperative(Kernel kernel, dim3 grid, dim3 block, int shared_bytes, Stream, const Arguments&... arguments) {
  emulation::start(true, kernel, grid, block, shared_bytes, arguments...);
}

inline void grid_sync(emulation::Where where = emulation::Where::current()) { emulation::wait_grid(where); }

#else

template <class T>
using Pointer = T*;

// Dynamic shared memory of the block, from byte `offset`, which is a multiple of 16.
template <class T>
__device__ __forceinline__ Pointer<T> shared(int offset) {
  extern __shared__ __align__(16) unsigned char fastuda_shared_memory[];
  return reinterpret_cast<T*>(fastuda_shared_memory + offset);
}

// N neighbours at once; the address is a multiple of their size.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, N>& values) {
  *reinterpret_cast<Pack<T, N>*>(to) = values;
}

#if !defined(__CUDACC_RTC__)

using Stream = cudaStream_t;

template <class T>
Pointer<T> global(const Buffer& buffer) {
  return static_cast<T*>(buffer.data);
}

// The name of a kernel with its template arguments, as far as the runtime gives it.
inline std::string kernel_name(const void* kernel) {
  const char* mangled = nullptr;
#if CUDART_VERSION >= 12030
  if (cudaFuncGetName(&mangled, kernel) != cudaSuccess) mangled = nullptr;
#endif
  if (!mangled) return "a kernel";
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> plain(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
  std::string name = status == 0 ? plain.get() : mangled;
  name = name.substr(0, name.rfind(">(") + 1 ? name.rfind(">(") + 1 : name.find('('));
  return name.rfind("void ", 0) == 0 ? name.substr(5) : name;
}

// Throws if the runtime has refused the launch just made, or has met the error of an earlier kernel there: nothing
// later could say which kernel it was.
inline void check_launch(const void* kernel, dim3 grid, dim3 block, int shared_bytes) {
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  const auto sizes = [](dim3 d) {
    return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")";
  };
  throw std::runtime_error(
      "the launch of " + kernel_name(kernel) + " with grid " + sizes(grid) + ", block " + sizes(block) + " and " +
      std::to_string(shared_bytes) + " bytes of dynamic shared memory failed: " + cudaGetErrorString(error));
}

// Throws std::runtime_error, which names the kernel, if the launch is refused.
template <class... Parameters, class... Arguments>
void launch(
    void (*kernel)(Parameters...), dim3 grid, dim3 block, int shared_bytes, Stream stream,
    const Arguments&... arguments) {
  const void* function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > 48 * 1024)
    cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  kernel<<<grid, block, shared_bytes, stream>>>(arguments...);
  check_launch(function, grid, block, shared_bytes);
}

#endif
#endif

}  // namespace fastuda::cuda
