// How an operator runs: in the type of its sums, on all threads, as code for this machine's instruction set.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "cpu/simd.h"

namespace fastuda {

// Calls run.operator()<Acc>() with the type of the sums over numbers of a type.
template <class Run>
auto with_sums(torch::headeronly::ScalarType type, const Run& run) {
  if (type == torch::headeronly::ScalarType::Double) return run.template operator()<double>();
  return run.template operator()<float>();
}

// Calls body(begin, end) on all threads for ranges of [0, count) of at least `grain` items, as code for `isa`.
template <class Acc, Isa isa, class Body>
void parallel_on(int64_t count, int64_t grain, const Body& body) {
  torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    on_isa<Acc, isa>([&]() FASTUDA_INLINED { body(begin, end); });
  });
}

// Calls body.operator()<isa>(begin, end) in the same way, with the instruction set of this machine.
template <class Acc, class Body>
void parallel(int64_t count, int64_t grain, const Body& body) {
  with_isa<Acc>([&]<Isa isa>() {
    parallel_on<Acc, isa>(count, grain, [&](int64_t begin, int64_t end) FASTUDA_INLINED {
      body.template operator()<isa>(begin, end);
    });
  });
}

}  // namespace fastuda
