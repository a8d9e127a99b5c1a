"""Planted faults in the Triton kernels of confidence_histogram; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "confidence_histogram.py"
PSEUDO_LABELS = "pseudo_labels.py"

FAULTS = [
    Fault("_count_cells", "the first image's scores", SOURCE, "    $scores += $image.to(tl.int64) * $image_stride\n", "", quick=True),
    Fault("_count_cells", "columns side by side", SOURCE, "    $left, $right = $left * $column_stride, $right * $column_stride\n", ""),
    Fault("_count_cells", "the same row twice", SOURCE, "tl.minimum($cell + 1, $h - 1) * $row_stride", "$cell * $row_stride"),
    Fault("_count_cells", "the last bin twice", SOURCE, "mask=$counted & ~$last", "mask=$counted"),
    Fault("_count_cells", "the last bins of all rows", SOURCE, "tl.where($counted & $last, $label", "tl.where($last, $label"),
    Fault("_count_cells", "the others in the first class", SOURCE, "$label, LABELS - 1), [PIXELS]", "$label, 0), [PIXELS]"),
    Fault("_count_cells", "the last bin is the first", SOURCE, "$k.to(tl.int64) * $bins + ($bins - 1)", "$k.to(tl.int64) * $bins"),
    Fault("_count_cells", "the last bins are left out", SOURCE, "mask=(k < $classes) & ($number > 0)", "mask=(k < 0) & ($number > 0)"),
    Fault("_count_cells", "the sum keeps its scale", PSEUDO_LABELS, "$total * $e + 1", "$total + 1"),
    Fault("_count_cells", "every part begins at the cell", PSEUDO_LABELS, " + tl.program_id(2) * ROWS\n", "\n"),
]  # fmt: skip
