// What the parts of the stand-in driver share: the card that is imitated, its kernels, and the record of what happened.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#define FAKE_CARD_EXPORT extern "C" __attribute__((visibility("default")))

namespace fake_card {

constexpr int MOST_DEVICES = 2;
constexpr int REGISTERS = 65536;  // of a multiprocessor and of a block, on every card that is imitated
constexpr int SHARED_WITHOUT_OPT_IN = 49152;
constexpr int SHARED_RESERVED = 1024;  // bytes that the system takes of each block

struct Card {
  const char* name;
  int major, minor;
  int multiprocessors;
  int threads;        // resident in a multiprocessor
  int blocks;         // resident in a multiprocessor
  int shared_optin;   // bytes of a block at most
  int shared;         // bytes of a multiprocessor
  size_t memory;      // bytes
  int l2;             // bytes
};

// The card that FAKE_CARD names (h200, 1080ti, t4) and how many of them FAKE_CARD_DEVICES says; exits if either is bad.
const Card& card();
int devices();

struct Parameter {
  uint16_t offset, size;
};

// registers == 0: nothing is recorded about the kernel (PyTorch's own kernels).
struct Kernel {
  std::string name;
  int registers = 0;
  int static_shared = 0;
  int most_threads = 1024;
  int dynamic_shared = SHARED_WITHOUT_OPT_IN;  // bytes that a launch may ask for
  int device = -1;                             // of the context it was loaded in; -1: any
  bool has_code = true;                        // for this card
  std::vector<Parameter> parameters;
};

// Reads the kernels of a cubin (an ELF file of CUDA) into `found`, by their mangled name.
void read_cubin(const char* data, size_t size, std::unordered_map<std::string, Kernel>& found);
// What the cubins of the folder FAKE_CARD_CUBINS say of a kernel; a kernel that is in none of them is not checked.
Kernel recorded_kernel(const std::string& name);

struct Launch {
  const char* kind;  // "cuda", "cooperative" or "triton"
  const Kernel* kernel;
  dim3 grid, block;
  size_t shared;
  const void* stream;
  void** arguments;
};

// Checks a launch against the card and the record, and returns what a real card would answer.
cudaError_t launch(const Launch&);
// Resident blocks of a kernel in one multiprocessor.
int resident_blocks(const Kernel&, int threads, size_t shared);

// --- the record, read by Python -------------------------------------------------------------------------------------
void fault(const std::string& text);
// Records the error that a real card would answer with, and returns it.
cudaError_t refuse(cudaError_t error, const std::string& text);
void record_launch(const Launch&, bool capturing);
// The host waited for the device in this function.
void record_wait(const char* function);
// The stream and device that all launches must go to, if `set`.
struct Expected {
  bool set;
  const void* stream;
  int device;
};
Expected expected();

// --- devices, memory and streams ------------------------------------------------------------------------------------
int current_device();
void set_current_device(int device);
cudaError_t set_last_error(cudaError_t error);

// No block of device memory starts at an address whose low half is below this.
constexpr size_t SMALL_NUMBERS = size_t(1) << 30;

void* allocate(size_t bytes, int device);
bool release(void* pointer);
// The device whose memory range holds the address; -1 if none does.
int device_of(const void* pointer);
// Whether the address lies in memory that is allocated.
bool is_allocated(const void* pointer);
bool is_pinned(const void* pointer);
bool block_of(const void* pointer, void** base, size_t* bytes);

// The device of a stream; -1 for a handle that was never given out.  The default streams belong to the current device.
int device_of_stream(const void* stream);
bool is_default_stream(const void* stream);
bool anything_captures();
bool captures(const void* stream);
void count_captured_launch(const void* stream);
// cudaSuccess, or the refusal of a call that must not happen while a stream captures.
cudaError_t unsafe_in_capture(const char* function);

}  // namespace fake_card
