// Test only: what the entries of both moments share; included after the .cu file.
#pragma once

#include "entry.h"

namespace entry {

inline fastuda::cuda::MomentsProblem moments_problem(const Options& o, const Array& features, const Array& labels) {
  return {
      static_cast<fastuda::cuda::Type>(o.type), features.pixels(), labels.pixels(), features.stride[1], o.ignore_index,
      static_cast<int>(o.label_bytes), static_cast<int>(o.channels), static_cast<int>(o.classes),
      static_cast<u32>(o.pixels)};
}

}  // namespace entry
