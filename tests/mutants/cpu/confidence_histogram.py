"""Planted faults in the C++ kernels of confidence_histogram; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

DENSE_LABELS = "cpu/dense_labels.h"
SOURCE = "cpu/confidence_histogram.cpp"

FAULTS = [
    Fault("confidence_histogram", "pixels beyond the row", DENSE_LABELS, "i < std::min<int64_t>($count, $lanes)", "i < $lanes"),
    Fault("confidence_histogram", "equal pixels beyond the row", DENSE_LABELS, "$count >= $lanes && !any_lane(other)", "!any_lane(other)"),
    Fault("confidence_histogram", "a vector counted once", DENSE_LABELS, "$counts_[$index[0]] += $lanes;", "$counts_[$index[0]] += 1;"),
    Fault("confidence_histogram", "a vector like its first pixel", DENSE_LABELS, "($index ^ $index[0]) | ~$valid", "~$valid"),
    Fault("confidence_histogram", "NaN counted", DENSE_LABELS, "      if ($valid[$i]) ++$counts_", "      ++$counts_"),
    Fault("confidence_histogram", "the bin below", DENSE_LABELS, "$best.confidence * static_cast<Acc>($bins_)", "$best.confidence * static_cast<Acc>($bins_ - 1)"),
    Fault("confidence_histogram", "half of a mask", DENSE_LABELS, "half[0] | half[1]", "half[0]"),
    Fault("confidence_histogram", "the last thread's counts only", DENSE_LABELS, "__atomic_fetch_add($to + $i, $counts_[$i], __ATOMIC_RELAXED)", "$to[$i] = $counts_[$i]"),
    Fault("confidence_histogram", "counts never handed over", SOURCE, "  $counts.add($p.counts);\n", ""),
    Fault("confidence_histogram", "softmax of probabilities", SOURCE, "false, $bins, $probabilities, $to", "false, $bins, false, $to"),
]  # fmt: skip
