"""Planted faults in the CUDA C++ kernels of class_moments_full; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

OUTER_TILE = "cuda/outer_tile.h"
SOURCE = "cuda/class_moments_full.cu"
KERNELS = "cuda/class_moments_full_kernels.h"

FAULTS = [
    Fault("class_moments_full", "no barrier after a step", OUTER_TILE, "$b.store($next + $operand);\n      }\n      __syncthreads();", "$b.store($next + $operand);\n      }", quick=True),
    Fault("class_moments_full", "one buffer for all steps", OUTER_TILE, "$buffers + (($step + 1) & 1) * 2 * $operand", "$buffers"),
    Fault("class_moments_full", "last row of a step left out", OUTER_TILE, "row < $depth; ++row", "row < $depth - 1; ++row"),
    Fault("class_moments_full", "the last sum only", OUTER_TILE, "$sum[$i][$j] += $down[$i]", "$sum[$i][$j] = $down[$i]"),
    Fault("class_moments_full", "sums of a wide square side by side", OUTER_TILE, "$i / kTileQuad * (kTileSide * kTileQuad) + $side * kTileQuad", "$i / kTileQuad * kTileQuad + $side * kTileQuad"),
    Fault("class_moments_full", "last pixel left out", SOURCE, "$at = $begin; $at < end; $at += kWarp", "$at = $begin; $at + 1 < end; $at += kWarp"),
    Fault("class_moments_full", "counts not cleared", SOURCE, "$row[$k] = 0;", ";"),
    Fault("class_moments_full", "half the sum of the counts", SOURCE, "$step = 1; $step < kSortThreads;", "$step = 1; $step < kSortThreads / 2;"),
    Fault("class_moments_full", "chunks beyond the first 256 start again", SOURCE, "$s.table[$at] = $before + $upto - $mine;", "$s.table[$at] = $upto - $mine;"),
    Fault("class_moments_full", "a broken panel left out", SOURCE, " + ($total % $s.panel_rows != 0)", ""),
    Fault("class_moments_full", "pixels beyond the panel", KERNELS, "$offset = next < $rows ?", "$offset = next <= $rows ?"),
    Fault("class_moments_full", "rows beyond the panel", KERNELS, "$value.at[$j] = $live ? widen(x.at[$j])", "$value.at[$j] = true ? widen(x.at[$j])"),
    Fault("class_moments_full", "no barrier after the pivots", KERNELS, "  __syncthreads();  // $the $pivots $are $there\n", ""),
    Fault("class_moments_full", "pivot rows of other classes", KERNELS, "$all < kPivotRows ? $all : kPivotRows;", "kPivotRows;"),
    Fault("class_moments_full", "mean without its pivot", KERNELS, "$f.mean[$at] = $f.pivots[$at] + ($count", "$f.mean[$at] = ($count"),
    Fault("class_moments_full", "not brought to the mean", KERNELS, "$sum.total() - static_cast<Acc>($totals[$row]) * static_cast<Acc>($totals[$column]) * $each;", "$sum.total();"),
    Fault("class_moments_full", "too few panels", SOURCE, "ceil_div<$i64>($p.pixels, $plan.panel_rows)) + $p.classes;", "ceil_div<$i64>($p.pixels, $plan.panel_rows));"),
    Fault("class_moments_full", "every group the first", SOURCE, "    $f.first = $first;\n", ""),
]  # fmt: skip
