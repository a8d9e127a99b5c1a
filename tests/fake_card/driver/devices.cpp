// The cards that are imitated, their properties, and the functions of the runtime about devices and errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "card.h"

namespace fake_card {
namespace {

// Figures of the cards' data sheets and of CUDA's table of technical specifications.
constexpr Card CARDS[] = {
    {"NVIDIA H200", 9, 0, 132, 2048, 32, 232448, 233472, size_t(139) << 30, 50 << 20},
    {"NVIDIA GeForce GTX 1080 Ti", 6, 1, 28, 2048, 32, 49152, 98304, size_t(11) << 30, 2816 << 10},
    {"Tesla T4", 7, 5, 40, 1024, 16, 65536, 65536, size_t(15) << 30, 4 << 20},
};
constexpr const char* NAMES[] = {"h200", "1080ti", "t4"};

thread_local int device = 0;
thread_local cudaError_t last_error = cudaSuccess;

[[noreturn]] void leave(const char* text) {
  fprintf(stderr, "fake card: %s\n", text);
  exit(2);
}

const Card& choose_card() {
  const char* wanted = getenv("FAKE_CARD");
  for (size_t i = 0; i < sizeof CARDS / sizeof *CARDS; ++i) {
    if (!strcmp(wanted ? wanted : NAMES[0], NAMES[i])) return CARDS[i];
  }
  leave("FAKE_CARD must be h200, 1080ti or t4");
}

int choose_devices() {
  const char* wanted = getenv("FAKE_CARD_DEVICES");
  const int count = wanted ? atoi(wanted) : 1;
  if (count < 1 || count > MOST_DEVICES) leave("FAKE_CARD_DEVICES must be 1 or 2");
  return count;
}

void fill(cudaDeviceProp* p) {
  const Card& c = card();
  *p = {};
  snprintf(p->name, sizeof p->name, "%s", c.name);
  p->major = c.major;
  p->minor = c.minor;
  p->totalGlobalMem = c.memory;
  p->multiProcessorCount = c.multiprocessors;
  p->sharedMemPerBlock = SHARED_WITHOUT_OPT_IN;
  p->sharedMemPerBlockOptin = c.shared_optin;
  p->sharedMemPerMultiprocessor = c.shared;
  p->reservedSharedMemPerBlock = c.major >= 8 ? SHARED_RESERVED : 0;
  p->regsPerBlock = p->regsPerMultiprocessor = REGISTERS;
  p->warpSize = 32;
  p->maxThreadsPerBlock = 1024;
  p->maxThreadsPerMultiProcessor = c.threads;
  p->maxBlocksPerMultiProcessor = c.blocks;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 0x7fffffff;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->l2CacheSize = c.l2;
  p->textureAlignment = 512;
  p->concurrentKernels = p->cooperativeLaunch = p->unifiedAddressing = 1;
}

}  // namespace

const Card& card() {
  static const Card& it = choose_card();
  return it;
}

int devices() {
  static const int count = choose_devices();
  return count;
}

int current_device() { return device; }
void set_current_device(int wanted) { device = wanted; }

cudaError_t set_last_error(cudaError_t error) { return last_error = error; }

}  // namespace fake_card

using namespace fake_card;

FAKE_CARD_EXPORT cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGetDevice(int* wanted) {
  *wanted = current_device();
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaSetDevice(int wanted) {
  if (wanted < 0 || wanted >= devices()) return refuse(cudaErrorInvalidDevice, "cudaSetDevice: no such device");
  set_current_device(wanted);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  fill(properties);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGetDeviceProperties_v2(cudaDeviceProp* properties, int) {
  fill(properties);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  cudaDeviceProp p;
  fill(&p);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = p.maxThreadsDim[0]; break;
    case cudaDevAttrMaxBlockDimZ: *value = p.maxThreadsDim[2]; break;
    case cudaDevAttrMaxGridDimX: *value = p.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = p.maxGridSize[1]; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = p.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = p.maxBlocksPerMultiProcessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = int(p.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = int(p.reservedSharedMemPerBlock); break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = REGISTERS; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaDeviceSynchronize() {
  record_wait("cudaDeviceSynchronize");
  return unsafe_in_capture("cudaDeviceSynchronize");
}

FAKE_CARD_EXPORT cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }

FAKE_CARD_EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int wanted) {
  snprintf(text, size_t(size), "0000:%02x:00.0", wanted + 1);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

FAKE_CARD_EXPORT cudaError_t cudaPeekAtLastError() { return last_error; }
FAKE_CARD_EXPORT const char* cudaGetErrorString(cudaError_t) { return "refused by the stand-in driver, see its record"; }
FAKE_CARD_EXPORT const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOfTheStandIn"; }
FAKE_CARD_EXPORT cudaError_t cudaProfilerStart() { return cudaSuccess; }
FAKE_CARD_EXPORT cudaError_t cudaProfilerStop() { return cudaSuccess; }

FAKE_CARD_EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned,
                                                              unsigned long long,
                                                              cudaDriverEntryPointQueryResult* result) {
  *function = nullptr;
  if (result) *result = cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
