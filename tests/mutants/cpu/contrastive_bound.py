"""Planted faults in the C++ kernels of contrastive_bound; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/contrastive_bound.cpp"
STATISTICS = "cpu/contrastive_bound_statistics.h"
TILE = "cpu/contrastive_bound_tile.h"
TILE_ = "cpu/tile.h"
VECTOR_MATH = "cpu/vector_math.h"
BACKWARD = "cpu/contrastive_bound_backward.h"
PRODUCTS = "cpu/products.h"

FAULTS = [
    Fault("bound_forward", "scores not cleared", SOURCE, "    std::fill(first, first + $b.classes() * $pixels, Acc(0));\n", ""),
    Fault("bound_forward", "channels after the first run left out", SOURCE, "$c < $b.channels(); $c += kDepth) {\n      const int64_t $depth", "$c < 1; $c += kDepth) {\n      const int64_t $depth"),
    Fault("bound_forward", "maximum not added to the logarithm", SOURCE, "      $log += top;\n", "", quick=True),
    Fault("bound_forward", "diagonal not halved", STATISTICS, "$to[half] = static_cast<Acc>($second / 2);", "$to[half] = static_cast<Acc>($second);"),
    Fault("bound_forward", "upper triangle packed too", STATISTICS, "$a < $t.channels && c <= $a", "$a < $t.channels && c < $t.channels"),
    Fault("bound_forward", "covariance not normalised", STATISTICS, "$b.covariance_scale[$k] /", "1.0 /"),
    Fault("bound_forward", "squares of a run of channels left out", TILE, "$c < std::min($c0 + kDepth, $b.channels()); ++$c) {", "$c + 1 < std::min($c0 + kDepth, $b.channels()); ++$c) {"),
    Fault("bound_forward", "second vector of a tile not loaded", TILE, "store($block[$j], x + ($c + $j) * $pixels + $v * $step);", "store($block[$j], x + ($c + $j) * $pixels);"),
    Fault("bound_forward", "planes not dense taken for dense", TILE_, "$dense[$i] = $gaps == 0 && ", "$dense[$i] = "),
    Fault("bound_forward", "exponential's rounding", VECTOR_MATH, "+ 1.0f / 6;", "+ 1.0f / 5;"),
    Fault("bound_backward", "own class not subtracted", BACKWARD, "      if ($label < $classes) $w[$label * $pixels + $i] -= 1;\n", ""),
    Fault("bound_backward", "own class of rows not subtracted", BACKWARD, " + $i) * 2 * kWeights + $own % kWeights] -= 1;", " + $i) * 2 * kWeights + $own % kWeights] -= 0;"),
    Fault("bound_backward", "own class of another pixel", BACKWARD, "$chunk.label[$chunk.order[$start + $i]]", "$chunk.label[$start + $i + ($start + $i + 1 < $chunk.size)]"),
    Fault("bound_backward", "last tile of rows left out", BACKWARD, "$start < $work.chunk.count; $start += kRowPixels", "$start + kRowPixels < $work.chunk.count + 1; $start += kRowPixels"),
    Fault("bound_backward", "part along q kept, rows", BACKWARD, "$out = ($out - $q * $back) * $scale;", "$out = $out * $scale;"),
    Fault("bound_backward", "diagonal not divided by the length, rows", BACKWARD, "$p[$first + $k] * $inverse;", "$p[$first + $k];"),
    Fault("bound_backward", "second product with the first's factors", PRODUCTS, "$weights[($p * 2 + 1) * kWeights + $k]", "$weights[$p * 2 * kWeights + $k]"),
    Fault("bound_backward", "product of the tile with q forgotten", PRODUCTS, "      $along[$v] += $a[$c][$v] * $q;\n", ""),
    Fault("bound_backward", "triangle added to its rows alone", PRODUCTS, "      store($sum += $part, $to_columns + c * $pixels + $v * $step);\n", ""),
    Fault("bound_backward", "block of channels packed one off", STATISTICS, "$c / $width * $b.classes() + $k) * $pitch + $c % $width", "$c / $width * $b.classes() + $k) * $pitch + ($c + 1) % $width"),
]  # fmt: skip
