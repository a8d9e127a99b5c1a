"""Planted faults in the CUDA C++ kernels of mode_losses; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

FORWARD_KERNEL = "cuda/mode_losses_forward_kernel.h"
BACKWARD_KERNEL = "cuda/mode_losses_backward_kernel.h"
SOURCE = "cuda/mode_losses.cu"

FAULTS = [
    Fault("mode_losses", "last channel left out", FORWARD_KERNEL, "for (int $c = 0; $c < $width; ++$c) {\n      Acc $e", "for (int $c = 0; $c + 1 < $width; ++$c) {\n      Acc $e"),
    Fault("mode_losses", "no barrier after staging", FORWARD_KERNEL, "$c0, $width, $n0);\n      __syncthreads();\n", "$c0, $width, $n0);\n", quick=True),
    Fault("mode_losses", "sums not cleared", FORWARD_KERNEL, "    $sums.clear();\n", "    if (n0 == 0) $sums.clear();\n"),
    Fault("mode_losses", "ties go to the last mode", FORWARD_KERNEL, "$m == 0 || distance < $best", "$m == 0 || distance <= $best"),
    Fault("mode_losses", "own class is a rival", FORWARD_KERNEL, "      $own_logit = $value;\n    } else if", "      $own_logit = $value;\n    }\n    if"),
    Fault("mode_losses", "square left out of the slope", FORWARD_KERNEL, "if ($f.square) $slope *= 2 * $distance;", ""),
    Fault("mode_losses", "margin left out", FORWARD_KERNEL, "$mine - other + $f.margin", "$mine - other"),
    Fault("mode_losses", "modes of the first tile", FORWARD_KERNEL, "$f.modes.at($n0 + $n, $c0 + $c)", "$f.modes.at($n, $c0 + $c)"),
    Fault("mode_losses", "backward: no barrier before the pixels", BACKWARD_KERNEL, "    __syncthreads();  // $the $pixels $before are $used $up\n", ""),
    Fault("mode_losses", "backward: first tile's modes only", BACKWARD_KERNEL, "if ($first == $begin || $b.tiles > 1) $stage", "if ($first == $begin) $stage"),
    Fault("mode_losses", "backward: hinge of an inactive pixel", BACKWARD_KERNEL, "$own >= 0 && $b.triplet[$pixel] > 0", "$own >= 0"),
    Fault("mode_losses", "backward: rival pulls too", BACKWARD_KERNEL, "$k == $tile.rival[$p] ? Acc(-1)", "$k == $tile.rival[$p] ? Acc(1)"),
    Fault("mode_losses", "backward: every mode of the class", BACKWARD_KERNEL, "if ($b.nearest[$at] == $n - $k * $b.modes.per_class) {", "{"),
    Fault("mode_losses", "backward: gradient taken as dense", BACKWARD_KERNEL, "$b.grad_triplet[locate($b.triplet_grid, $pixel)]", "$b.grad_triplet[$pixel]"),
    Fault("mode_losses", "backward: sum of the spread left out", BACKWARD_KERNEL, "$sum[$i] += $s;\n", "$sum[$i] = $s;\n"),
    Fault("mode_losses", "backward: strides of the features for the slope", BACKWARD_KERNEL, "($c0 + $c) * $b.slope_channel_stride", "($c0 + $c) * $b.channel_stride"),
    Fault("mode_losses", "merge: one element too many", BACKWARD_KERNEL, "if ($i >= $m.size) return;", "if ($i > $m.size) return;"),
    Fault("mode_losses", "plan: too few blocks of pixels", SOURCE, "ceil_div<$u32>($p.pixels, kModePixels)", "$p.pixels / kModePixels"),
]  # fmt: skip
