"""Planted faults in the CUDA C++ kernels of class_thresholds; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cuda/class_thresholds.cu"
BLOCK_SCAN = "cuda/block_scan.h"

FAULTS = [
    Fault("class_thresholds", "negative numbers in the wrong order", SOURCE, "$bits >> 31 ? ~$bits : $bits |", "$bits |"),
    Fault("class_thresholds", "negative numbers not turned back", SOURCE, "$key >> 31 ? $key & 0x7fffffffu : ~$key", "$key & 0x7fffffffu"),
    Fault("class_thresholds", "counts not cleared", SOURCE, "    $s.counts[$i] = 0;\n", ""),
    Fault("class_thresholds", "open classes not cleared", SOURCE, "    if ($i <= kThresholdPasses) $s.open[$i] = 0;\n", ""),
    Fault("class_thresholds", "NaN is a number", SOURCE, "$label[$i] >= 0 && $value[$i] == $value[$i]", "$label[$i] >= 0"),
    Fault("class_thresholds", "numbers above 1 are 1", SOURCE, " + ($value > 1.0f);", ";"),
    Fault("class_thresholds", "negative bins", SOURCE, "$value > 0.0f ? $value : 0.0f,", "$value,"),
    Fault("class_thresholds", "labels not looked at for gaps", SOURCE, "$p.flat($p.confidence.grid) && $p.flat($p.labels.grid)", "$p.flat($p.confidence.grid)"),
    Fault("class_thresholds", "gaps between rows", SOURCE, "($g.height == 1 || $g.row_stride == $row) &&", ""),
    Fault("class_thresholds", "gaps between images", SOURCE, "|| $g.image_stride == $image)", "|| true)"),
    Fault("class_thresholds", "one of each count", SOURCE, "if ($count) atomicAdd($s.counts + $i, $count);", "if ($count) atomicAdd($s.counts + $i, 1);"),
    Fault("class_thresholds", "none from the top", SOURCE, "$count - ($whole > 1 ? $whole : 1)", "$count - $whole"),
    Fault("class_thresholds", "rank rounded down", SOURCE, "$whole < $share ? $whole + 1 : $whole", "$whole"),
    Fault("class_thresholds", "numbers from 0 on", SOURCE, "$low = $bin == 0 ? 0 : $bin >", "$low = $bin >"),
    Fault("class_thresholds", "a pass too few", SOURCE, "2 * kThresholdPasses + 1;", "2 * kThresholdPasses - 1;"),
    Fault("class_thresholds", "blocks do not meet", SOURCE, "    grid_sync();\n", ""),
    Fault("class_thresholds", "lanes alike counted once", BLOCK_SCAN, "atomicAdd($counts + $at, __popc($alike));", "atomicAdd($counts + $at, 1);"),
]  # fmt: skip
