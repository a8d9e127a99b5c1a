#include "cuda/lovasz_softmax.cu"

#include "entry.h"

namespace entry {

struct LovaszOptions {
  i64 seed, type, images, classes, height, width, align_corners, label_bytes, ignore_index, bins, probabilities,
      with_slope, multiprocessors, errors_at_once, shared_totals;
};

inline fastuda::cuda::LovaszProblem lovasz_problem(
    const LovaszOptions& o, const Array& logits, const Array& labels) {
  const int h = static_cast<int>(logits.height), w = static_cast<int>(logits.width);
  return {
      {logits.buffer(), static_cast<fastuda::cuda::Type>(o.type), logits.stride[0], logits.stride[1],
       logits.stride[2], logits.stride[3], static_cast<int>(o.images), static_cast<int>(o.classes), h, w},
      {static_cast<int>(o.height), h, o.align_corners != 0},
      {static_cast<int>(o.width), w, o.align_corners != 0},
      labels.pixels(), static_cast<int>(o.label_bytes), o.ignore_index, static_cast<int>(o.bins),
      o.probabilities != 0, o.with_slope != 0,
      o.errors_at_once ? o.errors_at_once : fastuda::cuda::kErrorsAtOnce, static_cast<int>(o.shared_totals)};
}

}  // namespace entry

// facts: launches, largest shared memory.
extern "C" const char* lovasz_softmax(
    const entry::LovaszOptions& o, const entry::Array& logits, const entry::Array& labels, const entry::Array& loss,
    const entry::Array& slope, long long* facts) {
  entry::Options options{};
  options.seed = o.seed;
  options.shared_limit = 48 * 1024;
  return entry::guarded(options, [&] {
    const auto p = entry::lovasz_problem(o, logits, labels);
    const fastuda::cuda::Card card{static_cast<int>(o.multiprocessors), 48 * 1024};
    const entry::Scratch scratch(fastuda::cuda::lovasz_scratch(p));
    fastuda::cuda::run_lovasz(p, card, scratch.buffer(), loss.buffer(), slope.buffer(), nullptr);
    facts[0] = emulation::machine.launches;
    facts[1] = emulation::machine.largest_shared;
  });
}

// Bytes of scratch of a problem, without any memory.
extern "C" long long lovasz_softmax_scratch(const entry::LovaszOptions& o, int h, int w) {
  entry::Array logits{};
  logits.height = h;
  logits.width = w;
  const auto p = entry::lovasz_problem(o, logits, entry::Array{});
  entry::finish();
  return fastuda::cuda::lovasz_scratch(p);
}
