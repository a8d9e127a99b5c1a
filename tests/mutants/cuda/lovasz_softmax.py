"""Planted faults in the CUDA C++ kernels of lovasz_softmax; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

ROWS = "cuda/lovasz_softmax_rows.h"
BINS = "cuda/lovasz_softmax_bins.h"
BLOCK_SCAN = "cuda/block_scan.h"
EXACT = "cuda/lovasz_softmax_exact.h"
RADIX_SORT = "cuda/radix_sort.h"
SOURCE = "cuda/lovasz_softmax.cu"

FAULTS = [
    Fault("lovasz_softmax", "ignored rows below the cell", ROWS, "$block.inside && $block.row + r < $block.row_end;", "$block.inside;"),
    Fault("lovasz_softmax", "powers of probabilities", ROWS, "$p.probabilities ? z : $power_of_two", "$power_of_two"),
    Fault("lovasz_softmax", "powers for probabilities", ROWS, "$unit[$r] = 1 / $unit[$r];", "$unit[$r] = 1;"),
    Fault("lovasz_softmax", "bins of an error one too high", BINS, "($at < $last ? $at : $last) : 0;", "($at < $last ? $at + 1 : $last) : 0;"),
    Fault("lovasz_softmax", "logits as probabilities", ROWS, "$probabilities ? 1 : 1.44269504088896340736", "1.44269504088896340736"),
    Fault("lovasz_softmax", "counts not cleared", BINS, "    $pixels[$i] = $own[$i] = 0;\n", ""),
    Fault("lovasz_softmax", "counts of a block not cleared", BINS, "$i < $words; $i += kCellThreads) counts[$i] = 0;", "$i < $words; $i += kCellThreads) ;"),
    Fault("lovasz_softmax", "counts of a block added twice", BINS, "    $counts[$i] = 0;\n    const $i64", "    const $i64"),
    Fault("lovasz_softmax", "lovasz: all classes occur", BINS, "$present += $count > 0;", "$present += 1;"),
    Fault("lovasz_softmax", "sums over one warp", BLOCK_SCAN, "    if (w < $warp) $value += $sum;\n", ""),
    Fault("lovasz_softmax", "the smallest error first", EXACT, "(ErrorKey<Acc>::$infinity + 1 - error_bits($error)) << 1", "error_bits($error) << 1"),
    Fault("lovasz_softmax", "no number is a number", EXACT, "return $bits < $last ? $bits : $last;", "return $bits < $last ? $bits : 0;"),
    Fault("lovasz_softmax", "exact lovasz: errors of others", EXACT, "const Acc $error = $own ? 1 - $probability : $probability;", "const Acc $error = $probability;"),
    Fault("lovasz_softmax", "exact lovasz: no barrier before a block's counts are added", EXACT, "  __syncthreads();\n  for (int $i = threadIdx.x; $i < $own;", "  for (int $i = threadIdx.x; $i < $own;"),
    Fault("lovasz_softmax", "rows without a key kept", RADIX_SORT, "const bool $inside = $keys[$i] != kNoKey<Key>;", "const bool $inside = first + lane < size;"),
    Fault("lovasz_softmax", "all rows in later passes", RADIX_SORT, "return $first || !$sizes ?", "return $first || $sizes ?"),
    Fault("lovasz_softmax", "the own bit sorts", SOURCE, "1 + pass * kRadixBits, $bits,", "pass * kRadixBits, $bits,"),
    Fault("lovasz_softmax", "one group of classes", SOURCE, "$first < $classes && $blocks.x; $first += $part.group", "$first < $part.group && $blocks.x; $first += $part.group"),
]  # fmt: skip
