"""Planted faults in the C++ kernels of softmax_kl; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

TILE = "cpu/softmax_kl_tile.h"

FAULTS = [
    Fault("softmax_kl", "another base", TILE, "$high = 1.44269502f", "$high = 1.4427f", quick=True),
    Fault("softmax_kl", "no smallest exponent", TILE, "x < -87.0f ? Vec<float>{} - 87.0f : x;", "x;"),
    Fault("softmax_kl", "the whole part shifted too little", TILE, "exponent << 23", "exponent << 22"),
    Fault("softmax_kl", "not relative to the largest", TILE, "$top = $value > $top ? $value : $top;", "$top = $value < $top ? $value : $top;"),
    Fault("softmax_kl", "the largest of the first classes", TILE, "for (int64_t $c = 1; $c < $classes; ++$c) {", "for (int64_t $c = 1; $c < std::min<int64_t>($classes, 2); ++$c) {"),
    Fault("softmax_kl", "one temperature forgotten", TILE, "y = (y - $y_top) * $scale;", "y = y - $y_top;"),
    Fault("softmax_kl", "the last block of classes alone", TILE, "$x_total += x_part;", "$x_total = x_part;"),
    Fault("softmax_kl", "a tile without pixels is not cleared", TILE, "else std::fill($work.z[0], $work.d, Acc(0));", ""),
    Fault("softmax_kl", "rows taken as adjacent", TILE, "$begin % $grid.width + ($end - $begin) > $grid.width", "false"),
    Fault("softmax_kl", "columns taken as adjacent", TILE, "$grid.column_stride != 1 ||", ""),
    Fault("softmax_kl", "a mask of other pixels", TILE, "$p.mask[$work.mask_at[$start + $i]]", "$p.mask[$work.mask_at[$i]]"),
]  # fmt: skip
