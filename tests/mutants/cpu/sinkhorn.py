"""Planted faults in the C++ kernels of sinkhorn; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/sinkhorn.cpp"
WIDE = "cpu/sinkhorn_wide.h"
ROW_TILE = "cpu/row_tile.h"

FAULTS = [
    Fault("sinkhorn", "a wider spread than float32 holds", SOURCE, "kWidestSpread = 92", "kWidestSpread = 200"),
    Fault("sinkhorn", "repeated rows counted in the first sums", SOURCE, "$sum += kBlocks == 1 ? x * $weight : x", "$sum += x"),
    Fault("sinkhorn", "repeated rows counted in the later sums", SOURCE, "$u[$j] = $weight / $u[$j]", "$u[$j] = 1.0f / $u[$j]"),
    Fault("sinkhorn", "a chunk's shift forgotten", SOURCE, "$first ? std::exp2($ranges[$i].shift - $top) : 1", "1"),
    Fault("sinkhorn", "what is not finite goes unseen", SOURCE, "if (std::isnan($ranges[$i].low)) return true;", ""),
    Fault("sinkhorn", "no problem is wide", SOURCE, "$wide[$b] = is_wide($n, $b)", "$wide[$b] = 0"),
    Fault("sinkhorn", "a class without mass", WIDE, "$total == 0 ? kLogZero : ", ""),
    Fault("sinkhorn", "a row that no class may take", WIDE, "if ($top == kLogZero) return false;", ""),
    Fault("sinkhorn", "the last columns at the wrong place", ROW_TILE, "four_columns($from + $at, $pitch, $to + $at * kTileRows)", "four_columns($from + $at, $pitch, $to + c * kTileRows)"),
    Fault("sinkhorn", "quads of the wrong rows", ROW_TILE, "load($at + (4 * $j + $i) * $pitch, $r[$j])", "load($at + ($j + 4 * $i) * $pitch, $r[$j])"),
]  # fmt: skip
