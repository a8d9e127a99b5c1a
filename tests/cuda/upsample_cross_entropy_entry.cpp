#include "cuda/upsample_cross_entropy.cu"

#include "entry.h"

namespace entry {

struct CrossEntropyOptions {
  i64 seed, type, images, classes, height, width, align_corners, label_bytes, ignore_index, weight_bytes,
      pixel_weight_bytes, with_map, with_slope;
  double smoothing;
};

inline fastuda::cuda::CrossEntropyProblem cross_entropy_problem(
    const CrossEntropyOptions& o, const Array& logits, const Array& labels, const Array& weight,
    const Array& pixel_weight) {
  const int h = static_cast<int>(logits.height), w = static_cast<int>(logits.width);
  return {
      {logits.buffer(), static_cast<fastuda::cuda::Type>(o.type), logits.stride[0], logits.stride[1],
       logits.stride[2], logits.stride[3], static_cast<int>(o.images), static_cast<int>(o.classes), h, w},
      {static_cast<int>(o.height), h, o.align_corners != 0},
      {static_cast<int>(o.width), w, o.align_corners != 0},
      labels.pixels(), static_cast<int>(o.label_bytes), o.ignore_index, weight.buffer(), weight.stride[0],
      static_cast<int>(o.weight_bytes), pixel_weight.pixels(), static_cast<int>(o.pixel_weight_bytes), o.smoothing,
      o.with_map != 0, o.with_slope != 0};
}

}  // namespace entry

// facts: cells of a tile, tiles, parts, launches, largest shared memory, bytes of scratch.
extern "C" const char* upsample_cross_entropy(
    const entry::CrossEntropyOptions& o, const entry::Array& logits, const entry::Array& labels,
    const entry::Array& weight, const entry::Array& pixel_weight, const entry::Array& total,
    const entry::Array& losses, const entry::Array& slope, long long* facts) {
  entry::Options options{};
  options.seed = o.seed;
  options.shared_limit = 48 * 1024;
  return entry::guarded(options, [&] {
    const auto p = entry::cross_entropy_problem(o, logits, labels, weight, pixel_weight);
    const entry::Scratch scratch(p.parts({nullptr, 0}).bytes);
    fastuda::cuda::run_cross_entropy(
        p, scratch.buffer(), total.buffer(), losses.buffer(), slope.buffer(), nullptr);
    const fastuda::cuda::Cells c = p.cells();
    const long long found[] = {
        c.tile, c.tiles, c.parts, emulation::machine.launches, emulation::machine.largest_shared,
        p.parts({nullptr, 0}).bytes};
    std::memcpy(facts, found, sizeof(found));
  });
}

// Bytes of scratch of a problem, without any memory.
extern "C" long long upsample_cross_entropy_scratch(const entry::CrossEntropyOptions& o, int h, int w) {
  entry::Array logits{};
  logits.height = h;
  logits.width = w;
  const auto p = entry::cross_entropy_problem(o, logits, entry::Array{}, entry::Array{}, entry::Array{});
  entry::finish();
  return p.parts({nullptr, 0}).bytes;
}
