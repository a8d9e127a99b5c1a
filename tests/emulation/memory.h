// Memory of an emulated grid: Pointer<T> checks bounds and alignment, reports reads of what was never written, and finds
// races: two accesses to the same memory, one of them a write, by threads with no barrier between them, whichever schedule
// was run. Every granule remembers its last writer and two readers by a stamp: thread, and how many barriers it had passed.
//
// Tracked: shared memory, and global memory that the kernel may write. Input (Pointer<const T> from the host) is checked
// for bounds only. Shared memory is filled with 0xff, which is NaN, for code that goes around Pointer. With
// FASTUDA_EMULATION_RAW pointers are plain and AddressSanitizer does the checking.
#pragma once

#include <cstdlib>
#include <deque>
#include <type_traits>

#include "fibers.h"

namespace emulation {

struct Stamp {
  int block, thread, warp;
  int64_t grid_epoch, block_epoch, warp_epoch;
};

inline std::vector<Stamp> stamps;    // of the running launch
inline uint32_t first_stamp = 1;     // older ones belong to earlier launches, which are over

inline uint32_t stamp_now() {
  Thread& t = self();
  if (!t.stamp) {
    t.stamp = first_stamp + static_cast<uint32_t>(stamps.size());
    const Block& b = *t.block;
    stamps.push_back({b.number, t.number, t.warp, machine.grid_epoch, b.epoch, b.warp_epochs[t.warp]});
  }
  return t.stamp;
}

inline void new_launch() {
  first_stamp += static_cast<uint32_t>(stamps.size());
  stamps.clear();
}

// Whether an access with stamp `before` is known to be over when the running thread makes one with stamp `now`.
inline bool ordered(uint32_t before, uint32_t now) {
  if (before < first_stamp || before == now) return true;
  const Stamp &a = stamps[before - first_stamp], &b = stamps[now - first_stamp];
  if (a.grid_epoch != b.grid_epoch) return true;
  if (a.block != b.block) return false;
  return a.thread == b.thread || a.block_epoch != b.block_epoch || (a.warp == b.warp && a.warp_epoch != b.warp_epoch);
}

class Shadow {
 public:
  Shadow(const void* base, size_t bytes, size_t granule, const char* name)
      : base_(static_cast<const char*>(base)), granule_(granule), name_(name), cells_((bytes + granule - 1) / granule) {}

  void read(const void* at, size_t bytes) {
    const uint32_t now = stamp_now();
    each(at, bytes, [&](Cell& cell, size_t byte) {
      if (!cell.writer) fail("read before it was written", byte);
      if (!ordered(cell.writer, now)) fail("read while another thread writes it (race)", byte);
      if (ordered(cell.readers[0], now)) cell.readers[0] = now;
      else if (ordered(cell.readers[1], now) || same_warp(cell.readers[0], cell.readers[1])) cell.readers[1] = now;
    });
  }

  void write(const void* at, size_t bytes, bool atomic = false) {
    const uint32_t now = stamp_now();
    each(at, bytes, [&](Cell& cell, size_t byte) {
      if (!(atomic && cell.atomic) && cell.writer && !ordered(cell.writer, now))
        fail("written by two threads (race)", byte);
      if (!ordered(cell.readers[0], now) || !ordered(cell.readers[1], now))
        fail("written while another thread reads it (race)", byte);
      cell.writer = now;
      cell.atomic = atomic;
    });
  }

 private:
  struct Cell {
    uint32_t writer = 0, readers[2] = {0, 0};
    bool atomic = false;
  };

  static bool same_warp(uint32_t a, uint32_t b) {
    return stamps[a - first_stamp].warp == stamps[b - first_stamp].warp;
  }

  template <class Visit>
  void each(const void* at, size_t bytes, const Visit& visit) {
    const size_t begin = static_cast<const char*>(at) - base_;
    for (size_t g = begin / granule_; g * granule_ < begin + bytes; ++g) visit(cells_[g], g * granule_);
  }

  [[noreturn]] void fail(const char* what, size_t byte) const {
    throw Error(std::string(name_) + " memory " + what + " at byte " + std::to_string(byte));
  }

  const char* base_;
  size_t granule_;
  const char* name_;
  std::vector<Cell> cells_;
};

inline std::deque<Shadow> global_shadows;

template <class T>
class Pointer {
  using Value = std::remove_const_t<T>;

 public:
  Pointer() = default;
  Pointer(std::nullptr_t) {}
  Pointer(T* at, T* begin, T* end, Shadow* shadow) : at_(at), begin_(begin), end_(end), shadow_(shadow) {}
  operator Pointer<const T>() const { return {at_, begin_, end_, shadow_}; }
  explicit operator bool() const { return at_ != nullptr; }

  struct Element {
    const Pointer& at;
    int64_t i;
    operator Value() const { return at.template get<Value>(i); }
    const Element& operator=(const Value& value) const { return at.set(i, value), *this; }
    const Element& operator=(const Element& other) const { return *this = static_cast<Value>(other); }
    const Element& operator+=(const Value& value) const { return *this = static_cast<Value>(*this) + value; }
    const Element& operator-=(const Value& value) const { return *this = static_cast<Value>(*this) - value; }
    const Element& operator*=(const Value& value) const { return *this = static_cast<Value>(*this) * value; }
  };

  decltype(auto) operator[](int64_t i) const {
    if constexpr (std::is_const_v<T>) return get<Value>(i);
    else return Element{*this, i};
  }
  decltype(auto) operator*() const { return (*this)[0]; }
  Pointer operator+(int64_t i) const { return {at_ + i, begin_, end_, shadow_}; }
  Pointer& operator+=(int64_t i) { return at_ += i, *this; }

  template <class As>
  As get(int64_t i) const {
    const char* from = checked<As>(i);
    if (shadow_) shadow_->read(from, sizeof(As));
    As value;
    std::memcpy(&value, from, sizeof(As));
    return value;
  }

  template <class As>
  void set(int64_t i, const As& value) const {
    static_assert(!std::is_const_v<T>);
    const char* to = checked<As>(i);
    if (shadow_) shadow_->write(to, sizeof(As));
    std::memcpy(const_cast<char*>(to), &value, sizeof(As));
  }

  // An atomic: replaces the value by change(value) and returns what was there before.
  template <class Change>
  Value update(const Change& change) const {
    const char* to = checked<Value>(0);
    if (shadow_) shadow_->write(to, sizeof(Value), true);
    Value before;
    std::memcpy(&before, to, sizeof(Value));
    const Value after = change(before);
    std::memcpy(const_cast<char*>(to), &after, sizeof(Value));
    return before;
  }

 private:
  template <class As>
  const char* checked(int64_t i) const {
    // By integers: a pointer far outside must be reported too.
    const intptr_t at = reinterpret_cast<intptr_t>(at_) + i * static_cast<intptr_t>(sizeof(T));
    const intptr_t begin = reinterpret_cast<intptr_t>(begin_), end = reinterpret_cast<intptr_t>(end_);
    if (at < begin || at + static_cast<intptr_t>(sizeof(As)) > end)
      throw Error(
          "access out of bounds: byte " + std::to_string(at - begin) + " of " + std::to_string(end - begin));
    if (at % static_cast<intptr_t>(alignof(As))) throw Error("misaligned access of " + std::to_string(sizeof(As)) + " bytes");
    return reinterpret_cast<const char*>(at);
  }

  T *at_ = nullptr, *begin_ = nullptr, *end_ = nullptr;
  Shadow* shadow_ = nullptr;
};

// Shared memory of a block: fresh, poisoned and of exactly the size asked for.
struct SharedMemory {
  explicit SharedMemory(size_t size) : shadow(allocate(size), size, 2, "shared") {}
  ~SharedMemory() { std::free(bytes); }

  char* bytes = nullptr;
  Shadow shadow;

 private:
  // The shadow is made after `bytes`, so this may set it.
  char* allocate(size_t size) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, size ? size : 1)) throw Error("no memory for shared memory");
    return bytes = static_cast<char*>(std::memset(memory, 0xff, size));
  }
};

inline void attach_shared(Block& block) {
  auto memory = std::make_shared<SharedMemory>(static_cast<size_t>(block.shared_bytes));
  block.shared = memory->bytes;
  block.memory = std::move(memory);
}

template <class T>
Pointer<T> shared_memory(int64_t offset) {
  Block& block = *self().block;
  T *begin = reinterpret_cast<T*>(block.shared), *end = reinterpret_cast<T*>(block.shared + block.shared_bytes);
  return {reinterpret_cast<T*>(block.shared + offset), begin, end, &static_cast<SharedMemory*>(block.memory.get())->shadow};
}

template <class T>
Pointer<T> global_memory(void* data, int64_t bytes) {
  T *begin = static_cast<T*>(data), *end = reinterpret_cast<T*>(static_cast<char*>(data) + bytes);
  if (std::is_const_v<T>) return {begin, begin, end, nullptr};
  global_shadows.emplace_back(data, static_cast<size_t>(bytes), sizeof(T), "global");
  return {begin, begin, end, &global_shadows.back()};
}

}  // namespace emulation
