// The Python module fastuda._C: build facts and nothing else. Kernels register themselves when it is loaded.
#include <pybind11/pybind11.h>

#include "common/simd.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.def("build_facts", [] {
    py::dict facts;
    facts["compiler"] = __VERSION__;
    facts["torch_target_version"] = TORCH_TARGET_VERSION;
    facts["cpu_isa"] = fastuda::name_of(fastuda::cpu_isa());
    facts["cuda"] = FASTUDA_WITH_CUDA != 0;
    return facts;
  });
}
