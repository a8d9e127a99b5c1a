"""Planted faults in the Triton kernels of aggregate_patches; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "aggregate_patches.py"

FAULTS = [
    Fault("_aggregate_rows", "the first image's scores", SOURCE, "    $scores += $image * image_stride\n", "", quick=True),
    Fault("_aggregate_rows", "the first patch again and again", SOURCE, "$scores + $last.to(tl.int64) * $patch_stride", "$scores"),
    Fault("_aggregate_rows", "the first of the listed patches", SOURCE, "$p = $start + tl.arange(0, LISTED)", "$p = tl.arange(0, LISTED)"),
    Fault("_aggregate_rows", "offsets side by side", SOURCE, "$down = tl.load($offsets + $p * $offset_patch, mask", "$down = tl.load($offsets + $p * 2, mask"),
    Fault("_aggregate_rows", "a patch's first row is left out", SOURCE, "(down <= y)", "(down < y)"),
    Fault("_aggregate_rows", "classes that there are not", SOURCE, 'x = tl.where($known, x, float("-$inf"))', "x = tl.where($known, x, 0.0)"),
    Fault("_aggregate_rows", "a class less", SOURCE, "$known = ($k < $classes)[:, None]\n    $k", "$known = ($k < $classes - 1)[:, None]\n    $k"),
    Fault("_aggregate_rows", "no softmax", SOURCE, "$share = $e * (1 / tl.sum($e, 0))[None, :]", "$share = $e"),
    Fault("_aggregate_rows", "classes side by side", SOURCE, "$k = ($k * $class_stride)[:, None]", "$k = $k[:, None]"),
    Fault("_aggregate_rows", "rows at the columns' stride", SOURCE, "$k + $top * $row_stride, $k", "$k + $top * column_stride, $k"),
]  # fmt: skip
