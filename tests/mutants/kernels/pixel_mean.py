"""Planted faults in the Triton kernels of pixel_mean; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "pixel_mean.py"

FAULTS = [
    Fault("_sum_pixels", "every pixel counts", SOURCE, "$ld1, $ld2, $ls0, $ls1, $ls2) >= 0", "$ld1, $ld2, $ls0, $ls1, $ls2) >= -1", quick=True),
    Fault("_sum_pixels", "beyond the stretch", SOURCE, "$valid = read_labels($labels, $p, $end,", "$valid = read_labels($labels, $p, pixels,"),
    Fault("_sum_pixels", "every stretch to the end", SOURCE, "$end = tl.minimum(($program + 1) * $stretch, $pixels)", "$end = $pixels"),
    Fault("_sum_pixels", "one stretch for all", SOURCE, "for $start in range($program * $stretch, $end, BLOCK):", "for $start in range(0, $end, BLOCK):"),
    Fault("_sum_pixels", "the first block alone", SOURCE, "        $p = $start + tl.arange(0, BLOCK)\n", "        $p = program * stretch + tl.arange(0, BLOCK)\n"),
    Fault("_sum_pixels", "the last block alone", SOURCE, "        $count += $valid.to(tl.int32)", "        $count = $valid.to(tl.int32)"),
    Fault("_sum_pixels", "losses as labels lie", SOURCE, "$losses + locate($p, $fd1, $fd2, $fs0, $fs1, fs2)", "$losses + locate($p, ld1, ld2, ls0, ls1, ls2)"),
    Fault("_sum_pixels", "ignored losses are read", SOURCE, "$fs1, fs2), mask=$valid, other=0.0)", "$fs1, fs2), mask=p < end, other=0.0)"),
    Fault("_sum_pixels", "all stretches in one place", SOURCE, "tl.store($sums + $program, tl.sum($first))", "tl.store($sums, tl.sum($first))"),
    Fault("_sum_pixels", "the other sums begin elsewhere", SOURCE, "tl.store($sums + tl.num_programs(0) + $program,", "tl.store($sums + 2 * tl.num_programs(0) - 1 + 0 * $program,"),
    Fault("_divide_sums", "every place is read", SOURCE, "$total = tl.sum(tl.load($counts + $i, mask=$i < $programs, other=0))", "$total = tl.sum(tl.load($counts + $i, mask=$i < $programs - 1, other=0))"),
    Fault("_divide_sums", "the last stretch left out", SOURCE, "$first = tl.sum(tl.load($sums + $i, mask=$i < $programs, other=0.0))", "$first = tl.sum(tl.load($sums + $i, mask=$i < $programs - 1, other=0.0))"),
    Fault("_divide_sums", "the other's sums are the first's", SOURCE, "tl.load($sums + $programs + $i, mask", "tl.load($sums + $i, mask"),
    Fault("_divide_sums", "a mean of nothing", SOURCE, "        $total = tl.maximum($total, 1)\n", ""),
    Fault("_divide_sums", "never divided", SOURCE, "        first /= $total.to(tl.float64)\n", ""),
    Fault("_divide_sums", "the other never divided", SOURCE, "        second /= $total.to(tl.float64)\n", ""),
    Fault("_divide_sums", "always a mean", SOURCE, "    if MEAN:\n", "    if MEAN or TWO:\n"),
    Fault("_divide_sums", "two pixels at least", SOURCE, "$total = tl.maximum($total, 1)", "$total = tl.maximum($total, 2)"),
    Fault("_divide_sums", "the sum instead of the number", SOURCE, "tl.store($divisor, $total)", "tl.store($divisor, first.to(tl.int64))"),
    Fault("_divide_sums", "results change places", SOURCE, "tl.store($value, first.to(tl.float32))", "tl.store($value, second.to(tl.float32))"),
]  # fmt: skip
