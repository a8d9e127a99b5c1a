"""Planted faults in the C++ kernels of pseudo_labels; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

DENSE_LABELS = "cpu/dense_labels.h"
SOURCE = "cpu/pseudo_labels.cpp"

FAULTS = [
    Fault("pseudo_labels", "a row beyond the last", DENSE_LABELS, "std::min($lower + 1, $scores_.height - 1)", "$lower + 1", quick=True),
    Fault("pseudo_labels", "the rows the wrong way round", DENSE_LABELS, "x += $weight * (z - x);", "x = z + $weight * (x - z);"),
    Fault("pseudo_labels", "the second node's own weight", DENSE_LABELS, "$weight[1] = $node == 1 ? $own : $node == 0 ? $upper : $none;", "$weight[1] = $node == 1 ? $own : $none;"),
    Fault("pseudo_labels", "ties to the highest class", DENSE_LABELS, "const Mask $above = x > $most;", "const Mask $above = x >= $most;"),
    Fault("pseudo_labels", "the largest is not subtracted", DENSE_LABELS, "softmax_exp(x - $most, $e);", "softmax_exp(x - $most - 0.01f, $e);"),
    Fault("pseudo_labels", "the whole part of the exponent", DENSE_LABELS, "exponent << 23", "exponent << 22"),
    Fault("pseudo_labels", "the quotient for the probability", DENSE_LABELS, "$own = x > $most ? e : $own;", "$own = x > $most ? x : $own;"),
    Fault("pseudo_labels", "above the threshold only", SOURCE, "$best.confidence >= $limit", "$best.confidence > $limit"),
    Fault("pseudo_labels", "thresholds taken as adjacent", SOURCE, "$k * $threshold.stride(0)", "$k"),
    Fault("pseudo_labels", "a row's place in the output", SOURCE, "$i * $p.along.size;", "$i * ($p.along.size - 1);"),
]  # fmt: skip
