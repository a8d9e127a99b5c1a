"""Planted faults in the Triton kernels of upsample_cross_entropy; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "upsample_cross_entropy.py"
CELLS = "_cells.py"

FAULTS = [
    Fault("_sum_losses", "the first pixel of each cell again", SOURCE, "                x = $first + $i\n", "                x = $first + 0 * $i\n"),
    Fault("_sum_losses", "powers of two", SOURCE, "$e = tl.exp2((z - $largest[None, :]) * LOG2_E)", "$e = tl.exp2(z - $largest[None, :])", quick=True),
    Fault("_sum_losses", "the own logit's lower row", SOURCE, "$start = tl.fma($down, tl.load($scores + $bottom + $left).to(tl.float32) - top_left", "$start = tl.fma($down, tl.load($scores + top + $left).to(tl.float32) - top_left"),
    Fault("_sum_losses", "sides are exchanged", CELLS, "    tl.store($to, $left, mask=$stored)\n    tl.store($to + $classes * $w, $right, mask=$stored)\n", "    tl.store($to, $right, mask=$stored)\n    tl.store($to + $classes * $w, $left, mask=$stored)\n"),
    Fault("_sum_losses", "every image is the first", CELLS, "return $image.to(tl.int64), $rest", "return $image.to(tl.int64) * 0, $rest"),
    Fault("_sum_losses", "a row of cells less", CELLS, "return $first, $last - $first + 1", "return $first, $last - $first"),
    Fault("_sum_losses", "rows of the strip above", CELLS, "$begin = tl.maximum(first_position($node, $height, $h, ALIGN), $strip * ROWS)", "$begin = first_position($node, $height, $h, ALIGN)"),
    Fault("_sum_losses", "weights from the wrong node", CELLS, "$rest = $position * ($source - 1) - $node * $denominator", "$rest = $position * ($source - 1) - ($node + 1) * $denominator"),
    Fault("_sum_losses", "classes are transposed", CELLS, "$at = (tl.minimum($k, $classes - 1) * $class_stride)[:, None]", "$at = (tl.minimum($classes - 1 - $k, $classes - 1) * $class_stride)[:, None]"),
    Fault("_sum_losses", "ignore_index is a class", CELLS, " & ($label < $classes) & ($label != $ignore_index)", " & ($label < $classes)"),
]  # fmt: skip
