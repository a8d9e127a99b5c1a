"""Planted faults in the C++ kernels of lovasz_softmax; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SWEEPS = "cpu/lovasz_softmax_sweeps.h"
SOURCE = "cpu/lovasz_softmax.cpp"
UPSAMPLE_TILE = "cpu/upsample_tile.h"

FAULTS = [
    Fault("lovasz_softmax", "a sort that is not stable", SWEEPS, "for (int64_t $i = 0; $i < $size; ++$i) other[", "for (int64_t $i = $size - 1; $i >= 0; --$i) other["),
    Fault("lovasz_softmax", "own pixels not counted off", SWEEPS, "    $left -= $own;\n", ""),
    Fault("lovasz_softmax", "errors of one pixel", SWEEPS, "2 * ($at + $i) +", "2 * $at +"),
    Fault("lovasz_softmax", "an incomplete tile unwritten", SWEEPS, "    for (int $i = 0; $i < $count_; ++$i) $to[$i] = values[$i];\n", ""),
    Fault("lovasz_softmax", "the softmax's sum forgotten", SWEEPS, "          $sum[$v] += $slope;\n", ""),
    Fault("lovasz_softmax", "an absent class sorted", SOURCE, "        if ($totals_[$first + $k] == 0) continue;\n", ""),
    Fault("lovasz_softmax", "the mean over all classes", SOURCE, "return $loss / divisor();", "return $loss / static_cast<double>(view_.classes);"),
    Fault("lovasz_softmax", "a part of a direct gradient overwritten", UPSAMPLE_TILE, "if ($place.more) load($to + $i, $before);", ""),
    Fault("lovasz_softmax", "a part of the gradient overwritten", UPSAMPLE_TILE, "if ($more) load($to + ($k + $j)", "if (false) load($to + ($k + $j)"),
    Fault("lovasz_softmax", "an error of 1 beyond the bins", SWEEPS, "        $bin = $bin < $last ? $bin : V{} + $last;\n", ""),
]  # fmt: skip
