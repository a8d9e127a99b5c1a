"""Planted faults in the CUDA C++ kernels of confusion_matrix; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

CELL_COUNTS = "cuda/cell_counts.h"
SOURCE = "cuda/confusion_matrix.cu"

FAULTS = [
    Fault("confusion_matrix", "halves swapped", CELL_COUNTS, "$cell % 2 ? $times << 16 : $times", "$cell % 2 ? $times : $times << 16", quick=True),
    Fault("confusion_matrix", "counts not cleared", CELL_COUNTS, "$i += blockDim.x) $own[$i] = 0;", "$i += 2 * blockDim.x) $own[$i] = 0;"),
    Fault("confusion_matrix", "no barrier before adding up", CELL_COUNTS, "shared<$u32>($offset);\n    __syncthreads();\n", "shared<$u32>($offset);\n"),
    Fault("confusion_matrix", "the last odd cell", CELL_COUNTS, "cell_bytes($i64 $cells) { return ($cells + 1) / 2 * 4; }", "cell_bytes($i64 $cells) { return $cells / 2 * 4; }"),
    Fault("confusion_matrix", "high halves left out", CELL_COUNTS, "if (high) ", "if (low && high) "),
    Fault("confusion_matrix", "the leader alone", CELL_COUNTS, "static_cast<$u32>(__popc($alike))", "1u"),
    Fault("confusion_matrix", "others' cells as the leader's", CELL_COUNTS, "if ($cell != $first) put($cell, 1);", "if ($cell != $first) put($first < 0 ? $cell : $first, 1);"),
    Fault("confusion_matrix", "more counts than half a word", CELL_COUNTS, "kMostBlockCounts = 65535;", "kMostBlockCounts = 1 << 24;"),
    Fault("confusion_matrix", "totals not cleared", CELL_COUNTS, "$cells; $i += gridDim.x * kThreads) $total[$i] = 0;", "$cells - 1; $i += gridDim.x * kThreads) $total[$i] = 0;"),
    Fault("confusion_matrix", "beyond the classes", SOURCE, "$label >= 0 && $label < $classes ?", "$label >= 0 && $label <= $classes ?"),
    Fault("confusion_matrix", "cut to 32 bits", SOURCE, "const $i64 $label = $labels.at[$i];", "const int $label = static_cast<int>($labels.at[$i]);"),
    Fault("confusion_matrix", "quads beyond the end", SOURCE, "$quads && $pixel + kPairRun <= $pixels", "$quads && $pixel < $pixels"),
    Fault("confusion_matrix", "transposed", SOURCE, "$truth[$i] * $p.truth.classes + $prediction[$i]", "$prediction[$i] * $p.truth.classes + $truth[$i]"),
    Fault("confusion_matrix", "truth alone", SOURCE, "$truth[$i] >= 0 && $prediction[$i] >= 0;", "$truth[$i] >= 0;"),
    Fault("confusion_matrix", "one image for all", SOURCE, "$g.image_stride == static_cast<$i64>($g.height) * $row);", "true);"),
    Fault("confusion_matrix", "rows without gaps", SOURCE, "($g.height == 1 || $g.row_stride == $row)", "true"),
    Fault("confusion_matrix", "quads of what is far apart", SOURCE, "$at.grid.width == $pixels && $at.grid.column_stride == 1 &&", "$at.grid.width == $pixels &&"),
    Fault("confusion_matrix", "quads of any address", SOURCE, "% static_cast<$u32>(kPairRun * $bytes) == 0;", "% static_cast<$u32>($bytes) == 0;"),
]  # fmt: skip
