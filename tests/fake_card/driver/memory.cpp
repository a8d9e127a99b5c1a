// Device memory: a range of the process's addresses for each device, whose pages exist only once something writes them.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>

#include "card.h"

namespace fake_card {
namespace {

constexpr size_t RANGE = size_t(1) << 42;
// Devices' memory starts where no library, heap or stack of the process lies, so that half an address of the host that
// was left in a struct's padding does not pass for one of a device.
constexpr size_t FIRST = size_t(1) << 45;
constexpr size_t PAGE = 4096;
constexpr size_t FOUR_GIB = size_t(1) << 32;

struct Arena {
  char* base = nullptr;
  size_t top = 0, used = 0;
  std::map<char*, size_t> blocks;
  std::multimap<size_t, char*> freed;

  explicit Arena(size_t number) {
    constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    void* p = mmap(reinterpret_cast<void*>(FIRST + number * RANGE), RANGE, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) abort();
    base = static_cast<char*>(p);
  }
  bool holds(const void* p) const { return p >= base && p < base + RANGE; }
};

struct Memory {
  std::mutex mutex;
  Arena arenas[MOST_DEVICES] = {Arena(0), Arena(1)};
  std::map<char*, size_t> pinned;
};

// Never destroyed: PyTorch frees memory until the process ends.
Memory& memory() {
  static Memory* const it = new Memory;
  return *it;
}

// Whether p is in a block of a map from first addresses to sizes.
bool inside(const std::map<char*, size_t>& blocks, const void* pointer) {
  char* const p = static_cast<char*>(const_cast<void*>(pointer));
  auto next = blocks.upper_bound(p);
  return next != blocks.begin() && p < std::prev(next)->first + std::prev(next)->second;
}

// Gives whole pages of a range back to the system; they read as zero afterwards.
void forget(char* start, size_t bytes) {
  char* const first = reinterpret_cast<char*>((reinterpret_cast<size_t>(start) + PAGE - 1) & ~(PAGE - 1));
  char* const end = reinterpret_cast<char*>(reinterpret_cast<size_t>(start + bytes) & ~(PAGE - 1));
  if (end > first) madvise(first, size_t(end - first), MADV_DONTNEED);
}

cudaError_t copy(void* to, const void* from, size_t bytes, const char* function, bool waits) {
  if (waits) {
    record_wait(function);
    if (const cudaError_t error = unsafe_in_capture(function)) return error;
  }
  memmove(to, from, bytes);
  return cudaSuccess;
}

}  // namespace

void* allocate(size_t bytes, int device) {
  Memory& m = memory();
  std::lock_guard<std::mutex> guard(m.mutex);
  Arena& a = m.arenas[device];
  bytes = std::max<size_t>(1, (bytes + 511) / 512) * 512;
  if (a.used + bytes > card().memory) return nullptr;
  // The low half of an address is never a small number, see check_pointer.
  a.top = std::max(a.top, a.top / FOUR_GIB * FOUR_GIB + SMALL_NUMBERS);
  char* p = a.base + a.top;
  const auto old = a.freed.lower_bound(bytes);
  if (old != a.freed.end() && old->first <= 2 * bytes) {
    bytes = old->first;
    p = old->second;
    a.freed.erase(old);
  } else if (a.top + bytes + PAGE > RANGE) {
    return nullptr;
  } else {
    a.top += bytes + PAGE;  // a gap, so that one past the end of a block is in no other block
  }
  a.blocks[p] = bytes;
  a.used += bytes;
  return p;
}

bool release(void* pointer) {
  const int device = device_of(pointer);
  if (device < 0) return false;
  Memory& m = memory();
  std::lock_guard<std::mutex> guard(m.mutex);
  Arena& a = m.arenas[device];
  const auto block = a.blocks.find(static_cast<char*>(pointer));
  if (block == a.blocks.end()) return false;
  forget(block->first, block->second);
  a.used -= block->second;
  a.freed.insert({block->second, block->first});
  a.blocks.erase(block);
  return true;
}

int device_of(const void* pointer) {
  for (int d = 0; d < devices(); ++d) {
    if (memory().arenas[d].holds(pointer)) return d;
  }
  return -1;
}

bool is_allocated(const void* pointer) {
  const int device = device_of(pointer);
  Memory& m = memory();
  std::lock_guard<std::mutex> guard(m.mutex);
  return device >= 0 && inside(m.arenas[device].blocks, pointer);
}

bool is_pinned(const void* pointer) {
  Memory& m = memory();
  std::lock_guard<std::mutex> guard(m.mutex);
  return inside(m.pinned, pointer);
}

bool block_of(const void* pointer, void** base, size_t* bytes) {
  if (!is_allocated(pointer)) return false;
  Memory& m = memory();
  std::lock_guard<std::mutex> guard(m.mutex);
  const auto& blocks = m.arenas[device_of(pointer)].blocks;
  const auto block = std::prev(blocks.upper_bound(static_cast<char*>(const_cast<void*>(pointer))));
  *base = block->first;
  *bytes = block->second;
  return true;
}

}  // namespace fake_card

using namespace fake_card;

FAKE_CARD_EXPORT cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  if (const cudaError_t error = unsafe_in_capture("cudaMalloc")) return error;
  *pointer = allocate(bytes, current_device());
  return *pointer ? cudaSuccess : set_last_error(cudaErrorMemoryAllocation);
}

FAKE_CARD_EXPORT cudaError_t cudaFree(void* pointer) {
  if (!pointer) return cudaSuccess;
  record_wait("cudaFree");
  if (const cudaError_t error = unsafe_in_capture("cudaFree")) return error;
  return release(pointer) ? cudaSuccess : refuse(cudaErrorInvalidValue, "cudaFree of what was not allocated");
}

FAKE_CARD_EXPORT cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) {
  *pointer = allocate(bytes, current_device());
  return *pointer ? cudaSuccess : set_last_error(cudaErrorMemoryAllocation);
}

FAKE_CARD_EXPORT cudaError_t cudaFreeAsync(void* pointer, cudaStream_t) {
  return release(pointer) ? cudaSuccess : refuse(cudaErrorInvalidValue, "cudaFreeAsync of what was not allocated");
}

FAKE_CARD_EXPORT cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = card().memory;
  *free_bytes = *total - memory().arenas[current_device()].used;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  if (const cudaError_t error = unsafe_in_capture("cudaHostAlloc")) return error;
  bytes = std::max<size_t>(bytes, 1);
  if (posix_memalign(pointer, PAGE, bytes)) return set_last_error(cudaErrorMemoryAllocation);
  std::lock_guard<std::mutex> guard(memory().mutex);
  memory().pinned[static_cast<char*>(*pointer)] = bytes;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaFreeHost(void* pointer) {
  {
    std::lock_guard<std::mutex> guard(memory().mutex);
    memory().pinned.erase(static_cast<char*>(pointer));
  }
  free(pointer);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned) {
  std::lock_guard<std::mutex> guard(memory().mutex);
  memory().pinned[static_cast<char*>(pointer)] = bytes;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaHostUnregister(void* pointer) {
  std::lock_guard<std::mutex> guard(memory().mutex);
  memory().pinned.erase(static_cast<char*>(pointer));
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return copy(to, from, bytes, "cudaMemcpy", true);
}

FAKE_CARD_EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                                             cudaStream_t stream) {
  const bool pageable = (device_of(to) < 0 && !is_pinned(to)) || (device_of(from) < 0 && !is_pinned(from));
  if (pageable && captures(stream)) {
    return refuse(cudaErrorStreamCaptureUnsupported, "a copy of pageable memory in a graph");
  }
  // A copy into pageable memory returns once it is done; one from there is staged first and does not wait.
  return copy(to, from, bytes, "cudaMemcpyAsync to pageable memory", device_of(to) < 0 && !is_pinned(to));
}

FAKE_CARD_EXPORT cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                                               size_t width, size_t height, cudaMemcpyKind, cudaStream_t) {
  for (size_t row = 0; row < height; ++row) {
    memmove(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t) {
  return copy(to, from, bytes, "cudaMemcpyPeerAsync", false);
}

FAKE_CARD_EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) {
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGetSymbolAddress(void** pointer, const void*) {
  *pointer = allocate(1 << 16, current_device());
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaMemset(void* pointer, int value, size_t bytes) {
  if (value) {
    memset(pointer, value, bytes);
    return cudaSuccess;
  }
  // Zeros of whole pages take no memory: tensors of gigabytes are cleared in no time.
  char* const start = static_cast<char*>(pointer);
  const size_t head = std::min(bytes, (PAGE - reinterpret_cast<size_t>(start) % PAGE) % PAGE);
  const size_t tail = (bytes - head) % PAGE;
  memset(start, 0, head);
  forget(start + head, bytes - head);
  memset(start + bytes - tail, 0, tail);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(pointer, value, bytes);
}

FAKE_CARD_EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const int device = device_of(pointer);
  *attributes = {};
  attributes->type = device >= 0 ? cudaMemoryTypeDevice
                                 : is_pinned(pointer) ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  attributes->device = std::max(0, device);
  attributes->devicePointer = attributes->type == cudaMemoryTypeUnregistered ? nullptr : const_cast<void*>(pointer);
  attributes->hostPointer = device >= 0 ? nullptr : const_cast<void*>(pointer);
  return cudaSuccess;
}
