#include "cuda/pixel_mean.cu"

#include "entry.h"

// normalize: whether means are wanted. facts: launches, blocks of the first one.
extern "C" const char* pixel_mean(
    const entry::Options& o, const entry::Array& losses, const entry::Array& others, const entry::Array& labels,
    const entry::Array& value, const entry::Array& other_value, const entry::Array& divisor, int* facts) {
  return entry::guarded(o, [&] {
    const auto if_any = [](const entry::Array& a) {
      return a.data ? a.pixels() : fastuda::cuda::PixelBuffer{};
    };
    const fastuda::cuda::MeanProblem p{
        static_cast<fastuda::cuda::Type>(o.type) == fastuda::cuda::Type::float64, losses.pixels(), if_any(others),
        labels.pixels(), static_cast<int>(o.label_bytes), static_cast<int>(o.classes), o.ignore_index,
        static_cast<fastuda::cuda::u32>(o.pixels), o.normalize != 0};
    const entry::Scratch scratch(p.scratch());
    // As the operator does, without a place for the second result where there is one loss.
    const fastuda::cuda::Buffer second = other_value.bytes ? other_value.buffer() : fastuda::cuda::Buffer{};
    fastuda::cuda::run_pixel_mean(p, scratch.buffer(), {value.buffer(), second, divisor.buffer()}, nullptr);
    facts[0] = emulation::machine.launches;
    facts[1] = static_cast<int>(p.blocks());
  });
}
