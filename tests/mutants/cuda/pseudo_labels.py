"""Planted faults in the CUDA C++ kernels of pseudo_labels; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

DENSE_STRIP = "cuda/dense_strip.h"
SOURCE = "cuda/pseudo_labels.cu"

FAULTS = [
    Fault("pseudo_labels", "corners beyond the last score", "upsample_position.h", "$i * ($source - 1);", "$i * $source;"),
    Fault("pseudo_labels", "corners of one pixel more", "upsample_position.h", "$size > 1 ? $size - 1 : 1;", "$size;"),
    Fault("pseudo_labels", "positions at a pixel's edge", "upsample_position.h", "(2 * $i + 1) * $source", "(2 * $i) * $source"),
    Fault("pseudo_labels", "from the lower score only", DENSE_STRIP, "$weight < Acc(0.5) ? $weight : $weight - 1;", "$weight;"),
    Fault("pseudo_labels", "the farther score's step", DENSE_STRIP, "($step < 0 ? $b : $a) + $step", "($step > 0 ? $b : $a) + $step"),
    Fault("pseudo_labels", "both scores of a column the same", DENSE_STRIP, "$left = $from + $t.lower", "$left = $from + $t.upper"),
    Fault("pseudo_labels", "rows after the last one", DENSE_STRIP, "$at < $u.down.size ? $at : $u.down.size - 1;", "$at;"),
    Fault("pseudo_labels", "one score row for all rows", DENSE_STRIP, "if ($r == 0 || $lower[$r] != $lower[$r - 1]) {", "if ($r == 0) {"),
    Fault("pseudo_labels", "threads beyond the last strip", DENSE_STRIP, "return of < $images;", "return true;"),
    Fault("pseudo_labels", "NaN is no largest", DENSE_STRIP, "x > $most || x != x;", "x > $most;"),
    Fault("pseudo_labels", "the quotient for a probability", DENSE_STRIP, "take($r, $k, x * $f, x, $key[$r]);", "take($r, $k, x * $f, x * $f, $key[$r]);"),
    Fault("pseudo_labels", "sum not divided", DENSE_STRIP, "$confidence[$r] /= $sum[$r];", "$confidence[$r] /= 1;"),
    Fault("pseudo_labels", "a threshold that is met drops", SOURCE, "$confidence >= least", "$confidence > least"),
    Fault("pseudo_labels", "no threshold, a label", SOURCE, "kLeastThreshold = 1e-30;", "kLeastThreshold = 0.0;"),
    Fault("pseudo_labels", "no barrier before the thresholds", SOURCE, "__syncthreads();\n", "\n"),
    Fault("pseudo_labels", "another no label", SOURCE, "kNoLabel = 255;", "kNoLabel = 254;"),
    Fault("pseudo_labels", "thresholds side by side", SOURCE, "$k * $threshold_stride;", "$k;"),
    Fault("pseudo_labels", "balanced as the others", SOURCE, "$p.balanced ? BestRule::$balanced : BestRule::$largest;", "BestRule::$largest;"),
]  # fmt: skip
