#include "cuda/class_moments_full.cu"

#include "moments_entry.h"

// How a problem would be cut, without any memory: panels, rows of one, width of a square, squares of a launch, scratch.
extern "C" void class_moments_full_plan(const entry::Options& o, long long* out) {
  const fastuda::cuda::FullPlan plan =
      fastuda::cuda::plan_full_moments(entry::moments_problem(o, entry::Array{}, entry::Array{}), o.card());
  const long long facts[] = {plan.panels, plan.panel_rows, plan.width, plan.group, plan.scratch};
  std::copy(std::begin(facts), std::end(facts), out);
}

extern "C" const char* class_moments_full(
    const entry::Options& o, const entry::Array& features, const entry::Array& labels, const entry::Array& count,
    const entry::Array& mean, const entry::Array& m2, int* plan_out) {
  return entry::guarded(o, [&] {
    const fastuda::cuda::MomentsProblem p = entry::moments_problem(o, features, labels);
    const fastuda::cuda::FullPlan plan = fastuda::cuda::plan_full_moments(
        p, o.card(), o.budget ? o.budget : fastuda::cuda::kPartialBytes);
    const int facts[] = {plan.edge, plan.squares, plan.tiles, plan.group, plan.panel_rows, plan.panels, plan.chunks};
    std::copy(std::begin(facts), std::end(facts), plan_out);
    const entry::Scratch scratch(plan.scratch);
    fastuda::cuda::run_full_moments(p, plan, scratch.buffer(), count.buffer(), mean.buffer(), m2.buffer(), nullptr);
  });
}
