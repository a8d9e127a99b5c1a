"""Planted faults in the Triton kernels of class_thresholds; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "class_thresholds.py"

FAULTS = [
    Fault("_count_keys", "the digit after", SOURCE, "$below = tl.cumsum($number, 1) <= $rank[:, None]", "$below = tl.cumsum($number, 1) < $rank[:, None]", quick=True),
    Fault("_count_keys", "all ranks stay", SOURCE, "$rank - tl.sum(tl.where($below, $number, 0), 1)", "$rank"),
    Fault("_count_keys", "the digit a bit too low", SOURCE, "return $key | (digit << _shift($i - 1, WIDTH))", "return $key | (digit << _shift($i, WIDTH))"),
    Fault("_count_keys", "earlier digits are lost", SOURCE, "return $key | ($digit", "return 0 * $key | ($digit"),
    Fault("_count_keys", "rounded up from the top", SOURCE, "$rank = $size - tl.maximum(tl.floor($part)", "$rank = $size - tl.maximum(tl.ceil($part)"),
    Fault("_count_keys", "the last digit does not end at 0", SOURCE, "return tl.maximum(32 - ($i + 1) * WIDTH, 0)", "return 32 - ($i + 1) * WIDTH"),
    Fault("_count_keys", "the rank is not handed on", SOURCE, "            tl.store($to + BLOCK_K, $rank)\n", "            tl.store($to + BLOCK_K, $rank * 0)\n"),
    Fault("_count_keys", "the last pixel of a program", SOURCE, "$end = tl.minimum(($program + 1) * $per_program, $pixels)", "$end = tl.minimum(($program + 1) * $per_program, $pixels) - 1"),
    Fault("_count_keys", "strides of the labels", SOURCE, "$confidence + locate($p, $cd1, $cd2, $cs0, $cs1, $cs2)", "$confidence + locate($p, ld1, ld2, ls0, ls1, ls2)"),
    Fault("_count_keys", "NaN counts", SOURCE, "$counted = (y >= 0) & ($value == $value)", "$counted = y >= 0"),
    Fault("_write_thresholds", "the digit after", SOURCE, "$below = tl.cumsum($number, 1) <= $rank[:, None]", "$below = tl.cumsum($number, 1) < $rank[:, None]"),
    Fault("_write_thresholds", "all ranks stay", SOURCE, "$rank - tl.sum(tl.where($below, $number, 0), 1)", "$rank"),
    Fault("_write_thresholds", "the digit a bit too low", SOURCE, "return $key | (digit << _shift($i - 1, WIDTH))", "return $key | (digit << _shift($i, WIDTH))"),
    Fault("_write_thresholds", "earlier digits are lost", SOURCE, "return $key | ($digit", "return 0 * $key | ($digit"),
    Fault("_write_thresholds", "rounded up from the top", SOURCE, "$rank = $size - tl.maximum(tl.floor($part)", "$rank = $size - tl.maximum(tl.ceil($part)"),
    Fault("_write_thresholds", "the portion in float32", SOURCE, "$size.to(tl.float64) * tl.full([BLOCK_K], $share, tl.int64).to(tl.float64, $bitcast=True)", "$size.to(tl.float32) * tl.full([BLOCK_K], $share, tl.int64).to(tl.float64, $bitcast=True).to(tl.float32)"),
    Fault("_write_thresholds", "the last digit does not end at 0", SOURCE, "return tl.maximum(32 - ($i + 1) * WIDTH, 0)", "return 32 - ($i + 1) * WIDTH"),
    Fault("_write_thresholds", "positive bits", SOURCE, "$bits = $key ^ (~($key >> 31) | -0x80000000)", "$bits = $key ^ -0x80000000"),
    Fault("_write_thresholds", "nobody's threshold is 0", SOURCE, "$bits.to(tl.float32, $bitcast=True), 1.0)", "$bits.to(tl.float32, $bitcast=True), 0.0)"),
    Fault("_write_thresholds", "thresholds beyond the classes", SOURCE, "1.0), mask=k < $classes)", "1.0))"),
]  # fmt: skip
