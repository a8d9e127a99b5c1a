"""Planted faults in the Triton kernels of sinkhorn; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "sinkhorn.py"

FAULTS = [
    Fault("_sweep", "the last row is left out", SOURCE, "$end = tl.minimum($begin + $at_once, $rows)", "$end = tl.minimum($begin + $at_once, $rows - 1)", quick=True),
    Fault("_sweep", "rows of all programs", SOURCE, "$begin = tl.program_id(1) * at_once", "$begin = tl.program_id(1) * 0"),
    Fault("_sweep", "the first problem's scores", SOURCE, "    $scores += $problem * $problem_stride\n    $scaling = tl.zeros", "    $scaling = tl.zeros"),
    Fault("_sweep", "the first problem's scaling", SOURCE, "        $scaling = tl.load($log_v + $problem * $classes + $k, mask", "        $scaling = tl.load($log_v + $k, mask"),
    Fault("_sweep", "rows beyond the end", SOURCE, "mask=$inside[:, None] & (k < $classes)[None, :]", "mask=(i >= 0)[:, None] & (k < $classes)[None, :]"),
    Fault("_sweep", "classes are side by side", SOURCE, "spaced($k, $class_stride)[None, :]", "spaced($k, None)[None, :]"),
    Fault("_sweep", "epsilon in float32", SOURCE, "$scale = tl.full([1, 1], $scale_high, tl.float64) + $scale_low", "$scale = tl.full([1, 1], $scale_high, tl.float64)"),
    Fault("_sweep", "exponents in float32", SOURCE, "$t = $s * $scale + $log_v[None, :]", "$t = ($s * $scale + $log_v[None, :]).to(tl.float32).to(tl.float64)"),
    Fault("_sweep", "powers stop at 2^-17", SOURCE, "(tl.maximum($n + 127, 0) << 23)", "(tl.maximum($n + 127, 110) << 23)"),
    Fault("_sweep", "rows without a class divide by 0", SOURCE, "tl.where($total == 0, 0.0, 1 / $total)", "1 / $total"),
    Fault("_scale_classes", "the first program is left out", SOURCE, "$known = (c < $programs)[:, None] & (k < $classes)[None, :]\n        at", "$known = ((c > 0) & (c < $programs))[:, None] & (k < $classes)[None, :]\n        at"),
    Fault("_scale_classes", "the first block of programs only", SOURCE, "        $mass += tl.sum($own", "        $mass = tl.sum($own"),
    Fault("_scale_classes", "the smallest of a block", SOURCE, "$largest = tl.maximum($largest, tl.max($here, 0))", "$largest = tl.maximum($largest, tl.min($here, 0))"),
    Fault("_scale_classes", "programs are not moved", SOURCE, "tl.sum($own * _power($here - $largest[None, :]).to(tl.float64), 0)", "tl.sum($own, 0)"),
    Fault("_scale_classes", "the largest is forgotten", SOURCE, "($largest.to(tl.float64) + tl.log2($mass))", "tl.log2($mass)"),
    Fault("_scale_classes", "no division by the mass", SOURCE, " - ($largest.to(tl.float64) + tl.log2($mass))", ""),
    Fault("_scale_classes", "no share", SOURCE, "$moved = tl.log2($share.to(tl.float64)) - (", "$moved = 0.0 - ("),
    Fault("_scale_classes", "rounds do not follow each other", SOURCE, "        $moved += tl.load($to, mask=k < $classes, other=0.0)\n", "        $moved += 0.0\n"),
    Fault("_scale_classes", "no mass is infinite", SOURCE, "tl.where(mass == 0, ", "tl.where(mass < 0, "),
    Fault("_scale_classes", "the first problem's shares", SOURCE, "tl.load($marginal + $problem * $marginal_stride + $k * $share_stride", "tl.load($marginal + $k * $share_stride"),
    Fault("_assign", "the first rows", SOURCE, "$i = $first + (tl.program_id(0) - $problem * $tiles).to(tl.int32) * BLOCK_N", "$i = (tl.program_id(0) - $problem * $tiles).to(tl.int32) * BLOCK_N"),
    Fault("_assign", "scores of the first problem", SOURCE, "$scores + $problem * $problem_stride, $i, $i < $rows", "$scores, $i, $i < $rows"),
    Fault("_assign", "the first problem's scaling", SOURCE, "    $scaling = tl.load($log_v + $problem * $classes + $k, mask=$k < $classes, other=0.0)\n    $i = first", "    $scaling = tl.load($log_v + $k, mask=$k < $classes, other=0.0)\n    $i = first"),
    Fault("_assign", "no scaling", SOURCE, "        $scale_high, $scale_low, $scaling,\n    )", "        $scale_high, $scale_low, 0 * $scaling,\n    )"),
    Fault("_assign", "rows without scale", SOURCE, "$share = $part * _inverse(tl.sum($part, 1))[:, None]", "$share = $part"),
    Fault("_assign", "powers are left out", SOURCE, "    $part *= _power(_over_rows($whole))\n", ""),
    Fault("_assign", "powers of the number, not of its distance", SOURCE, "_power(_over_rows($whole))", "_power(tl.minimum($whole, 0))"),
    Fault("_assign", "the last row is left out", SOURCE, "mask=(i < $rows)[:, None] & (k < $classes)[None, :])\n", "mask=(i < $rows - 1)[:, None] & (k < $classes)[None, :])\n"),
    Fault("_assign", "the result of the first problem", SOURCE, "$to = $result + ($problem * ($rows - $first) + $i - $first)", "$to = $result + ($i - $first)"),
    Fault("_assign", "the result from the first row on", SOURCE, "($problem * ($rows - $first) + $i - $first)", "($problem * ($rows - $first) + $i)"),
]  # fmt: skip
