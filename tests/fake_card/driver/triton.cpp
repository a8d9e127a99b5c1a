// The functions of libcuda.so.1 that Triton and PyTorch find by name: contexts, modules and launches.
#include <cstdio>
#include <cstring>

#include "card.h"

using namespace fake_card;

// Driver and runtime number errors and device attributes alike; 0 is success in both.
using Result = int;

namespace {

struct Context {
  int device;
};
Context contexts[MOST_DEVICES] = {{0}, {1}};

struct Module {
  int device;
  std::unordered_map<std::string, Kernel> kernels;
};

// CUlaunchConfig of cuda.h.
struct LaunchConfig {
  unsigned grid[3], block[3], shared;
  void* stream;
  const void* attributes;
  unsigned count;
};

enum { INVALID_VALUE = 1, NOT_FOUND = 500 };
enum { MAX_THREADS = 0, STATIC_SHARED = 1, LOCAL = 3, REGISTER_COUNT = 4, DYNAMIC_SHARED = 8, SHARED_MEMORY_MODE = 17 };

Result start(const char* kind, void* function, const unsigned* grid, const unsigned* block, unsigned shared,
             void* stream, void** arguments) {
  const Launch what{kind,   static_cast<Kernel*>(function),       dim3(grid[0], grid[1], grid[2]),
                    dim3(block[0], block[1], block[2]), shared, stream, arguments};
  const cudaError_t error = launch(what);
  set_last_error(cudaSuccess);  // the runtime's last error is not the driver's
  return error;
}

}  // namespace

FAKE_CARD_EXPORT Result cuInit(unsigned) { return 0; }
FAKE_CARD_EXPORT Result cuDriverGetVersion(int* version) { return cudaDriverGetVersion(version); }
FAKE_CARD_EXPORT Result cuDeviceGetCount(int* count) { return cudaGetDeviceCount(count); }
FAKE_CARD_EXPORT Result cuDeviceGet(int* device, int number) {
  *device = number;
  return number < devices() ? 0 : INVALID_VALUE;
}
FAKE_CARD_EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  return cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device);
}
FAKE_CARD_EXPORT Result cuDeviceGetUuid(void* uuid, int device) {
  memset(uuid, device + 1, 16);
  return 0;
}

FAKE_CARD_EXPORT Result cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &contexts[device];
  return 0;
}
FAKE_CARD_EXPORT Result cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  if (flags) *flags = 0;
  *active = 1;
  return 0;
}
FAKE_CARD_EXPORT Result cuCtxGetCurrent(void** context) {
  *context = &contexts[current_device()];
  return 0;
}
FAKE_CARD_EXPORT Result cuCtxSetCurrent(void* context) {
  if (context) set_current_device(static_cast<Context*>(context)->device);
  return 0;
}
FAKE_CARD_EXPORT Result cuCtxPushCurrent(void* context) { return cuCtxSetCurrent(context); }
FAKE_CARD_EXPORT Result cuCtxPopCurrent(void** context) { return cuCtxGetCurrent(context); }
FAKE_CARD_EXPORT Result cuCtxGetDevice(int* device) {
  *device = current_device();
  return 0;
}
FAKE_CARD_EXPORT Result cuCtxGetLimit(size_t* value, int) {
  *value = 0;
  return 0;
}
FAKE_CARD_EXPORT Result cuCtxSetLimit(int, size_t) { return 0; }

FAKE_CARD_EXPORT Result cuGetErrorString(Result, const char** text) {
  *text = "refused by the stand-in driver, see its record";
  return 0;
}
FAKE_CARD_EXPORT Result cuGetErrorName(Result, const char** text) {
  *text = "CUDA_ERROR_OF_THE_STAND_IN";
  return 0;
}

// The loader stops reading where the ELF file says that its headers end, so the size need not be given.
FAKE_CARD_EXPORT Result cuModuleLoadData(void** module, const void* image) {
  if (const cudaError_t error = unsafe_in_capture("cuModuleLoadData")) return error;
  auto* made = new Module{current_device(), {}};
  read_cubin(static_cast<const char*>(image), SIZE_MAX, made->kernels);
  *module = made;
  return 0;
}
FAKE_CARD_EXPORT Result cuModuleUnload(void*) { return 0; }

FAKE_CARD_EXPORT Result cuModuleGetFunction(void** function, void* module, const char* name) {
  auto& kernels = static_cast<Module*>(module)->kernels;
  const auto found = kernels.find(name);
  if (found == kernels.end()) return NOT_FOUND;
  auto* kernel = new Kernel(found->second);
  kernel->device = static_cast<Module*>(module)->device;
  *function = kernel;
  return 0;
}

FAKE_CARD_EXPORT Result cuFuncGetAttribute(int* value, int attribute, void* function) {
  const auto* kernel = static_cast<Kernel*>(function);
  switch (attribute) {
    case MAX_THREADS: *value = kernel->most_threads; break;
    case STATIC_SHARED: *value = kernel->static_shared; break;
    case REGISTER_COUNT: *value = kernel->registers; break;
    case DYNAMIC_SHARED: *value = kernel->dynamic_shared; break;
    default: *value = 0;
  }
  return 0;
}

FAKE_CARD_EXPORT Result cuFuncSetAttribute(void* function, int attribute, int value) {
  auto* kernel = static_cast<Kernel*>(function);
  // Drivers older than the mode for oversized shared memory refuse it, and Triton then asks for a size.
  if (attribute == SHARED_MEMORY_MODE) return INVALID_VALUE;
  if (attribute != DYNAMIC_SHARED) return 0;
  if (value + kernel->static_shared > card().shared_optin) {
    fault("asked for more shared memory than a block can have: " + kernel->name);
    return INVALID_VALUE;
  }
  kernel->dynamic_shared = value;
  return 0;
}
FAKE_CARD_EXPORT Result cuFuncSetCacheConfig(void*, int) { return 0; }

FAKE_CARD_EXPORT Result cuLaunchKernelEx(const LaunchConfig* config, void* function, void** arguments, void**) {
  return start("triton", function, config->grid, config->block, config->shared, config->stream, arguments);
}

FAKE_CARD_EXPORT Result cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                       unsigned bz, unsigned shared, void* stream, void** arguments, void**) {
  const unsigned grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
  return start("triton", function, grid, block, shared, stream, arguments);
}

FAKE_CARD_EXPORT Result cuPointerGetAttribute(void* value, int attribute, unsigned long long pointer) {
  constexpr int DEVICE_POINTER = 3;
  const int device = device_of(reinterpret_cast<void*>(pointer));
  if (attribute == DEVICE_POINTER) *static_cast<unsigned long long*>(value) = pointer;
  return device >= 0 || is_pinned(reinterpret_cast<void*>(pointer)) ? 0 : INVALID_VALUE;
}

FAKE_CARD_EXPORT Result cuMemGetAddressRange_v2(unsigned long long* base, size_t* bytes, unsigned long long pointer) {
  void* start_of_block;
  if (!block_of(reinterpret_cast<void*>(pointer), &start_of_block, bytes)) return INVALID_VALUE;
  *base = reinterpret_cast<unsigned long long>(start_of_block);
  return 0;
}
FAKE_CARD_EXPORT Result cuMemGetAddressRange(unsigned long long* base, size_t* bytes, unsigned long long pointer) {
  return cuMemGetAddressRange_v2(base, bytes, pointer);
}

FAKE_CARD_EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads,
                                                                    size_t shared) {
  *blocks = resident_blocks(*static_cast<Kernel*>(function), threads, shared);
  return 0;
}
FAKE_CARD_EXPORT Result cuOccupancyMaxActiveClusters(int* clusters, void*, const void*) {
  *clusters = 1;
  return 0;
}

// Found by name when the libraries are loaded; nothing here calls them.
FAKE_CARD_EXPORT Result cuTensorMapEncodeTiled() { return NOT_FOUND; }
FAKE_CARD_EXPORT Result cuTensorMapEncodeIm2col() { return NOT_FOUND; }
FAKE_CARD_EXPORT Result cuLaunchCooperativeKernel() { return NOT_FOUND; }
FAKE_CARD_EXPORT Result cuLinkAddData_v2() { return NOT_FOUND; }
