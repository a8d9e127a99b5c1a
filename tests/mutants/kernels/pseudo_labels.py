"""Planted faults in the Triton kernels of pseudo_labels; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

UPSAMPLE = "_upsample.py"
SOURCE = "pseudo_labels.py"

FAULTS = [
    Fault("_label_cells", "a step too many", UPSAMPLE, "$numerator = $position * ($source - 1)", "$numerator = $position * $source"),
    Fault("_label_cells", "always from the lower end", UPSAMPLE, "$from_upper = $weight >= 0.5", "$from_upper = $weight >= 2.0"),
    Fault("_label_cells", "the upper row twice", UPSAMPLE, "_along($scores, bottom + $left, bottom + $right", "_along($scores, top + $left, top + $right"),
    Fault("_label_cells", "the left column twice", UPSAMPLE, "tl.load($scores + right, mask=mask)", "tl.load($scores + left, mask=mask)"),
    Fault("_label_cells", "the first cell starts late", UPSAMPLE, "        $first = tl.where($node > 0, $first, 0)\n", ""),
    Fault("_label_cells", "every part begins at the cell", SOURCE, " + tl.program_id(2) * ROWS\n", "\n"),
    Fault("_label_cells", "no threshold", SOURCE, "$kept = tl.where($p >= least_of($threshold, $k, $threshold_stride, BALANCED), $k, IGNORED)", "$kept = $k", quick=True),
    Fault("_label_cells", "thresholds side by side", SOURCE, "$label * $threshold_stride).to", "$label).to"),
    Fault("_label_cells", "the last of equals", SOURCE, "$above = x > $largest", "$above = x >= $largest"),
    Fault("_label_cells", "products for quotients of probabilities", SOURCE, "$key = x * tl.div_rn(1.0, least_of($threshold, $k, $threshold_stride, True))", "$key = x * least_of($threshold, $k, $threshold_stride, True)"),
]  # fmt: skip
