"""Planted faults in the Triton kernels of confusion_matrix; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "confusion_matrix.py"

FAULTS = [
    Fault("_count_pairs", "pixels beyond the last", SOURCE, "$end = tl.minimum($begin + $at_once, $pixels)", "$end = $begin + $at_once"),
    Fault("_count_pairs", "what is not there is counted", SOURCE, "$valid = $inside & ($p >= 0)", "$valid = ($p >= 0)"),
    Fault("_count_pairs", "predictions below 0", SOURCE, "$valid = $inside & ($p >= 0) & ", "$valid = $inside & "),
    Fault("_count_pairs", "the class K is predicted", SOURCE, "& (p < $classes) &", "& (p <= $classes) &"),
    Fault("_count_pairs", "columns are the truth", SOURCE, "$t * $classes + $p, 0)", "$p * $classes + $t, 0)", quick=True),
    Fault("_count_pairs", "the last block's pairs", SOURCE, "$number += tl.histogram(tl.where(valid", "$number = tl.histogram(tl.where(valid"),
    Fault("_count_pairs", "all pairs on the diagonal", SOURCE, "$right = $valid & ($t == $p)", "$right = $valid"),
    Fault("_count_pairs", "the diagonal twice", SOURCE, "mask=$valid & ~$right", "mask=$valid"),
    Fault("_count_pairs", "the diagonal in a column", SOURCE, "$to = $counts + $b * ($classes + 1)", "$to = $counts + $b * $classes"),
    Fault("_count_pairs", "the first row only", SOURCE, "$known = b < $classes * $classes", "$known = b < $classes"),
]  # fmt: skip
