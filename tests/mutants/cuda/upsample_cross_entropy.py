"""Planted faults in the CUDA C++ kernels of upsample_cross_entropy; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

UPSAMPLE_CELLS = "cuda/upsample_cells.h"
SOURCE = "cuda/upsample_cross_entropy.cu"

FAULTS = [
    Fault("upsample_cross_entropy", "cells begin half a pixel early", UPSAMPLE_CELLS, "$size * (2 * $c + 1)", "$size * (2 * $c)"),
    Fault("upsample_cross_entropy", "cells begin a pixel early", UPSAMPLE_CELLS, "($numerator - 1) / $denominator + 1", "$numerator / $denominator"),
    Fault("upsample_cross_entropy", "every part from the first row", UPSAMPLE_CELLS, "$row_begin = $begin + $part_ * $rows < $end ? $begin + $part_ * $rows : $end;", "$row_begin = $begin;"),
    Fault("upsample_cross_entropy", "the first columns again", UPSAMPLE_CELLS, "$column_begin + $columns * kCellThreads + $t;", "$column_begin + $t;"),
    Fault("upsample_cross_entropy", "left nodes only", UPSAMPLE_CELLS, "$top_left + $along_ * (top_right - $top_left)", "$top_left", quick=True),
    Fault("upsample_cross_entropy", "the last score for the largest", UPSAMPLE_CELLS, "$most[$r] = z > $most[$r] ? z : $most[$r];", "$most[$r] = z;"),
    Fault("upsample_cross_entropy", "all of it to the upper row", UPSAMPLE_CELLS, "$to[0] = $sum - $weighted;", "$to[0] = $sum;"),
    Fault("upsample_cross_entropy", "rows the wrong way round", UPSAMPLE_CELLS, "($strip * 2 + $which % 2)", "($strip * 2 + 1 - $which % 2)"),
    Fault("upsample_cross_entropy", "cells below only", UPSAMPLE_CELLS, "moment < 2 && moment <= y", "moment < 1 && moment <= y"),
    Fault("upsample_cross_entropy", "more nodes than there is room for", UPSAMPLE_CELLS, "std::min<$i64>($source, kCellThreads)", "$source"),
    Fault("upsample_cross_entropy", "one warp's sum", UPSAMPLE_CELLS, "$w < kThreads / kWarp; ++$w", "$w < 1; ++$w"),
    Fault("upsample_cross_entropy", "the first label's logits for all", SOURCE, "if ($label != $before)", "if ($before < 0)"),
    Fault("upsample_cross_entropy", "rows below the cell", SOURCE, "const bool $inside = $block.inside && $block.row + r < $block.row_end;", "const bool $inside = $block.inside;"),
    Fault("upsample_cross_entropy", "a map of columns outside", SOURCE, "if ($p.with_map && $block.inside && $block.row", "if ($p.with_map && $block.row"),
    Fault("upsample_cross_entropy", "ignored pixels in the gradient", SOURCE, "$slope = $rows.label[$r] < 0 ? Acc(0) : $slope;", ";"),
    Fault("upsample_cross_entropy", "no label in the gradient", SOURCE, "if ($rows.label[$r] == $k) $part -= $rows.wanted[$r];", ""),
    Fault("upsample_cross_entropy", "divisor of the loss", UPSAMPLE_CELLS, "$sums + blockIdx.x * $blocks;", "$sums;"),
    Fault("upsample_cross_entropy", "strides of weights", SOURCE, "at<Acc>($k * $weight_stride)", "at<Acc>($k)"),
]  # fmt: skip
