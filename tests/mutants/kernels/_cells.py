"""Planted faults in the Triton kernels of _cells; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

CELLS = "_cells.py"

FAULTS = [
    Fault("_gather_nodes", "elements beyond the last one", CELLS, "tl.store($slope + $e, $total, mask=$inside)", "tl.store($slope + $e + 1, $total, mask=$inside)"),
    Fault("_gather_nodes", "the last element", CELLS, "$inside = e < $elements\n", "$inside = e < $elements - 1\n"),
    Fault("_gather_nodes", "the strip of the node itself", CELLS, "$begin = first_position(tl.maximum($i - 1, 0), $height, $h, ALIGN)", "$begin = first_position($i, $height, $h, ALIGN)"),
    Fault("_gather_nodes", "the row of cells above only", CELLS, "$end = first_position($i + 1, $height, $h, ALIGN)\n    $strip", "$end = first_position($i, $height, $h, ALIGN)\n    $strip"),
    Fault("_gather_nodes", "one strip", CELLS, "for $n in range(tl.max($count, 0)):", "for $n in range(tl.minimum(tl.max($count, 0), 1)):", quick=True),
    Fault("_gather_nodes", "every strip", CELLS, "        $known = n < $count\n", "        $known = n < tl.max($count, 0)\n"),
    Fault("_gather_nodes", "slots from the first strip's node", CELLS, "taps(tl.minimum(($strip + $n) * ROWS, $height - 1)", "taps(tl.minimum($strip * ROWS, $height - 1)"),
    Fault("_gather_nodes", "partial sums of the first image", CELLS, "$row = (($image * $strips + $strip + $n).to", "$row = (($strip + $n).to"),
    Fault("_gather_nodes", "partial sums of the first class", CELLS, "* 2 * $classes + $plane - $image * $classes", "* 2 * $classes + 0 * $plane"),
    Fault("_gather_nodes", "left sides only", CELLS, "$total += $left + tl.load($partials", "$total += $left + 0 * tl.load($partials"),
]  # fmt: skip
