#include "cuda/mode_losses.cu"

#include "entry.h"

namespace entry {

struct ModeOptions {
  Options common;
  i64 per_class, double_modes, square;
  double sigma2, margin;
};

inline fastuda::cuda::ModeProblem mode_problem(
    const ModeOptions& o, const Array& features, const Array& labels, const Array& modes) {
  const Options& c = o.common;
  return {
      static_cast<fastuda::cuda::Type>(c.type), features.pixels(), labels.pixels(), features.stride[1], c.ignore_index,
      static_cast<int>(c.label_bytes), static_cast<int>(c.channels), static_cast<int>(c.classes),
      static_cast<int>(o.per_class), static_cast<u32>(c.pixels), modes.buffer(), o.double_modes != 0,
      {modes.stride[0], modes.stride[1], modes.stride[2]}};
}

}  // namespace entry

extern "C" const char* mode_losses_forward(
    const entry::ModeOptions& o, const entry::Array& features, const entry::Array& labels, const entry::Array& modes,
    const entry::Array& triplet, const entry::Array& cross_entropy, const entry::Array& own_mode,
    const entry::Array& rival, const entry::Array& weight, const entry::Array& nearest) {
  return entry::guarded(o.common, [&] {
    const fastuda::cuda::ModeResults to{
        triplet.buffer(), cross_entropy.buffer(), own_mode.buffer(), rival.buffer(), weight.buffer(), nearest.buffer()};
    fastuda::cuda::run_mode_forward(
        entry::mode_problem(o, features, labels, modes), o.sigma2, o.margin, o.square != 0, to, nullptr);
  });
}

// plan: slices, tiles, runs.
extern "C" const char* mode_losses_backward(
    const entry::ModeOptions& o, const entry::Array& features, const entry::Array& labels, const entry::Array& modes,
    const entry::Array& grad_triplet, const entry::Array& grad_cross_entropy, const entry::Array& triplet,
    const entry::Array& rival, const entry::Array& weight, const entry::Array& nearest, const entry::Array& slope,
    const entry::Array& modes_slope, int* plan_out) {
  return entry::guarded(o.common, [&] {
    const auto p = entry::mode_problem(o, features, labels, modes);
    const auto plan = fastuda::cuda::plan_mode_backward(p, o.common.card());
    const entry::Scratch partials(plan.partials * (p.type == fastuda::cuda::Type::float64 ? 8 : 4));
    fastuda::cuda::run_mode_backward(
        p, plan, {grad_triplet.pixels(), grad_cross_entropy.pixels()},
        {triplet.buffer(), {nullptr, 0}, {nullptr, 0}, rival.buffer(), weight.buffer(), nearest.buffer()}, slope.pixels(),
        slope.stride[1], partials.buffer(), modes_slope.buffer(), nullptr);
    const int facts[] = {plan.slices, plan.tiles, plan.runs};
    std::memcpy(plan_out, facts, sizeof(facts));
  });
}
