#include "cuda/class_thresholds.cu"

#include "entry.h"

namespace entry {

struct ThresholdOptions {
  i64 seed, type, label_bytes, pixels, classes, ignore_index, from_top, multiprocessors, resident;
  double portion;
};

}  // namespace entry

// resident: blocks that a multiprocessor holds, 0: no cooperative launches. facts: launches, blocks, bytes of scratch.
extern "C" const char* class_thresholds(
    const entry::ThresholdOptions& o, const entry::Array& confidence, const entry::Array& labels,
    const entry::Array& result, int* facts) {
  entry::Options options{};
  options.seed = o.seed;
  options.shared_limit = 48 * 1024;
  return entry::guarded(options, [&] {
    const fastuda::cuda::ThresholdProblem p{
        static_cast<fastuda::cuda::Type>(o.type), confidence.pixels(), labels.pixels(),
        static_cast<int>(o.label_bytes), static_cast<int>(o.classes), static_cast<entry::u32>(o.pixels), o.ignore_index,
        o.portion, o.from_top != 0};
    const fastuda::cuda::Card card{static_cast<int>(o.multiprocessors), 48 * 1024};
    const entry::Scratch scratch(p.scratch_bytes());
    fastuda::cuda::run_class_thresholds(
        p, card, [&](auto...) { return static_cast<int>(o.resident); }, scratch.buffer(), result.buffer(), nullptr);
    facts[0] = emulation::machine.launches;
    facts[1] = static_cast<int>(
        fastuda::cuda::ceil_div(p.pixels, fastuda::cuda::threshold_block_pixels(p, card, o.resident == 1 ? 1 : 2)));
    facts[2] = static_cast<int>(p.scratch_bytes());
  });
}
