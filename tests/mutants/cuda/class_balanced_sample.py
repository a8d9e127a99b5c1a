"""Planted faults in the CUDA C++ kernels of class_balanced_sample; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

DRAW = "cuda/class_balanced_sample_draw.h"
SOURCE = "cuda/class_balanced_sample.cu"

FAULTS = [
    Fault("class_balanced_sample", "a bit left out", DRAW, "31 - kDigitBits * (pass + 1)", "30 - kDigitBits * (pass + 1)"),
    Fault("class_balanced_sample", "labels below 0", "labels.h", "($label >= 0) & ", ""),
    Fault("class_balanced_sample", "every image the first", DRAW, "$random.of($image * $d.pixels + $pixel, $stream)", "$random.of($pixel, $stream)"),
    Fault("class_balanced_sample", "keys without the pixel", DRAW, "static_cast<$u64>($bits) << 32 | $pixel;", "static_cast<$u64>($bits) << 32;"),
    Fault("class_balanced_sample", "bounds of the first image", DRAW, "$d.first.bound[static_cast<$i64>($image) * $d.classes + $label];", "$d.first.bound[$label];"),
    Fault("class_balanced_sample", "more missing than there are", DRAW, "($d.wanted < $valid ? static_cast<int>($d.wanted) : $valid) - $chosen;", "static_cast<int>($d.wanted) - $chosen;"),
    Fault("class_balanced_sample", "chosen pixels again", DRAW, "    if (kSecond && chosen_first($d, $random, $image, $pixel, $label)) return;\n", ""),
    Fault("class_balanced_sample", "counts not cleared", DRAW, "    $d.counts[$i] = 0;\n", ""),
    Fault("class_balanced_sample", "one of each count", DRAW, "atomicAdd($all + $i, $count);", "atomicAdd($all + $i, 1);"),
    Fault("class_balanced_sample", "more than a class has", DRAW, "return $quota < $size ? static_cast<int>($quota) : $size;", "return static_cast<int>($quota);"),
    Fault("class_balanced_sample", "ties left alone", DRAW, "  if ($left == 0) return;\n  const int $buckets", "  return;\n  const int $buckets"),
    Fault("class_balanced_sample", "lists of classes", SOURCE, "return $d.by_share ? 0 : $label;", "return $label;"),
    Fault("class_balanced_sample", "a top-up per class", SOURCE, "  if (!$d.by_share) return -1;\n", ""),
    Fault("class_balanced_sample", "counts of a chunk not cleared", SOURCE, "$s.table[entry($list)] = 0;", ";"),
    Fault("class_balanced_sample", "chunks beyond the first 256 start again", SOURCE, "$s.table[$at] = $before + $upto - $mine;", "$s.table[$at] = $upto - $mine;"),
    Fault("class_balanced_sample", "blocks do not meet", SOURCE, "    grid_sync();\n", ""),
    Fault("class_balanced_sample", "a broken chunk left out", SOURCE, "ceil_div(static_cast<$i64>($pixels), static_cast<$i64>(kListChunk))", "$pixels / static_cast<$i64>(kListChunk)"),
]  # fmt: skip
