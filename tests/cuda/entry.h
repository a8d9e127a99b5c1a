// Test only: how Python (tests/cuda/emulated.py) calls a host plan of csrc/cuda under the emulation.
#pragma once

#include <new>
#include <string>
#include <vector>

namespace entry {

using fastuda::cuda::Buffer;
using fastuda::cuda::i64;
using fastuda::cuda::u32;

#if defined(FASTUDA_EMULATION_RAW)
// AddressSanitizer knows the ends of what it allocated itself: work on copies, as aligned as the tensors, and copy back.
struct Copy {
  char *memory, *at;
  void* original;
  i64 bytes;
};
inline std::vector<Copy> copies;

inline Buffer checked(void* data, i64 bytes) {
  const size_t shift = reinterpret_cast<size_t>(data) % 64;
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, shift + static_cast<size_t>(bytes ? bytes : 1))) throw std::bad_alloc();
  char* at = static_cast<char*>(memory) + shift;
  if (data) std::memcpy(at, data, static_cast<size_t>(bytes));
  copies.push_back({static_cast<char*>(memory), at, data, bytes});
  return {at, bytes};
}
inline void finish() {
  for (const Copy& c : copies) {
    if (c.original) std::memcpy(c.original, c.at, static_cast<size_t>(c.bytes));
    std::free(c.memory);
  }
  copies.clear();
}
#else
inline Buffer checked(void* data, i64 bytes) { return {data, bytes}; }
inline void finish() {}
#endif

// A tensor as Python passes it: first element, bytes from there to its last element, and strides of (N, A, H, W) or,
// for what has no channels, of (N, 0, H, W); the sizes are those of the pixels.
struct Array {
  void* data;
  i64 bytes, height, width;
  i64 stride[4];

  Buffer buffer() const { return checked(data, bytes); }
  fastuda::cuda::PixelBuffer pixels() const {
    return {buffer(), {static_cast<u32>(height), static_cast<u32>(width), stride[0], stride[2], stride[3]}};
  }
};

struct Options {
  i64 seed, type, label_bytes, pixels, channels, classes, ignore_index, multiprocessors, shared_limit;
  i64 normalize, wide_statistics, budget;  // budget: bytes of scratch for what comes in groups, or 0
  double temperature;

  fastuda::cuda::Card card() const { return {static_cast<int>(multiprocessors), static_cast<int>(shared_limit)}; }
};

// Runs a plan; returns the fault that the emulation found, or an empty text.
template <class Run>
const char* guarded(const Options& o, const Run& run) {
  static std::string fault;
  fault.clear();
  emulation::reset(static_cast<uint64_t>(o.seed));
  try {
    run();
  } catch (const std::exception& error) {
    fault = error.what();
  }
  finish();
  if (fault.empty() && emulation::machine.largest_shared > o.shared_limit) fault = "more shared memory than the card has";
  return fault.c_str();
}

// Scratch of exactly this size, as aligned as CUDA's, filled with 0xff, which is NaN.
class Scratch {
 public:
  explicit Scratch(i64 bytes) : bytes_(bytes) {
    if (posix_memalign(&data_, 256, static_cast<size_t>(bytes ? bytes : 1))) throw std::bad_alloc();
    std::memset(data_, 0xff, static_cast<size_t>(bytes));
  }
  Scratch(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  Buffer buffer() const { return {data_, bytes_}; }

 private:
  i64 bytes_;
  void* data_ = nullptr;
};

}  // namespace entry

extern "C" inline __attribute__((used)) int largest_shared() { return emulation::machine.largest_shared; }
