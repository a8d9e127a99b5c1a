"""Planted faults in the C++ kernels of select_triplets; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/select_triplets.cpp"
RANDOM_BITS = "random_bits.h"

FAULTS = [
    Fault("select_triplets", "a negative mode", SOURCE, " && m >= 0", ""),
    Fault("select_triplets", "a mode too large", SOURCE, " && m < $modes", ""),
    Fault("select_triplets", "a negative class", SOURCE, "k >= 0 && ", ""),
    Fault("select_triplets", "the first row of the own class", SOURCE, "other < $class_first ?", "other <= $class_first ?"),
    Fault("select_triplets", "rows of no class are drawn", SOURCE, "$usable = $starts[buckets]", "$usable = source.order.size()"),
    Fault("select_triplets", "no other class is not missed", SOURCE, "$own == 0 || $others == 0", "$own == 0"),
    Fault("select_triplets", "the first bucket for all", SOURCE, "$order[$first + $below", "$order[$below"),
    Fault("select_triplets", "twice the limit", RANDOM_BITS, ">> 32)", ">> 31)"),
    Fault("select_triplets", "the own class is not stepped over", SOURCE, "other : other + $class_count", "other : other"),
    Fault("select_triplets", "rows taken as adjacent", SOURCE, "$mode[$i * mode_stride]", "$mode[$i]"),
]  # fmt: skip
