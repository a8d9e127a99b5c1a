"""Planted faults in the CUDA C++ kernels of contrastive_bound_full; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

KERNELS = "cuda/contrastive_bound_full_kernels.h"
CONTRASTIVE_BOUND_FORWARD_KERNEL = "cuda/contrastive_bound_forward_kernel.h"
CONTRASTIVE_BOUND_BACKWARD_KERNEL = "cuda/contrastive_bound_backward_kernel.h"
SOURCE = "cuda/contrastive_bound_full.cu"

FAULTS = [
    Fault("contrastive_bound_full", "no barrier before the turned tile", KERNELS, "Acc(0);\n  }\n  __syncthreads();\n  for (int $i = threadIdx.y", "Acc(0);\n  }\n  for (int $i = threadIdx.y"),
    Fault("contrastive_bound_full", "norm of the first row only", KERNELS, "$row < $s.channels; $row += $s.parts", "$row < 1; $row += $s.parts"),
    Fault("contrastive_bound_full", "last part of the norm left out", KERNELS, "$part < $s.parts; ++$part", "$part < $s.parts - 1; ++$part"),
    Fault("contrastive_bound_full", "columns taken as dense", KERNELS, "from + $c * $m.column_stride", "from + $c"),
    Fault("contrastive_bound_full", "float64 covariance read as float32", KERNELS, "$wide ? static_cast<Acc>($doubles[$offset])", "$wide ? static_cast<Acc>(floats[$offset])"),
    Fault("contrastive_bound_full", "weights of the first class", KERNELS, "* $p.classes + $k] * $scale", "* $p.classes] * $scale"),
    Fault("contrastive_bound_full", "no weights", KERNELS, "kWeights ? $value.at[$j] * $weight[$j] : $value.at[$j]", "$value.at[$j]"),
    Fault("contrastive_bound_full", "lower triangle once", KERNELS, "$channel >= $twice ? Acc(2) : Acc(1)", "Acc(1)"),
    Fault("contrastive_bound_full", "diagonal square twice", KERNELS, "$a.twice = $c0 + Tile::$width;", "$a.twice = $c0;"),
    Fault("contrastive_bound_full", "slope at the first channels", KERNELS, "$p.to + ($c0 * $p.pitch + $pixel0)", "$p.to + $pixel0"),
    Fault("contrastive_bound_full", "quadratic term of the first tile of classes", CONTRASTIVE_BOUND_FORWARD_KERNEL, "$f.quadratic[$pixel * $classes + $k0 + $k]", "$f.quadratic[$pixel * $classes + $k]"),
    Fault("contrastive_bound_full", "quadratic term not read", CONTRASTIVE_BOUND_FORWARD_KERNEL, "if ($f.quadratic && pixel < in.pixels) {", "if (false) {"),
    Fault("contrastive_bound_full", "slope of another group's pixels", CONTRASTIVE_BOUND_BACKWARD_KERNEL, "($first - $b.begin) + y * kQuad", "$first + y * kQuad"),
    Fault("contrastive_bound_full", "pixels of the first group", CONTRASTIVE_BOUND_BACKWARD_KERNEL, "$first = $b.begin + blockIdx.x * kTile;", "$first = blockIdx.x * kTile;"),
    Fault("contrastive_bound_full", "slope not added", CONTRASTIVE_BOUND_BACKWARD_KERNEL, "$slopes.two[$i][$j] += $given[$j].at[$i];", ";"),
    Fault("contrastive_bound_full", "posterior of the first group read", SOURCE, "global<const Acc>($posterior) + $begin * $p.classes;", "global<const Acc>($posterior);"),
    Fault("contrastive_bound_full", "posterior of the first group written", SOURCE, "$to + static_cast<$i64>($begin) * $p.classes;", "$to;"),
    Fault("contrastive_bound_full", "channels of scratch rounded down", SOURCE, "$rows = ceil_div($p.channels, $width) * $width;", "$rows = std::max(1, $p.channels / $width) * $width;"),
]  # fmt: skip
