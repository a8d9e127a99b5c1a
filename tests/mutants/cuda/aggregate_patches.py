"""Planted faults in the CUDA C++ kernels of aggregate_patches; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cuda/aggregate_patches.cu"
DENSE_STRIP = "cuda/dense_strip.h"

FAULTS = [
    Fault("aggregate_patches", "patches below", SOURCE, "y >= $row + kVoteRows ||", "y >= $row ||"),
    Fault("aggregate_patches", "patches above", SOURCE, "y <= $row - $height ||", "y <= $row - $height + 1 ||"),
    Fault("aggregate_patches", "the first image's offsets", SOURCE, "$offsets[$image * $offset_strides[0] + $q", "$offsets[$q"),
    Fault("aggregate_patches", "rows and columns swapped", SOURCE, "axis * $offset_strides[2]", "(1 - axis) * $offset_strides[2]"),
    Fault("aggregate_patches", "sums not cleared", SOURCE, "$sums[at($k, $r)] = 0;", "if ($k) $sums[at($k, $r)] = 0;"),
    Fault("aggregate_patches", "numbers not cleared", SOURCE, "      $number[$r] = 0;\n", ""),
    Fault("aggregate_patches", "votes not normalised", SOURCE, "Acc(1) : 1 / $scale[$r];", "Acc(1) : Acc(1);"),
    Fault("aggregate_patches", "votes of the last patch", SOURCE, "$sums[at($k, $r)] += $vote;", "$sums[at($k, $r)] = $vote;"),
    Fault("aggregate_patches", "rows of a strip share a sum", SOURCE, "($k * kVoteRows + $r) * $pitch", "($k * kVoteRows + $r / 2 * 2) * $pitch"),
    Fault("aggregate_patches", "strips share a sum", SOURCE, "shared<Accumulate<T>>(0) + $thread", "shared<Accumulate<T>>(0) + $thread / 2"),
    Fault("aggregate_patches", "the sum for the mean", SOURCE, "$confidence = $most / $votes;", "$confidence = $most;"),
    Fault("aggregate_patches", "a label where no patch lies", SOURCE, "$number > 0 && $confidence == $confidence;", "$confidence == $confidence;"),
    Fault("aggregate_patches", "rows after the last one", SOURCE, "if ($inside && $row + r < static_cast<int>($v.grid.height))", "if ($inside)"),
    Fault("aggregate_patches", "counts over the sums", SOURCE, "$classes * $p.bins, $sums, $card", "$classes * $p.bins, 0, $card"),
    Fault("aggregate_patches", "no room for the counts", SOURCE, "$sums + ($p.bins && $counts.in_shared ? cell_bytes($counts.cells) : 0)", "$sums"),
    Fault("aggregate_patches", "rows before the first one", DENSE_STRIP, "$at = $at < 0 ? 0 : $at < $u", "$at = $at < $u"),
    Fault("aggregate_patches", "the highest of equals", DENSE_STRIP, "x > $most || x != x;", "!(x < $most);"),
    Fault("aggregate_patches", "halves read as bfloat16", DENSE_STRIP, "read_wide($s.halves, $at)", "read_wide($s.bfloats, $at)"),
]  # fmt: skip
