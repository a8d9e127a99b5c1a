"""Planted faults in the C++ kernels of class_moments; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

ROWS = "cpu/class_moments_rows.h"
SOURCE = "cpu/class_moments.cpp"
PIXELS = "cpu/pixels.h"
FULL = "cpu/class_moments_full.h"

FAULTS = [
    Fault("class_moments", "square of x instead of x - pivot", ROWS, "    $sum += $d;\n    $square += $d * $d;", "    $square += ($d + pivot) * $d;\n    $sum += $d;"),
    Fault("class_moments", "missing rows are not zeros", ROWS, "$group.rows[$at + $j] : $level;", "$group.rows[$at] : $level;", quick=True),
    Fault("class_moments", "level of the class before", ROWS, "      store($pivot, $group.level + $c);\n", ""),
    Fault("class_moments", "pivot not rounded as the level is", ROWS, "    load(rounded, $pivot);\n", ""),
    Fault("class_moments", "last channels left out", ROWS, "if (c < $end) $add_last", "if (c + 1 < $end) $add_last"),
    Fault("class_moments", "channels transposed wrongly", ROWS, "        transpose<Acc>($block);\n", ""),
    Fault("class_moments", "counts of one tile", SOURCE, "$counts[$k] += $work.starts", "$counts[$k] = $work.starts"),
    Fault("class_moments", "only the first chunk", SOURCE, "$chunk < $problem.chunks; ++$chunk) {\n    const double", "$chunk < 1; ++$chunk) {\n    const double"),
    Fault("class_moments", "negative labels are classes", "labels.h", "($label >= 0) & ", ""),
    Fault("class_moments", "rows joined across a gap", PIXELS, " || $g.row_stride == $g.width * $g.column_stride", " || $g.column_stride > 0"),
    Fault("class_moments_full", "pivot not subtracted", FULL, "store(x -= $pivot, $p.packed", "store(x, $p.packed"),
    Fault("class_moments_full", "last rows of a panel left out", FULL, "$p.rows = std::min(kPanelRows, $starts[$k + 1] - $begin);", "$p.rows = std::min(kPanelRows, $starts[$k + 1] - $begin - 1);"),
    Fault("class_moments_full", "square not cleared between classes", FULL, "    std::fill($square.data(), $square.data() + $width * $width, Acc(0));\n", ""),
    Fault("class_moments_full", "sum of half the rows", FULL, "for (int64_t $row = 0; $row < $p.rows; ++$row) {\n      $load", "for (int64_t $row = 0; $row < $p.rows; $row += 2) {\n      $load"),
    Fault("class_moments_full", "upper triangle read", FULL, "$row = std::max($i, $j), $column = std::min($i, $j)", "$row = $i, $column = $j"),
    Fault("class_moments_full", "not centred", FULL, " - $p.sums[$row] * $each * $p.sums[$column]", ""),
    Fault("class_moments_full", "pivot of 16-bit features not rounded", FULL, "static_cast<Acc>(static_cast<T>(static_cast<Acc>($total /", "static_cast<Acc>((static_cast<Acc>($total /"),
    Fault("class_moments_full", "ignored pixels sorted in", FULL, "++$next[$label[$i] + 1];", "++$next[std::min<int64_t>($label[$i], classes - 1) + 1];"),
    Fault("class_moments_full", "block overwrites", FULL, "        load($to + $i * $pitch + $g * $step, x[$g]);\n", "        x[$g] = Vec<Acc>{};\n"),
    Fault("class_moments_full", "first column group alone", FULL, "$panel + $first * $group_pitch, rows", "$panel + g * $group_pitch, rows"),
]  # fmt: skip
