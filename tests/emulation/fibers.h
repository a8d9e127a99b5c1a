// Threads of a CUDA grid as fibers of one CPU thread, switched only where they wait for each other.
//
// A block at a time (all blocks at once in a cooperative launch). Which runnable thread goes next is drawn from a seed, so
// that every seed is another schedule. A thread that would wait for ever is an error, never a hang: Error says who waits
// where. (A loop without any barrier or exchange in it does hang.) Stricter than the hardware on purpose: a barrier must be the same statement for all threads of the block, and
// no thread may have left the kernel before it; a warp operation must be the same statement for all lanes of its mask.
#pragma once

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

namespace emulation {

using Where = std::source_location;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Index {
  unsigned x = 1, y = 1, z = 1;
  Index(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  unsigned count() const { return x * y * z; }
  Index at(unsigned i) const { return {i % x, i / x % y, i / x / y}; }
};

enum class State { ready, block, warp, grid, done };
enum class Exchange { none, sync, shuffle, ballot };

struct Block;

struct Thread {
  Block* block = nullptr;
  Index index;
  int number = 0, lane = 0, warp = 0;
  State state = State::ready;
  Where where;
  // One warp operation: what this lane brings, whom it reads from and what it gets.
  Exchange exchange = Exchange::none;
  uint32_t mask = 0;
  uint64_t value = 0, result = 0;
  int source = 0;
  uint32_t stamp = 0;  // of memory accesses; 0 after each synchronisation
  char* stack = nullptr;
  bool started = false;
  ucontext_t context;
  jmp_buf environment;
};

struct Block {
  Index index;
  int number = 0;
  std::vector<Thread> threads;
  std::vector<int64_t> warp_epochs;
  int64_t epoch = 0;
  int waiting = 0, done = 0;
  char* shared = nullptr;
  int shared_bytes = 0;
  std::shared_ptr<void> memory;  // what memory.h keeps about the shared memory
};

inline constexpr size_t kStack = 256 * 1024;
inline constexpr int64_t kMostSwitches = 1 << 24;  // of a launch: a loop that waits for ever is an error, too

struct Machine {
  Index grid, size;  // of the running launch
  uint64_t random = 1;
  int64_t grid_epoch = 0;
  int launches = 0, largest_shared = 0;
  int64_t switches = 0;
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<Thread*> ready;
  std::vector<char*> stacks;
  size_t used_stacks = 0;
  int grid_waiting = 0, grid_total = 0;
  std::function<void()> kernel;
  std::function<void(Block&)> attach;  // memory.h prepares the shared memory of a block
  std::string failure;
  Thread* running = nullptr;
  ucontext_t context;
  jmp_buf environment;
};

inline Machine machine;

inline Thread& self() { return *machine.running; }

inline uint64_t draw() {
  machine.random ^= machine.random << 13;
  machine.random ^= machine.random >> 7;
  return machine.random ^= machine.random << 17;
}

inline std::string place(const Where& where) {
  const std::string file = where.file_name();
  return file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line());
}

// Switching by longjmp costs no system call; AddressSanitizer understands swapcontext only.
#if defined(__SANITIZE_ADDRESS__)
inline void to_machine() { swapcontext(&self().context, &machine.context); }
inline void to_thread(Thread& thread) { swapcontext(&machine.context, &thread.context); }
#else
inline void to_machine() {
  if (!_setjmp(self().environment)) _longjmp(machine.environment, 1);
}
inline void to_thread(Thread& thread) {
  if (_setjmp(machine.environment)) return;
  if (thread.started) _longjmp(thread.environment, 1);
  thread.started = true;
  setcontext(&thread.context);
}
#endif

inline void entry() {
  try {
    machine.kernel();
  } catch (const std::exception& error) {
    Thread& t = self();
    if (machine.failure.empty())
      machine.failure = std::string(error.what()) + " [block " + std::to_string(t.block->number) + ", thread " +
          std::to_string(t.number) + "]";
  }
  self().state = State::done;
  to_machine();
}

inline char* take_stack() {
  if (machine.used_stacks == machine.stacks.size()) {
    void* memory = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error("no memory for the stack of a fiber");
    mprotect(memory, 4096, PROT_NONE);
    machine.stacks.push_back(static_cast<char*>(memory));
  }
  return machine.stacks[machine.used_stacks++];
}

inline void wake(Thread& thread) {
  thread.state = State::ready;
  thread.stamp = 0;
  machine.ready.push_back(&thread);
}

// All threads of the block wait: let them go, or say what is wrong.
inline void release_block(Block& block) {
  const int total = static_cast<int>(block.threads.size());
  const Where* first = nullptr;
  for (Thread& t : block.threads) {
    if (t.state != State::block) continue;
    if (!first) first = &t.where;
    if (t.where.line() != first->line() || std::strcmp(t.where.file_name(), first->file_name()))
      throw Error("divergent barrier: threads of a block wait at " + place(*first) + " and at " + place(t.where));
  }
  if (block.done)
    throw Error(
        "divergent barrier: " + std::to_string(block.done) + " of " + std::to_string(total) +
        " threads left the kernel before " + place(*first));
  ++block.epoch;
  block.waiting = 0;
  for (Thread& t : block.threads) wake(t);
}

inline void wait_block(const Where& where) {
  Thread& t = self();
  t.state = State::block;
  t.where = where;
  Block& block = *t.block;
  if (++block.waiting + block.done == static_cast<int>(block.threads.size())) release_block(block);
  to_machine();
}

inline void wait_grid(const Where& where) {
  Thread& t = self();
  t.state = State::grid;
  t.where = where;
  if (machine.grid_total == 0) throw Error("grid_sync outside a cooperative launch at " + place(where));
  if (++machine.grid_waiting == machine.grid_total) {
    ++machine.grid_epoch;
    machine.grid_waiting = 0;
    for (auto& block : machine.blocks)
      for (Thread& other : block->threads) wake(other);
  }
  to_machine();
}

// The lanes of a warp operation, if all of them have come to it; no lane beyond the block counts.
inline bool lanes_of(Thread& t, std::vector<Thread*>& lanes) {
  Block& block = *t.block;
  const int begin = t.warp * 32, end = std::min<int>(begin + 32, static_cast<int>(block.threads.size()));
  for (int i = begin; i < end; ++i) {
    Thread& other = block.threads[i];
    if (!(t.mask >> other.lane & 1)) continue;
    if (other.state == State::done)
      throw Error("lane " + std::to_string(other.lane) + " left the kernel before " + place(t.where));
    if (other.state != State::warp || other.mask != t.mask || other.exchange != t.exchange ||
        other.where.line() != t.where.line())
      return false;
    lanes.push_back(&other);
  }
  return true;
}

inline uint64_t wait_warp(Exchange exchange, uint32_t mask, uint64_t value, int source, const Where& where) {
  Thread& t = self();
  if (!(mask >> t.lane & 1)) throw Error("a lane is not in its own mask at " + place(where));
  t.state = State::warp;
  t.where = where;
  t.exchange = exchange;
  t.mask = mask;
  t.value = value;
  t.source = source;
  std::vector<Thread*> lanes;
  if (lanes_of(t, lanes)) {
    uint32_t votes = 0;
    for (Thread* other : lanes) votes |= static_cast<uint32_t>(other->value != 0) << other->lane;
    for (Thread* other : lanes) {
      if (exchange == Exchange::ballot) other->result = votes;
      if (exchange == Exchange::shuffle) {
        Thread* from = nullptr;
        for (Thread* candidate : lanes)
          if (candidate->lane == other->source) from = candidate;
        if (!from) throw Error("a shuffle reads lane " + std::to_string(other->source) + ", absent at " + place(where));
        other->result = from->value;
      }
    }
    // Only a __syncwarp of the whole warp orders memory; shuffles and partial masks do not count.
    if (exchange == Exchange::sync && mask == 0xffffffffu) ++t.block->warp_epochs[t.warp];
    for (Thread* other : lanes) {
      const uint32_t stamp = other->stamp;
      wake(*other);
      if (exchange != Exchange::sync) other->stamp = stamp;
    }
  }
  { std::vector<Thread*>().swap(lanes); }  // nothing may be left to destroy when a launch is abandoned
  to_machine();
  return t.result;
}

inline void add_block(unsigned number, int shared_bytes) {
  auto block = std::make_unique<Block>();
  block->number = static_cast<int>(number);
  block->index = machine.grid.at(number);
  block->threads.resize(machine.size.count());
  block->warp_epochs.resize((block->threads.size() + 31) / 32);
  block->shared_bytes = shared_bytes;
  machine.attach(*block);
  for (size_t i = 0; i < block->threads.size(); ++i) {
    Thread& t = block->threads[i];
    t.block = block.get();
    t.index = machine.size.at(static_cast<unsigned>(i));
    t.number = static_cast<int>(i), t.lane = t.number % 32, t.warp = t.number / 32;
    t.stack = take_stack();
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack + 4096;
    t.context.uc_stack.ss_size = kStack - 4096;
    t.context.uc_link = nullptr;
    makecontext(&t.context, entry, 0);
    machine.ready.push_back(&t);
  }
  machine.blocks.push_back(std::move(block));
}

inline void report_deadlock() {
  std::map<std::string, int> waiting;
  for (auto& block : machine.blocks)
    for (Thread& t : block->threads)
      if (t.state != State::done) ++waiting[place(t.where)];
  if (waiting.empty()) return;
  std::string text = "deadlock:";
  for (auto& [where, count] : waiting) text += " " + std::to_string(count) + " threads wait at " + where + ";";
  throw Error(text);
}

inline Where first_place() { return machine.blocks.front()->threads.front().where; }

inline void run_blocks() {
  while (!machine.ready.empty() && machine.failure.empty()) {
    if (++machine.switches > kMostSwitches) throw Error("endless loop: thread 0 was last at " + place(first_place()));
    const size_t pick = draw() % machine.ready.size();
    std::swap(machine.ready[pick], machine.ready.back());
    machine.running = machine.ready.back();
    machine.ready.pop_back();
    to_thread(*machine.running);
    Thread& t = self();
    if (t.state != State::done) continue;
    Block& block = *t.block;
    ++block.done;
    if (machine.failure.empty() && block.waiting && block.waiting + block.done == static_cast<int>(block.threads.size()))
      release_block(block);
  }
  if (!machine.failure.empty()) throw Error(machine.failure);
  report_deadlock();
}

inline void clear() {
  machine.blocks.clear();
  machine.ready.clear();
  machine.used_stacks = 0;
  machine.grid_waiting = machine.grid_total = 0;
  machine.failure.clear();
}

// Runs a grid; throws Error for the first fault. The stacks of an abandoned launch are simply used again.
inline void run(std::function<void()> kernel, Index grid, Index size, int shared_bytes, bool cooperative) {
  struct Cleaner {
    ~Cleaner() { clear(); }
  } cleaner;
  if (size.count() < 1 || size.count() > 1024 || grid.count() < 1) throw Error("a launch of no or too many threads");
  machine.kernel = std::move(kernel);
  machine.grid = grid;
  machine.size = size;
  ++machine.launches;
  machine.switches = 0;
  machine.largest_shared = std::max(machine.largest_shared, shared_bytes);
  std::vector<unsigned> order(grid.count());
  for (unsigned i = 0; i < order.size(); ++i) std::swap(order[i] = i, order[draw() % (i + 1)]);
  if (cooperative) machine.grid_total = static_cast<int>(grid.count() * size.count());
  for (unsigned number : order) {
    add_block(number, shared_bytes);
    if (cooperative) continue;
    run_blocks();
    machine.blocks.clear();
    machine.used_stacks = 0;
  }
  if (cooperative) run_blocks();
}

}  // namespace emulation
