// The Python module fastuda._C: build facts and nothing else. Kernels register themselves when it is loaded.

// The headers of torch 2.10 to 2.12 end in #error where pybind11 is included under the macros that keep a file to the
// stable ABI. This file calls nothing of torch, so it drops both after it has read the version.
constexpr unsigned long long kTorchTargetVersion = TORCH_TARGET_VERSION;
#undef TORCH_TARGET_VERSION
#undef TORCH_STABLE_ONLY

#include <pybind11/pybind11.h>

#include "cpu/simd.h"

namespace py = pybind11;

// setup.py names the compute capabilities that were compiled for, such as 6.1_7.0_9.0+PTX.
#ifndef FASTUDA_CUDA_CARDS
#define FASTUDA_CUDA_CARDS
#endif
#define FASTUDA_TEXT_OF(name) #name
#define FASTUDA_TEXT(macro) FASTUDA_TEXT_OF(macro)

PYBIND11_MODULE(_C, m) {
  m.def("build_facts", [] {
    py::dict facts;
    facts["compiler"] = __VERSION__;
    facts["torch_target_version"] = kTorchTargetVersion;
    facts["cpu_isa"] = fastuda::name_of(fastuda::cpu_isa());
    facts["cuda"] = FASTUDA_WITH_CUDA != 0;
    facts["cuda_cards"] = FASTUDA_TEXT(FASTUDA_CUDA_CARDS);
    return facts;
  });
}
