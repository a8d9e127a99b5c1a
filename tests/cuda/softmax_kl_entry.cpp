#include "cuda/softmax_kl.cu"

#include "entry.h"

namespace entry {

struct KlOptions {
  i64 seed, type, images, classes, symmetric;
  double temperature;
};

inline fastuda::cuda::ScoreBuffer kl_scores(const KlOptions& o, const Array& a) {
  return {a.buffer(), static_cast<fastuda::cuda::Type>(o.type), a.stride[0], a.stride[1], a.stride[2], a.stride[3],
          static_cast<int>(o.images), static_cast<int>(o.classes), static_cast<int>(a.height),
          static_cast<int>(a.width)};
}
inline fastuda::cuda::PixelBuffer if_any(const Array& a) {
  return a.data ? a.pixels() : fastuda::cuda::PixelBuffer{};
}

}  // namespace entry

// Forward where there is no gradient to go on from.
extern "C" const char* softmax_kl(
    const entry::KlOptions& o, const entry::Array& logits, const entry::Array& other, const entry::Array& mask,
    const entry::Array& grad, const entry::Array& loss, const entry::Array& slope, const entry::Array& other_slope) {
  entry::Options options{};
  options.seed = o.seed;
  return entry::guarded(options, [&] {
    const fastuda::cuda::KlProblem p{
        {{entry::kl_scores(o, logits), entry::if_any(slope), slope.stride[1]},
         {entry::kl_scores(o, other), entry::if_any(other_slope), other_slope.stride[1]}},
        entry::if_any(mask), entry::if_any(grad), loss.buffer(), o.temperature, o.symmetric != 0};
    fastuda::cuda::run_softmax_kl(p, nullptr);
  });
}
