"""Planted faults in the Triton kernels of class_moments; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "class_moments.py"
COMMON = "_common.py"

FAULTS = [
    Fault("_sum_chunks", "the last pixel is left out", SOURCE, "$end = tl.minimum($begin + $chunk_rows, $pixels)", "$end = tl.minimum($begin + $chunk_rows, $pixels - 1)"),
    Fault("_sum_chunks", "no mask at the end", COMMON, "$inside = pixel < $end\n", "$inside = pixel < $end + 1\n"),
    Fault("_sum_chunks", "the label K is not out of range", COMMON, "(y < $classes)", "(y <= $classes)"),
    Fault("_sum_chunks", "images are a row apart", COMMON, "$row = $row - $image * $d1", "$row = $row - $image * $d1 + $image"),
    Fault("_sum_chunks", "rows are counted in images", COMMON, "$image = $row // d1", "$image = $row // d2"),
    Fault("_sum_chunks", "strides of labels for features", SOURCE, "tl.minimum($first, $pixels - 1), $fd1, $fd2, $fs0, $fs1, $fs2", "tl.minimum($first, $pixels - 1), ld1, ld2, ls0, ls1, ls2"),
    Fault("_sum_chunks", "the pivot is not subtracted", SOURCE, "$d = x.to(tl.float32) - $c\n", "$d = x.to(tl.float32)\n", quick=True),
    Fault("_sum_chunks", "two parts of d", COMMON, "    $total = tl.dot($one, $low)\n", "    $total = tl.dot($one, $low) * 0\n"),
    Fault("_sum_chunks", "squares in 8 bits", SOURCE, "return tl.dot($one, x), tl.dot($one, $high, $q)", "return tl.dot($one, x), tl.dot($one, $high)"),
    Fault("_sum_chunks", "no tensor cores: features in 8 bits", COMMON, '$total = tl.dot($member.to(tl.float32), x, $input_precision="$ieee")', '$total = tl.dot($member.to(tl.float32), x.to(tl.bfloat16).to(tl.float32), $input_precision="$ieee")'),
    Fault("_merge_chunks", "the last chunk is left out", SOURCE, "$c = $start + tl.arange(0, BLOCK_C)\n        $n = tl.load($counts + $c * $classes + $label, mask=$c < $chunks, other=0)\n        pixels", "$c = $start + tl.arange(0, BLOCK_C)\n        $n = tl.load($counts + $c * $classes + $label, mask=$c < $chunks - 1, other=0)\n        pixels"),
    Fault("_merge_chunks", "counts of another class", SOURCE, "$n = tl.load($counts + $c * $classes + $label, mask=$c < $chunks, other=0)\n        pixels", "$n = tl.load($counts + $c * $classes, mask=$c < $chunks, other=0)\n        pixels"),
    Fault("_merge_chunks", "counts of the last chunks only", SOURCE, "$pixels += n", "$pixels = n.to(tl.int64)"),
    Fault("_merge_chunks", "sums of the last chunks only", SOURCE, "$total += $pivot * $n[:, None]", "$total = $pivot * $n[:, None]"),
    Fault("_merge_chunks", "the sum of squares as the sum", SOURCE, "tl.load($at + $channels, mask=$read, other=0.0).to(tl.float64)\n    $n_all", "tl.load($at + 2 * $channels, mask=$read, other=0.0).to(tl.float64)\n    $n_all"),
    Fault("_merge_chunks", "division by zero", SOURCE, "$average = tl.sum($total, 0) / tl.maximum($n_all, 1)", "$average = tl.sum($total, 0) / $n_all"),
    Fault("_merge_chunks", "the shift is not divided", SOURCE, ".to(tl.float64) / tl.maximum($n, 1)[:, None].to(tl.float64)", ".to(tl.float64)"),
    Fault("_merge_chunks", "within a chunk without its shift", SOURCE, "$within = $square - $shift * $shift * $n[:, None]", "$within = $square"),
    Fault("_merge_chunks", "between chunks is forgotten", SOURCE, "$spread += $within + $delta * $delta * $n[:, None]", "$spread += $within"),
    Fault("_merge_chunks", "between chunks counts once", SOURCE, "delta * delta * $n[:, None]", "delta * delta"),
]  # fmt: skip
