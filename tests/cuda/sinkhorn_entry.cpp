#include "cuda/sinkhorn.cu"

#include "entry.h"

namespace entry {

struct SinkhornOptions {
  i64 seed, type, double_shares, problems, rows, classes, current, iterations, multiprocessors, shared_limit, together;
  double epsilon;
};

}  // namespace entry

// plan: slots, blocks, rows of a block, launches.
extern "C" const char* sinkhorn(
    const entry::SinkhornOptions& o, const entry::Array& scores, const entry::Array& shares, const entry::Array& result,
    int* plan_out) {
  entry::Options options{};
  options.seed = o.seed;
  options.shared_limit = o.shared_limit;
  return entry::guarded(options, [&] {
    const fastuda::cuda::SinkhornProblem p{
        static_cast<fastuda::cuda::Type>(o.type), scores.buffer(), shares.buffer(), scores.stride[0], scores.stride[1],
        scores.stride[2], shares.stride[0], shares.stride[1], o.double_shares != 0, o.epsilon,
        static_cast<int>(o.problems), static_cast<int>(o.rows), static_cast<int>(o.classes),
        static_cast<int>(o.current), static_cast<int>(o.iterations)};
    if (p.problems == 0 || p.current == 0) return;
    const fastuda::cuda::Card card{static_cast<int>(o.multiprocessors), static_cast<int>(o.shared_limit)};
    const auto plan = fastuda::cuda::plan_sinkhorn(p, card, [](int, int) { return 2; });
    const entry::Scratch partials(plan.partials * 8), spreads(plan.spreads * 4);
    fastuda::cuda::run_sinkhorn(
        p, plan, o.together != 0, partials.buffer(), spreads.buffer(), result.buffer(), nullptr);
    const int facts[] = {plan.slots, plan.blocks, plan.block_rows, emulation::machine.launches};
    std::memcpy(plan_out, facts, sizeof(facts));
  });
}
