#include "cuda/select_triplets.cu"

#include "entry.h"

namespace entry {

struct PartnerOptions {
  i64 seed, source_rows, target_rows, classes, modes;
};

inline fastuda::cuda::PartnerLabels partner_labels(const Array& label, const Array& mode, i64 rows) {
  return {label.buffer(), mode.buffer(), label.stride[0], mode.stride[0], static_cast<u32>(rows)};
}

inline fastuda::cuda::PartnerProblem partner_problem(
    const PartnerOptions& o, const Array& source_class, const Array& source_mode, const Array& target_class,
    const Array& target_mode, const Array& seed) {
  return {
      partner_labels(source_class, source_mode, o.source_rows),
      partner_labels(target_class, target_mode, o.target_rows), seed.buffer(), seed.stride[0],
      static_cast<int>(o.classes), static_cast<int>(o.modes)};
}

}  // namespace entry

// Bytes of scratch, without any memory.
extern "C" long long select_triplets_scratch(const entry::PartnerOptions& o) {
  const entry::Array none{};
  return fastuda::cuda::partner_scratch(entry::partner_problem(o, none, none, none, none, none));
}

// facts: launches.
extern "C" const char* select_triplets(
    const entry::PartnerOptions& o, const entry::Array& source_class, const entry::Array& source_mode,
    const entry::Array& target_class, const entry::Array& target_mode, const entry::Array& seed,
    const entry::Array& positive, const entry::Array& negative, const entry::Array& valid, int* facts) {
  entry::Options options{};
  options.seed = o.seed;
  options.shared_limit = 48 * 1024;
  return entry::guarded(options, [&] {
    const auto p = entry::partner_problem(o, source_class, source_mode, target_class, target_mode, seed);
    const entry::Scratch scratch(fastuda::cuda::partner_scratch(p));
    fastuda::cuda::run_select_triplets(
        p, scratch.buffer(), positive.buffer(), negative.buffer(), valid.buffer(), nullptr);
    facts[0] = emulation::machine.launches;
  });
}
