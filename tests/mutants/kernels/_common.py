"""Planted faults in the Triton kernels of _common; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

COMMON = "_common.py"

FAULTS = [
    Fault("_sort_pixels", "the last pixel is left out", COMMON, "$end = tl.minimum(($chunk + 1) * $chunk_rows, $pixels)", "$end = tl.minimum(($chunk + 1) * $chunk_rows, $pixels - 1)", quick=True),
    Fault("_sort_pixels", "places of the first chunk", COMMON, "tl.load($before + $chunk * $classes + $k", "tl.load($before + $k"),
    Fault("_sort_pixels", "classes are not apart", COMMON, "        $place += tl.load($starts + $k, mask=$k < $classes, other=0)\n", ""),
    Fault("_sort_pixels", "places from one", COMMON, "tl.cumsum($member, 0) - 1), 1)", "tl.cumsum($member, 0)), 1)"),
    Fault("_sort_pixels", "pixels of a block in one place", COMMON, "($place[None, :] + tl.cumsum($member, 0) - 1)", "$place[None, :]"),
    Fault("_sort_pixels", "ignored pixels are placed", COMMON, "mask=tl.sum($member, 1) > 0", "mask=p < end"),
    Fault("_sort_pixels", "places stay where they were", COMMON, "        $place += tl.sum($member, 0)\n    if not PLACE", "        $place += 0 * tl.sum($member, 0)\n    if not PLACE"),
    Fault("_sort_pixels", "the place in the block, not the pixel", COMMON, "tl.store($order + $to, $p, mask", "tl.store($order + $to, $p - start, mask"),
    Fault("_sort_pixels", "no mask of the classes", COMMON, "tl.store($counts + $chunk * $classes + $k, $place, mask=$k < $classes)", "tl.store($counts + $chunk * $classes + $k, $place)"),
    Fault("_sort_pixels", "labels of the first image's rows", COMMON, "$classes // $per_class, $ignore_index, $d1, $d2, $s0, $s1, $s2)", "$classes // $per_class, $ignore_index, $d1, $d2, $s0, $s1, $s1)"),
    Fault("_scan_counts", "the first chunk is left out", COMMON, "$c = $start + tl.arange(0, BLOCK_C)\n            $known = ($c < $chunks)", "$c = $start + tl.arange(0, BLOCK_C)\n            $known = (($c < $chunks) & ($c > 0))"),
    Fault("_scan_counts", "chunks count themselves", COMMON, "$total[None, :] + tl.cumsum($n, 0) - $n, mask=$known", "$total[None, :] + tl.cumsum($n, 0), mask=$known"),
    Fault("_scan_counts", "the total of the last block", COMMON, "            $total += tl.sum($n, 0)\n", "            $total = tl.sum($n, 0)\n"),
    Fault("_scan_counts", "panels are rounded down", COMMON, "$own = ($total + $panel_rows - 1) // $panel_rows", "$own = $total // $panel_rows"),
    Fault("_scan_counts", "every class has a slot", COMMON, "$more = tl.maximum($own - 1, 0)", "$more = $own"),
    Fault("_scan_counts", "slots are those of the first class", COMMON, "$extra + tl.cumsum(more, 0) - more, mask", "$extra + 0 * more, mask"),
    Fault("_scan_counts", "the last class has no end", COMMON, "    tl.store($starts + $classes, rows)\n", ""),
    Fault("_scan_counts", "the last class has no last panel", COMMON, "tl.store($panel_starts + $classes, panels)", "tl.store($panel_starts + $classes, panels - 1)"),
    Fault("_scan_counts", "the count is of rows before", COMMON, "tl.store($count + $k, $total.to(tl.int64)", "tl.store($count + $k, (rows + $total).to(tl.int64)"),
    Fault("_scan_counts", "no mask of the classes", COMMON, "tl.store($count + $k, $total.to(tl.int64), mask=$k < $classes)", "tl.store($count + $k, $total.to(tl.int64))"),
]  # fmt: skip
