#include "cuda/triplet_consistency_loss.cu"

#include "entry.h"

namespace entry {

struct TripletOptions {
  i64 seed, type, rows, sources, channels;
  double margin;

  Options common() const {
    Options options{};
    options.seed = seed;
    options.shared_limit = 48 * 1024;
    return options;
  }
};

inline fastuda::cuda::Strided strided(const Array& a) { return {a.buffer(), a.stride[0], a.stride[1]}; }

inline fastuda::cuda::TripletProblem triplet_problem(
    const TripletOptions& o, const Array& target, const Array& source, const Array& positive, const Array& negative) {
  return {
      static_cast<fastuda::cuda::Type>(o.type), strided(target), strided(source), strided(positive),
      strided(negative), static_cast<int>(o.rows), static_cast<int>(o.sources), static_cast<int>(o.channels)};
}

}  // namespace entry

extern "C" const char* triplet_forward(
    const entry::TripletOptions& o, const entry::Array& target, const entry::Array& source,
    const entry::Array& positive, const entry::Array& negative, const entry::Array& valid, const entry::Array& loss) {
  return entry::guarded(o.common(), [&] {
    const auto p = entry::triplet_problem(o, target, source, positive, negative);
    fastuda::cuda::run_triplet_forward(p, entry::strided(valid), o.margin, loss.buffer(), nullptr);
  });
}

// Bytes of scratch of the backward pass, without any memory.
extern "C" long long triplet_scratch(const entry::TripletOptions& o) {
  const entry::Array none{};
  return fastuda::cuda::triplet_scratch(entry::triplet_problem(o, none, none, none, none));
}

// facts: launches.
extern "C" const char* triplet_backward(
    const entry::TripletOptions& o, const entry::Array& grad, const entry::Array& target, const entry::Array& source,
    const entry::Array& positive, const entry::Array& negative, const entry::Array& loss,
    const entry::Array& target_slope, const entry::Array& source_slope, int* facts) {
  return entry::guarded(o.common(), [&] {
    const auto p = entry::triplet_problem(o, target, source, positive, negative);
    const entry::Scratch scratch(fastuda::cuda::triplet_scratch(p));
    fastuda::cuda::run_triplet_backward(
        p, entry::strided(grad), entry::strided(loss), scratch.buffer(), entry::strided(target_slope),
        entry::strided(source_slope), nullptr);
    facts[0] = emulation::machine.launches;
  });
}
