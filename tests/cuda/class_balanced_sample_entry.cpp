#include "cuda/class_balanced_sample.cu"

#include "entry.h"

namespace entry {

struct DrawOptions {
  i64 seed, images, pixels, label_bytes, classes, ignore_index, wanted, by_share, multiprocessors, resident;
};

inline fastuda::cuda::DrawProblem draw_problem(const DrawOptions& o, const Array& labels, const Array& seed) {
  return {
      {labels.buffer(), {1, static_cast<u32>(o.pixels), labels.stride[0], 0, labels.stride[1]}},
      static_cast<int>(o.label_bytes), static_cast<u32>(o.images), static_cast<u32>(o.pixels),
      static_cast<int>(o.classes), o.ignore_index, seed.buffer(), seed.stride[0], o.wanted, o.by_share != 0};
}

}  // namespace entry

// Bytes of scratch, without any memory.
extern "C" long long class_draw_scratch(const entry::DrawOptions& o) {
  return fastuda::cuda::DrawScratch(entry::draw_problem(o, entry::Array{}, entry::Array{}), {nullptr, 0}).bytes;
}

// resident: blocks that a multiprocessor holds, 0: no cooperative launches. facts: launches, pixels of a block.
extern "C" const char* class_draw(
    const entry::DrawOptions& o, const entry::Array& labels, const entry::Array& seed, const entry::Array& result,
    int* facts) {
  entry::Options options{};
  options.seed = o.seed;
  options.shared_limit = 48 * 1024;
  return entry::guarded(options, [&] {
    const auto p = entry::draw_problem(o, labels, seed);
    const fastuda::cuda::Card card{static_cast<int>(o.multiprocessors), 48 * 1024};
    const entry::Scratch scratch(fastuda::cuda::DrawScratch(p, {nullptr, 0}).bytes);
    fastuda::cuda::run_class_draw(
        p, card, [&](auto...) { return static_cast<int>(o.resident); }, scratch.buffer(), result.buffer(), nullptr);
    facts[0] = emulation::machine.launches;
    facts[1] = static_cast<int>(fastuda::cuda::draw_block_pixels(p, card));
  });
}
