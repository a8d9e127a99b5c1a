// Streams, events, captures and graphs.
#include <time.h>

#include <cstdlib>
#include <map>
#include <set>

#include "card.h"

namespace fake_card {
namespace {

struct Stream {
  int device;
  unsigned long long capture;  // the number of the capture it takes part in, or 0
};

struct Event {
  double milliseconds;
  unsigned long long capture;
};

struct Capture {
  cudaStreamCaptureMode mode;
  size_t launches;
};

struct Graph {
  size_t nodes;
};

struct Streams {
  std::mutex mutex;
  std::set<const void*> known;
  std::map<unsigned long long, Capture> captures;
  unsigned long long next = 1;
};

// Never destroyed, as streams outlive static objects.
Streams& streams() {
  static Streams* const it = new Streams;
  return *it;
}

// The mode in which this thread checks for captures elsewhere; PyTorch's allocator relaxes it for its own calls.
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;

Stream* find(const void* handle) {
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  return s.known.count(handle) ? static_cast<Stream*>(const_cast<void*>(handle)) : nullptr;
}

cudaError_t create(cudaStream_t* stream) {
  auto* made = new Stream{current_device(), 0};
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  s.known.insert(made);
  *stream = reinterpret_cast<cudaStream_t>(made);
  return cudaSuccess;
}

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) * 1e3 + double(t.tv_nsec) * 1e-6;
}

}  // namespace

bool is_default_stream(const void* stream) { return reinterpret_cast<size_t>(stream) <= 2; }

int device_of_stream(const void* stream) {
  if (is_default_stream(stream)) return current_device();
  const Stream* found = find(stream);
  return found ? found->device : -1;
}

bool anything_captures() {
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  return !s.captures.empty();
}

bool captures(const void* stream) {
  if (is_default_stream(stream)) return false;
  const Stream* found = find(stream);
  return found && found->capture;
}

void count_captured_launch(const void* stream) {
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  const auto capture = s.captures.find(static_cast<const Stream*>(stream)->capture);
  if (capture != s.captures.end()) ++capture->second.launches;
}

cudaError_t unsafe_in_capture(const char* function) {
  if (thread_mode == cudaStreamCaptureModeRelaxed || !anything_captures()) return cudaSuccess;
  return refuse(cudaErrorStreamCaptureUnsupported, std::string(function) + " while a stream captures");
}

}  // namespace fake_card

using namespace fake_card;

FAKE_CARD_EXPORT cudaError_t cudaStreamCreate(cudaStream_t* stream) { return create(stream); }
FAKE_CARD_EXPORT cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return create(stream); }
FAKE_CARD_EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return create(stream);
}

FAKE_CARD_EXPORT cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  s.known.erase(stream);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamQuery(cudaStream_t) { return unsafe_in_capture("cudaStreamQuery"); }

FAKE_CARD_EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t) {
  record_wait("cudaStreamSynchronize");
  return unsafe_in_capture("cudaStreamSynchronize");
}

FAKE_CARD_EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const unsigned long long capture = reinterpret_cast<Event*>(event)->capture;
  // A stream that waits for work of a capture takes part in the capture from there on.
  if (Stream* found = is_default_stream(stream) ? nullptr : find(stream)) {
    std::lock_guard<std::mutex> guard(streams().mutex);
    if (streams().captures.count(capture)) found->capture = capture;
  }
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* data,
                                                   unsigned) {
  function(stream, cudaSuccess, data);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  function(data);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new Event{0, 0});
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }

FAKE_CARD_EXPORT cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete reinterpret_cast<Event*>(event);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Stream* found = is_default_stream(stream) ? nullptr : find(stream);
  *reinterpret_cast<Event*>(event) = {now(), found ? found->capture : 0};
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

FAKE_CARD_EXPORT cudaError_t cudaEventQuery(cudaEvent_t) { return unsafe_in_capture("cudaEventQuery"); }

FAKE_CARD_EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t) {
  record_wait("cudaEventSynchronize");
  return unsafe_in_capture("cudaEventSynchronize");
}

FAKE_CARD_EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t last) {
  const double passed = reinterpret_cast<Event*>(last)->milliseconds - reinterpret_cast<Event*>(first)->milliseconds;
  *milliseconds = passed > 0 ? float(passed) : 1e-4f;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = captures(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                                      unsigned long long* id, cudaGraph_t* graph,
                                                      const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                                      size_t* count) {
  static Graph unused{0};
  cudaStreamIsCapturing(stream, status);
  if (id) *id = captures(stream) ? reinterpret_cast<Stream*>(stream)->capture : 0;
  if (graph) *graph = reinterpret_cast<cudaGraph_t>(&unused);
  if (nodes) *nodes = nullptr;
  if (edges) *edges = nullptr;
  if (count) *count = 0;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (is_default_stream(stream)) return refuse(cudaErrorStreamCaptureUnsupported, "capture of a default stream");
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  reinterpret_cast<Stream*>(stream)->capture = s.next;
  s.captures[s.next++] = {mode, 0};
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!captures(stream)) return refuse(cudaErrorIllegalState, "the end of a capture that never began");
  Streams& s = streams();
  std::lock_guard<std::mutex> guard(s.mutex);
  const unsigned long long capture = reinterpret_cast<Stream*>(stream)->capture;
  *graph = reinterpret_cast<cudaGraph_t>(new Graph{s.captures[capture].launches});
  s.captures.erase(capture);
  for (const void* handle : s.known) {
    auto* member = static_cast<Stream*>(const_cast<void*>(handle));
    if (member->capture == capture) member->capture = 0;
  }
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(thread_mode, *mode);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = reinterpret_cast<Graph*>(graph)->nodes;
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph,
                                                           unsigned long long flags) {
  return cudaGraphInstantiate(made, graph, flags);
}

FAKE_CARD_EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

FAKE_CARD_EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}

FAKE_CARD_EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Graph*>(graph);
  return cudaSuccess;
}
