"""Planted faults in the CUDA C++ kernels of class_moments; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

WALK = "cuda/class_moments_walk.h"
KERNEL = "cuda/kernel.h"
SOURCE = "cuda/class_moments.cu"

FAULTS = [
    Fault("class_moments", "last pixel left out", WALK, "$at = $begin; $at < end; $at += kWarp", "$at = $begin; $at + 1 < end; $at += kWarp"),
    Fault("class_moments", "no barrier after staging", WALK, "      __syncwarp();\n    }\n    const $u32 $valid", "    }\n    const $u32 $valid"),
    Fault("class_moments", "no flush when the label changes", WALK, "      flush();\n      $label = $next;", "      $label = $next;"),
    Fault("class_moments", "counts not cleared", WALK, "$tables.counts[$k] = 0;", ";"),
    Fault("class_moments", "channels in the wrong order", WALK, "$c % V * kWarp + $c / V", "$c"),
    Fault("class_moments", "a run of labels across warps has no first pixel", WALK, "($lane == 0 || $mine != $before)", "($mine != $before)"),
    Fault("class_moments", "another warp's tile", WALK, "$stage = shared<T>($end + $warp * $tile);", "$stage = shared<T>($end);"),
    Fault("class_moments", "64-bit labels cut to 32", KERNEL, "$labels.longs[$at];", "static_cast<int>($labels.longs[$at]);"),
    Fault("class_moments", "uint8 labels read as int32", KERNEL, "$labels.size == 1 ? $labels.bytes[$at]", "$labels.size == 1 ? $labels.ints[$at]"),
    Fault("class_moments", "bf16 shifted wrongly", KERNEL, "static_cast<$u32>(x.bits) << 16", "static_cast<$u32>(x.bits) << 15"),
    Fault("class_moments", "rows of an image in the wrong order", KERNEL, "($row - $image * $grid.height) * $grid.row_stride", "$row * $grid.row_stride"),
    Fault("class_moments", "last chunk left out", SOURCE, "$chunk = y; $chunk < $m.chunks;", "$chunk = y; $chunk < $m.chunks - 1;"),
    Fault("class_moments", "pivots not brought together: squares", SOURCE, "$d * (2 * $other_sum + $other_n * $d)", "$d * ($other_n * $d)"),
    Fault("class_moments", "pivot 0", SOURCE, "if ($n == 0) $pivot = $other_pivot;", ""),
    Fault("class_moments", "mean without its pivot", SOURCE, "$mine.pivot + $shift;", "$shift;"),
    Fault("class_moments", "last channels left out", SOURCE, "ceil_div($p.channels, kWarp * V)", "$p.channels / (kWarp * V)"),
    Fault("class_moments", "alignment of rows not looked at", KERNEL, " && fits($at.grid.row_stride)", ""),
    Fault("class_moments", "alignment of the first element not looked at", KERNEL, "reinterpret_cast<unsigned long long>($at.buffer.data) % (4 * sizeof(T)) == 0", "true"),
]  # fmt: skip
