"""Planted faults in the C++ kernels of confusion_matrix; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/confusion_matrix.cpp"

FAULTS = [
    Fault("confusion_matrix", "a run counted one short", SOURCE, "$table[$cell[$i]] += kLane", "$table[$cell[$i]] += kLane - 1"),
    Fault("confusion_matrix", "the upper half of a vector not looked at", SOURCE, "half[0] |= half[1];", ""),
    Fault("confusion_matrix", "one word of a quarter not looked at", SOURCE, "($quarter[0][0] | $quarter[0][1]) == 0", "$quarter[0][0] == 0"),
    Fault("confusion_matrix", "a run is every vector", SOURCE, "if (uniform($cells, $cell[$i])) {", "{"),
    Fault("confusion_matrix", "the last pixels left out", SOURCE, "for (; $i < $count; ++$i) ++$table[$cell[$i]];", ""),
    Fault("confusion_matrix", "only one table counted", SOURCE, "for (int64_t $t = 0; $t < $p.tables(); ++$t) $sum", "for (int64_t $t = 0; $t < 1; ++$t) $sum"),
    Fault("confusion_matrix", "tables that overlap", SOURCE, "$p.tables() > 1 ? $p.cells() : 0", "$p.tables() > 1 ? $p.classes : 0"),
    Fault("confusion_matrix", "transposed", SOURCE, "$cell[$i] * $side + other[$i]", "$cell[$i] + other[$i] * $side"),
    Fault("confusion_matrix", "ignored pixels join the next row", SOURCE, "return $classes + 1;", "return $classes;"),
    Fault("confusion_matrix", "the last class left out", SOURCE, "for (int64_t $j = 0; $j < $p.classes; ++$j) {", "for (int64_t $j = 0; $j + 1 < side - 1; ++$j) {"),
]  # fmt: skip
