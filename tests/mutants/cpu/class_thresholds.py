"""Planted faults in the C++ kernels of class_thresholds; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/class_thresholds.cpp"

FAULTS = [
    Fault("class_thresholds", "NaN counted", SOURCE, "$label[$i] = $value[$i] == $value[$i] ? $label[$i] : $none;", ""),
    Fault("class_thresholds", "1 not alone", SOURCE, "$interval.narrow($one, $one + 1)", "$interval.narrow($one - 1, $one)"),
    Fault("class_thresholds", "a digit too few", SOURCE, "std::bit_width($width - 1)) - kDigit", "std::bit_width($width - 1)) - kDigit - 1"),
    Fault("class_thresholds", "an open interval taken for closed", SOURCE, "bool open() const { return $width > 1; }", "bool open() const { return $width > 4; }"),
    Fault("class_thresholds", "counts of the bin before", SOURCE, "$interval.count = $counts[$bin];", "$interval.count = $counts[$bin] / 2;"),
    Fault("class_thresholds", "a later bin begins elsewhere", SOURCE, "(bin << $interval.shift)", "(bin << ($interval.shift + 1))"),
    Fault("class_thresholds", "a vector's first alone is looked at", SOURCE, "$any |= $inside[$j];", "$any |= $inside[i];"),
    Fault("class_thresholds", "strides of the values", SOURCE, "$from[$i * $step]", "$from[$i]"),
    Fault("class_thresholds", "a class without pixels is 0", SOURCE, "$s.intervals[$k].width ? value_of($s.intervals[$k].low) : 1.0f", "value_of($s.intervals[$k].low)"),
    Fault("class_thresholds", "the last segment left out", SOURCE, "($pixels + kSegment - 1) / kSegment", "std::max<int64_t>(1, $pixels / kSegment)"),
]  # fmt: skip
