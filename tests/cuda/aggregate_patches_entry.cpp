#include "cuda/aggregate_patches.cu"

#include "dense_entry.h"

// patch: (images, P, K, h, w) by its first patch's strides, with those of image and patch in `strides`. facts: blocks
// of the last launch, strips of a block, whether it counts in shared memory.
extern "C" const char* aggregate_patches(
    const entry::DenseOptions& o, const entry::Array& patch, const entry::Array& full, const entry::Array& offsets,
    const entry::Array& label, const entry::Array& confidence, const entry::Array& counts, const entry::Array& volume,
    const long long* strides, int* facts) {
  return entry::guarded_dense(o, [&] {
    using namespace fastuda::cuda;
    ScoreBuffer first = o.scores(patch, o.type), whole = full.data ? o.scores(full, o.other_type) : first;
    const AggregateProblem p{
        first, strides[0], strides[1], static_cast<int>(o.patches), o.axis(o.patch_height, patch.height),
        o.axis(o.patch_width, patch.width), offsets.buffer(),
        {offsets.stride[0], offsets.stride[1], offsets.stride[2]}, whole, o.axis(o.height, whole.height),
        o.axis(o.width, whole.width), full.data != nullptr, o.probabilities != 0, static_cast<int>(o.height),
        static_cast<int>(o.width), static_cast<int>(o.bins)};
    const AggregateResult result{label.buffer(), confidence.buffer(), counts.buffer(), volume.buffer()};
    run_aggregate_patches(p, o.card(), result, nullptr);
    const int strips = vote_strips(first.classes, first.type == Type::float64 ? 8 : 4);
    facts[0] = static_cast<int>(emulation::machine.grid.count());
    facts[1] = strips;
    facts[2] = make_counts({nullptr, 0}, first.classes * static_cast<int>(o.bins),
        static_cast<i64>(strips) * kVoteRows * first.classes * (first.type == Type::float64 ? 8 : 4),
        o.shared_limit).in_shared;
  });
}
