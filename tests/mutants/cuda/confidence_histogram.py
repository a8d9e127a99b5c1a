"""Planted faults in the CUDA C++ kernels of confidence_histogram; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

CELL_COUNTS = "cuda/cell_counts.h"
SOURCE = "cuda/confidence_histogram.cu"
DENSE_STRIP = "cuda/dense_strip.h"

FAULTS = [
    Fault("confidence_histogram", "bins from 1", CELL_COUNTS, "$place > 0 ? $place < $last ? $place : $last : Acc(0)", "$place > 1 ? $place < $last ? $place : $last : Acc(1)"),
    Fault("confidence_histogram", "beyond the last bin", CELL_COUNTS, "place < $last ? place : $last", "place"),
    Fault("confidence_histogram", "one bin fewer", CELL_COUNTS, "$place = $confidence * static_cast<Acc>($bins);", "$place = $confidence * last;"),
    Fault("confidence_histogram", "more than the shared memory", CELL_COUNTS, "$offset + cell_bytes($cells) <= $limit;", "$offset >= 0;"),
    Fault("confidence_histogram", "more than a block may have", CELL_COUNTS, "cell_bytes($cells) <= kCountBytes && ", ""),
    Fault("confidence_histogram", "as many blocks as wanted", CELL_COUNTS, "$wanted < $least ? $least : $wanted;", "$wanted;"),
    Fault("confidence_histogram", "no barrier before adding up", CELL_COUNTS, "shared<$u32>($offset);\n    __syncthreads();\n", "shared<$u32>($offset);\n"),
    Fault("confidence_histogram", "the leader alone", CELL_COUNTS, "static_cast<$u32>(__popc($alike))", "1u"),
    Fault("confidence_histogram", "NaN is counted", SOURCE, "static_cast<int>($p.grid.height) && x == x;", "static_cast<int>($p.grid.height);"),
    Fault("confidence_histogram", "rows after the last one", SOURCE, "$inside && $row + r < static_cast<int>($p.grid.height) && x == x;", "$inside && x == x;"),
    Fault("confidence_histogram", "threads after the last one", SOURCE, "const bool $counts = $inside && $row", "const bool $counts = $row"),
    Fault("confidence_histogram", "bins of the next class", SOURCE, "$best.label[$r] * $p.bins + $bin_of", "($best.label[$r] + 1) * $p.bins + $bin_of"),
    Fault("confidence_histogram", "strips left out", SOURCE, "$first += gridDim.x * kBinThreads", "$first += 2 * gridDim.x * kBinThreads"),
    Fault("confidence_histogram", "all blocks the same strips", SOURCE, "$u32 $first = blockIdx.x * kBinThreads;", "$u32 $first = 0;"),
    Fault("confidence_histogram", "images after the first one", SOURCE, "$image * $p.u.scores.image_stride", "0"),
    Fault("confidence_histogram", "sum of the strip above", DENSE_STRIP, "$sum[$r] += exponential(x - $most[$r]); });\n  }", "$sum[$r] += exponential($most[$r] - x); });\n  }"),
    Fault("confidence_histogram", "the reciprocal left out", DENSE_STRIP, "$confidence[$r] = 1 / $sum[$r];", "$confidence[$r] = $sum[$r];"),
    Fault("confidence_histogram", "too few score rows", DENSE_STRIP, "if ($r == 0 || $lower[$r] != $lower[$r - 1]) {", "if ($r % 4 == 0) {"),
]  # fmt: skip
