// Test only: low-resolution scores as Python (tests/cuda/dense_room.py) passes them to the kernels on dense labels.
#pragma once

#include "cuda/upsample.h"
#include "entry.h"

namespace entry {

struct DenseOptions {
  i64 seed, type, other_type, images, classes, height, width, align_corners, probabilities, balanced, double_threshold;
  i64 bins, patches, patch_height, patch_width, multiprocessors, shared_limit;
  double temperature;

  fastuda::cuda::Card card() const { return {static_cast<int>(multiprocessors), static_cast<int>(shared_limit)}; }

  fastuda::cuda::ScoreBuffer scores(const Array& a, i64 of_type) const {
    return {a.buffer(), static_cast<fastuda::cuda::Type>(of_type), a.stride[0], a.stride[1], a.stride[2], a.stride[3],
            static_cast<int>(images), static_cast<int>(classes), static_cast<int>(a.height), static_cast<int>(a.width)};
  }
  fastuda::cuda::Axis down(const Array& a) const { return axis(height, a.height); }
  fastuda::cuda::Axis along(const Array& a) const { return axis(width, a.width); }
  fastuda::cuda::Axis axis(i64 size, i64 source) const {
    return {static_cast<int>(size), static_cast<int>(source), align_corners != 0};
  }
};

template <class Run>
const char* guarded_dense(const DenseOptions& o, const Run& run) {
  Options options{};
  options.seed = o.seed;
  options.shared_limit = o.shared_limit;
  return guarded(options, run);
}

}  // namespace entry
