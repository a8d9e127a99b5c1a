// Which labels are classes, on every device.
#pragma once

#include "portable.h"

namespace fastuda {

// The class of a label; `otherwise` where the label is ignored or no class, so that no label is ever used as an index.
// It has no branch: a CPU would mispredict it at the borders of the regions of an image.
template <class Int>
FASTUDA_SHARED Int class_or(Int label, Int classes, Int ignore_index, Int otherwise) {
  const bool valid = (label >= 0) & (label < classes) & (label != ignore_index);
  return valid ? label : otherwise;
}

}  // namespace fastuda
