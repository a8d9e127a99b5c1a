#include "cuda/class_moments.cu"

#include "moments_entry.h"

extern "C" const char* class_moments(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& count,
    const entry::Array& mean, const entry::Array& m2, int* plan_out) {
  return entry::guarded(o, [&] {
    const fastuda::cuda::MomentsProblem p = entry::moments_problem(o, features, labels);
    const fastuda::cuda::MomentsPlan plan = fastuda::cuda::plan_moments(p, o.card());
    const int facts[] = {plan.width, plan.staged, plan.in_shared, plan.warps, plan.chunks, plan.slices};
    std::copy(std::begin(facts), std::end(facts), plan_out);
    const entry::Scratch partials(plan.partials * (p.type == fastuda::cuda::Type::float64 ? 8 : 4)), counts(plan.counts * 4);
    fastuda::cuda::run_moments(
        p, plan, partials.buffer(), counts.buffer(), count.buffer(), mean.buffer(), m2.buffer(), nullptr);
  });
}
