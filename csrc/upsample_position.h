// Where bilinear upsampling reads: fastuda/reference/_upsample.py in exact integers, on every device.
#pragma once

#include "portable.h"

namespace fastuda {

// A position between the source positions `lower` and lower + 1: numerator / denominator of the way to the upper one,
// which is less than 1.
template <class Int>
struct UpsamplePosition {
  Int lower, numerator, denominator;
};

// Output position i of `size` >= 1 over `source` >= 1 positions. Int must hold 2 * size * source.
template <class Int>
FASTUDA_SHARED UpsamplePosition<Int> upsample_position(Int i, Int size, Int source, bool align_corners) {
  Int numerator, denominator;
  if (align_corners) {
    numerator = i * (source - 1);
    denominator = size > 1 ? size - 1 : 1;
  } else {
    const Int middle = (2 * i + 1) * source;
    numerator = middle > size ? middle - size : 0;
    denominator = 2 * size;
  }
  const Int lower = numerator / denominator;
  return {lower, numerator - lower * denominator, denominator};
}

}  // namespace fastuda
