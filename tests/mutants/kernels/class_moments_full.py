"""Planted faults in the Triton kernels of class_moments_full; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "class_moments_full.py"

FAULTS = [
    Fault("_find_pivots", "the first pixel of all", SOURCE, "$order + $begin + $r, mask=$r < $rows", "$order + $r, mask=$r < $rows"),
    Fault("_find_pivots", "pixels beyond the class", SOURCE, "$rows = tl.minimum(tl.load($starts + $label + 1) - $begin, BLOCK_R)", "$rows = BLOCK_R"),
    Fault("_find_pivots", "an infinite pivot", SOURCE, '    $pivot = tl.where(tl.abs($pivot) < float("$inf"), $pivot, 0.0)', "    $pivot = $pivot + 0.0"),
    Fault("_find_pivots", "NaN stays in the pivot of finite rows", SOURCE, 'tl.where(tl.abs($pivot) < float("$inf"), $pivot, 0.0)', 'tl.where($pivot < float("$inf"), 0.0, 0.0 * $pivot)'),
    Fault("_find_pivots", "the pivot is zero", SOURCE, "tl.store($pivots + $label.to(tl.int64) * $channels + $a, $pivot, mask", "tl.store($pivots + $label.to(tl.int64) * $channels + $a, 0.0 * $pivot, mask"),
    Fault("_find_pivots", "the pivot is the sum", SOURCE, "$pivot = tl.sum(x.to(tl.float32), 0) / tl.maximum($rows, 1)", "$pivot = tl.sum(x.to(tl.float32), 0)"),
    Fault("_find_pivots", "the pivot of another class", SOURCE, "tl.store($pivots + $label.to(tl.int64) * $channels + a", "tl.store($pivots + 0 * $label.to(tl.int64) * $channels + a"),
    Fault("_find_pivots", "the first channels only", SOURCE, "$a = tl.program_id(1) * BLOCK_A + tl.arange(0, BLOCK_A)\n    $begin", "$a = tl.program_id(1) + tl.arange(0, BLOCK_A) // 2\n    $begin"),
    Fault("_find_pivots", "no mask of the channels", SOURCE, "$pivot, mask=a < $channels)", "$pivot)"),
    Fault("_find_pivots", "channels outside are read", SOURCE, "$read = (r < $rows)[:, None] & (a < $channels)[None, :]", "$read = (r < $rows)[:, None] & (a >= 0)[None, :]"),
    Fault("_multiply_panels", "the last row is left out", SOURCE, "$end = tl.minimum($begin + $panel_rows, tl.load($starts + $label + 1))", "$end = tl.minimum($begin + $panel_rows, tl.load($starts + $label + 1) - 1)", quick=True),
    Fault("_multiply_panels", "panels overlap by a row", SOURCE, "$end = tl.minimum($begin + $panel_rows, ", "$end = tl.minimum($begin + $panel_rows + 1, "),
    Fault("_multiply_panels", "every panel is the first", SOURCE, "$begin = tl.load($starts + $label) + $index * $panel_rows", "$begin = tl.load($starts + $label)"),
    Fault("_multiply_panels", "panels that do not exist", SOURCE, "if $panel >= tl.load($panel_starts + $classes):", "if $panel > tl.load($panel_starts + $classes):"),
    Fault("_multiply_panels", "the pivot is not subtracted", SOURCE, "        return tl.trans(tl.where($read, x - $pivot[None, :], 0.0))", "        return tl.trans(tl.where($read, x, 0.0))"),
    Fault("_multiply_panels", "minus the pivot where there is no row, NCHW", SOURCE, "    return tl.where($read, x - $pivot[:, None], 0.0)", "    return x - $pivot[:, None]"),
    Fault("_multiply_panels", "the third part is lost", SOURCE, "    $total = tl.dot($a1, $b3, tl.dot($a2, $b2, tl.dot($a3, $b1)))\n", "    $total = tl.dot($a2, $b2)\n"),
    Fault("_multiply_panels", "the second parts do not meet", SOURCE, "tl.dot($a1, $b3, tl.dot($a2, $b2, tl.dot(a3, $b1)))", "tl.dot($a1, $b3, tl.dot(a3, $b1))"),
    Fault("_multiply_panels", "a part too often", SOURCE, "return tl.dot($a1, $b1, tl.dot($a1, $b2, tl.dot($a2, $b1, $total)))", "return tl.dot($a1, $b1, tl.dot($a1, $b2, tl.dot($a1, $b2, $total)))"),
    Fault("_multiply_panels", "the tile transposed", SOURCE, "return $row, $tile - $row * ($row + 1) // 2", "return $tile - $row * ($row + 1) // 2, $row"),
    Fault("_add_panels", "the last panel is left out", SOURCE, "    for $_ in range(1, $panels):\n", "    for $_ in range(1, $panels - 1):\n"),
    Fault("_add_panels", "the first partial tile again and again", SOURCE, "        $more += $tiles * (BLOCK_A * BLOCK_A)\n", ""),
    Fault("_add_panels", "partial tiles of the first class", SOURCE, "(tl.load($slots + $label).to(tl.int64) * $tiles + $tile)", "$tile"),
    Fault("_add_panels", "one tile for all", SOURCE, "$tile = $tile_row * ($tile_row + 1) // 2 + $column * STEP // BLOCK_A", "$tile = 0 * $tile_row"),
    Fault("_add_panels", "steps are tiles", SOURCE, "$tile_row = $row * STEP // BLOCK_A", "$tile_row = $row"),
    Fault("_add_panels", "the mean is not subtracted", SOURCE, "    $total -= $left[:, None] * ($right * $each)[None, :]\n", ""),
    Fault("_add_panels", "the mean is subtracted n times", SOURCE, "($right * $each)[None, :]", "$right[None, :]"),
    Fault("_add_panels", "sums of one panel", SOURCE, "    for $_ in range($panels):\n", "    for $_ in range(1):\n"),
    Fault("_add_panels", "sums of the first panel again and again", SOURCE, "        $at += channels\n", ""),
    Fault("_add_panels", "sums of the first class", SOURCE, "$at = $sums + $first.to(tl.int64) * $channels + $a", "$at = $sums + $a"),
]  # fmt: skip
