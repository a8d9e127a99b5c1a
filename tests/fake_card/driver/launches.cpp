// The checks of a launch, and the functions of the runtime that register and launch kernels.
#include <algorithm>
#include <cstring>
#include <sstream>

#include "card.h"

namespace fake_card {
namespace {

std::string describe(const Launch& l) {
  std::ostringstream out;
  out << l.kind << ' ' << l.kernel->name << " grid " << l.grid.x << 'x' << l.grid.y << 'x' << l.grid.z << " block "
      << l.block.x << 'x' << l.block.y << 'x' << l.block.z << " dynamic shared " << l.shared << " device "
      << current_device();
  return out.str();
}

cudaError_t check_sizes(const Launch& l) {
  const Kernel& kernel = *l.kernel;
  const size_t threads = size_t(l.block.x) * l.block.y * l.block.z;
  if (!l.grid.x || !l.grid.y || !l.grid.z || l.grid.x > 0x7fffffffu || l.grid.y > 65535 || l.grid.z > 65535) {
    return refuse(cudaErrorInvalidConfiguration, "grid out of range: " + describe(l));
  }
  if (!threads || threads > 1024 || l.block.z > 64 || threads > size_t(kernel.most_threads)) {
    return refuse(cudaErrorInvalidConfiguration, "block out of range: " + describe(l));
  }
  // A warp gets registers in units of 8 a thread.
  if (size_t(kernel.registers + 7) / 8 * 8 * ((threads + 31) / 32 * 32) > REGISTERS) {
    return refuse(cudaErrorLaunchOutOfResources, "too many registers: " + describe(l));
  }
  if (l.shared > size_t(kernel.dynamic_shared) || l.shared + kernel.static_shared > size_t(card().shared_optin)) {
    return refuse(cudaErrorInvalidValue, "more shared memory than the kernel was allowed: " + describe(l));
  }
  if (!strcmp(l.kind, "cooperative")) {
    const size_t room = size_t(resident_blocks(kernel, int(threads), l.shared)) * card().multiprocessors;
    if (size_t(l.grid.x) * l.grid.y * l.grid.z > room) {
      return refuse(cudaErrorCooperativeLaunchTooLarge, "not all blocks are resident at once: " + describe(l));
    }
  }
  return cudaSuccess;
}

cudaError_t check_place(const Launch& l) {
  const int device = current_device(), of_stream = device_of_stream(l.stream);
  if (of_stream != device || (l.kernel->device >= 0 && l.kernel->device != device)) {
    std::ostringstream out;
    out << "stream of device " << of_stream << ", kernel of device " << l.kernel->device << ": " << describe(l);
    return refuse(cudaErrorInvalidResourceHandle, out.str());
  }
  if (anything_captures() && !captures(l.stream)) {
    if (is_default_stream(l.stream)) {
      return refuse(cudaErrorStreamCaptureImplicit, "default stream while another captures: " + describe(l));
    }
    fault("the launch is not in the graph that is captured: " + describe(l));
  }
  const Expected want = expected();
  if (want.set && (l.stream != want.stream || device != want.device)) fault("not on the current stream: " + describe(l));
  return cudaSuccess;
}

// A word of the parameters that is an address must be memory of the launching device.  In a struct (not `alone`) a word
// can be two small numbers, or a number beside padding where half an old address is left: only an address where a
// tensor may begin, in live memory of another device, is taken for a fault there.
void check_pointer(const Launch& l, uint64_t word, bool alone) {
  constexpr uint64_t TENSOR_ALIGNMENT = 512;
  // Below 2^44 lie none of this process's maps, from 2^47 on those of no process.
  if (word < (uint64_t(1) << 44) || word >= (uint64_t(1) << 47)) return;
  if (!alone && (uint32_t(word) < SMALL_NUMBERS || word % TENSOR_ALIGNMENT)) return;
  const char* const pointer = reinterpret_cast<const char*>(word);
  const int device = device_of(pointer);
  const char* wrong = nullptr;
  if (device >= 0 && device != current_device() && is_allocated(pointer)) {
    wrong = "a pointer to memory of another device";
  } else if (alone && device < 0 && !is_pinned(pointer)) {
    wrong = "a pointer to host memory";
  } else if (alone && device >= 0 && !is_allocated(pointer) && !is_allocated(pointer - 1)) {
    // One past the end of an allocation is where an empty tensor may point.
    wrong = "a pointer to memory that is not allocated";
  }
  if (wrong) {
    std::ostringstream out;
    out << wrong << ", " << static_cast<const void*>(pointer) << ": " << describe(l);
    fault(out.str());
  }
}

void check_arguments(const Launch& l) {
  if (!l.arguments) return;
  const auto& parameters = l.kernel->parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    for (size_t offset = 0; offset + 8 <= parameters[i].size; offset += 8) {
      uint64_t word;
      memcpy(&word, static_cast<const char*>(l.arguments[i]) + offset, sizeof word);
      check_pointer(l, word, parameters[i].size == 8);
    }
  }
}

struct Registry {
  std::mutex mutex;
  std::unordered_map<const void*, Kernel*> kernels;
};

// Never destroyed: kernels are launched and forgotten until the process ends.
Registry& registry() {
  static Registry* const it = new Registry;
  return *it;
}

Kernel* registered(const void* function) {
  Registry& r = registry();
  std::lock_guard<std::mutex> guard(r.mutex);
  Kernel*& kernel = r.kernels[function];
  if (!kernel) {
    kernel = new Kernel;
    kernel->name = "a kernel that was never registered";
  }
  return kernel;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<Configuration> configurations;

cudaError_t launch_registered(const char* kind, const void* function, dim3 grid, dim3 block, size_t shared,
                              const void* stream, void** arguments) {
  return launch({kind, registered(function), grid, block, shared, stream, arguments});
}

}  // namespace

int resident_blocks(const Kernel& kernel, int threads, size_t shared) {
  const int warps = (threads + 31) / 32;
  const size_t bytes = shared + kernel.static_shared;
  if (!warps || bytes > size_t(card().shared_optin)) return 0;
  int blocks = std::min(card().blocks, card().threads / (warps * 32));
  const int registers = (kernel.registers + 7) / 8 * 8 * 32 * warps;
  if (registers) blocks = std::min(blocks, REGISTERS / registers);
  const int reserved = card().major >= 8 ? SHARED_RESERVED : 0;
  return bytes ? std::min(blocks, int(card().shared / (bytes + reserved))) : blocks;
}

cudaError_t launch(const Launch& l) {
  record_launch(l, captures(l.stream));
  if (!l.kernel->has_code) {
    return refuse(cudaErrorNoKernelImageForDevice, "the build has no code for this card: " + describe(l));
  }
  if (const cudaError_t error = check_sizes(l)) return error;
  if (const cudaError_t error = check_place(l)) return error;
  check_arguments(l);
  if (captures(l.stream)) count_captured_launch(l.stream);
  return cudaSuccess;
}

}  // namespace fake_card

using namespace fake_card;

// --- what nvcc's generated code calls ---------------------------------------------------------------------------------
FAKE_CARD_EXPORT void** __cudaRegisterFatBinary(void*) {
  static void* handle[8];
  return handle;
}
FAKE_CARD_EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
FAKE_CARD_EXPORT void __cudaUnregisterFatBinary(void**) {}
FAKE_CARD_EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
FAKE_CARD_EXPORT char __cudaInitModule(void**) { return 1; }

FAKE_CARD_EXPORT void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*,
                                             void*, int*) {
  Registry& r = registry();
  std::lock_guard<std::mutex> guard(r.mutex);
  r.kernels[host] = new Kernel(recorded_kernel(name));
}

FAKE_CARD_EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}

FAKE_CARD_EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared = last.shared;
  *static_cast<void**>(stream) = last.stream;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                                                size_t shared, cudaStream_t stream) {
  return launch_registered("cuda", kernel, grid, block, shared, stream, arguments);
}

// --- launches of the runtime ------------------------------------------------------------------------------------------
FAKE_CARD_EXPORT cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                                              size_t shared, cudaStream_t stream) {
  return launch_registered("cuda", function, grid, block, shared, stream, arguments);
}

FAKE_CARD_EXPORT cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                                                         size_t shared, cudaStream_t stream) {
  return launch_registered("cooperative", function, grid, block, shared, stream, arguments);
}

FAKE_CARD_EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                                 void** arguments) {
  const char* kind = "cuda";
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeCooperative && attribute.val.cooperative) kind = "cooperative";
  }
  return launch_registered(kind, function, config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream,
                           arguments);
}

FAKE_CARD_EXPORT cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  Kernel* kernel = registered(function);
  if (value + kernel->static_shared > card().shared_optin) {
    return refuse(cudaErrorInvalidValue, "asked for more shared memory than a block can have: " + kernel->name);
  }
  kernel->dynamic_shared = value;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const Kernel* kernel = registered(function);
  if (!kernel->has_code) {
    return refuse(cudaErrorNoKernelImageForDevice, "the build has no code for this card: " + kernel->name);
  }
  *attributes = {};
  attributes->maxThreadsPerBlock = kernel->most_threads;
  attributes->numRegs = kernel->registers;
  attributes->sharedSizeBytes = size_t(kernel->static_shared);
  attributes->maxDynamicSharedSizeBytes = kernel->dynamic_shared;
  // PyTorch's kernels stand for those of a build for this card.  Its sorts choose their sizes by this version, and a
  // build of CUDA 13 has none for cards older than 7.5.
  const int version = card().major * 10 + card().minor;
  attributes->ptxVersion = attributes->binaryVersion = kernel->registers ? version : std::max(version, 75);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function,
                                                                                    int threads, size_t shared,
                                                                                    unsigned) {
  *blocks = resident_blocks(*registered(function), threads, shared);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                                           int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared, 0);
}
