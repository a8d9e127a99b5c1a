// What the code that both rooms share is written with. g++ compiles it for a CPU; nvcc and NVRTC compile it for a GPU,
// NVRTC without the standard library; g++ compiles it once more with tests/emulation.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define FASTUDA_SHARED __host__ __device__ __forceinline__
#else
#define FASTUDA_SHARED inline __attribute__((always_inline))
#endif

namespace fastuda {

// The type in which numbers of type T are summed: double for double, float for everything else.
template <class T>
struct AccumulateOf {
  using type = float;
};
template <>
struct AccumulateOf<double> {
  using type = double;
};
template <class T>
using Accumulate = typename AccumulateOf<T>::type;

}  // namespace fastuda
