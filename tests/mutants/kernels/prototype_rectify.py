"""Planted faults in the Triton kernels of prototype_rectify; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "prototype_rectify.py"

FAULTS = [
    Fault("_rectify_cells", "the first image's scores", SOURCE, "    $scores += $image.to(tl.int64) * image_stride\n", "", quick=True),
    Fault("_rectify_cells", "the first image's labels", SOURCE, "$to = $label + $image.to(tl.int64) * $height * $width", "$to = $label + $image.to(tl.int64) * 0"),
    Fault("_rectify_cells", "columns side by side", SOURCE, "    $left, $right = $left * column_stride, $right * column_stride\n", ""),
    Fault("_rectify_cells", "the same row of scores twice", SOURCE, "    $top, $bottom = $cell * row_stride, tl.minimum($cell + 1, $h - 1) * row_stride", "    $top, $bottom = $cell * row_stride, $cell * row_stride"),
    Fault("_rectify_cells", "columns of the scores for soft labels", SOURCE, "taps($inside, $width, soft_w, ALIGN)", "taps($inside, $width, tl.minimum(w, soft_w), ALIGN)"),
    Fault("_rectify_cells", "weights of the scores for soft labels", SOURCE, "$soft_right, $soft_down, soft_along)", "$soft_right, $soft_down, along)"),
    Fault("_rectify_cells", "no temperature", SOURCE, "$value = z * $inverse_temperature + _log($share)", "$value = z + _log($share)"),
    Fault("_rectify_cells", "shares below 0", SOURCE, "$share = tl.where($share < 0, 0.0, $share)", "$share = tl.abs($share)"),
    Fault("_rectify_cells", "small shares are large", SOURCE, "tl.where($small, $share * RAISED, $share)) - tl.where($small, LOG_RAISED, 0.0)", "tl.where($small, $share * RAISED, $share))"),
    Fault("_rectify_cells", "small shares are smaller", SOURCE, "tl.where($small, $share * RAISED, $share)", "$share"),
]  # fmt: skip
