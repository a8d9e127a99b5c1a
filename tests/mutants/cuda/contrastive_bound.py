"""Planted faults in the CUDA C++ kernels of contrastive_bound; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

PREPARE = "cuda/contrastive_bound_prepare.h"
FORWARD_KERNEL = "cuda/contrastive_bound_forward_kernel.h"
BACKWARD_KERNEL = "cuda/contrastive_bound_backward_kernel.h"
KERNEL = "cuda/kernel.h"

FAULTS = [
    Fault("contrastive_bound", "covariance twice too large", PREPARE, "$s / (2 * $p.temperature * $p.temperature)", "$s / ($p.temperature * $p.temperature)", quick=True),
    Fault("contrastive_bound", "float64 statistics read as float32", PREPARE, "$wide ? $doubles[$i]", "$wide ? floats[$i]"),
    Fault("contrastive_bound", "statistics taken as dense", PREPARE, "+ $c * $channel_stride", "+ $c"),
    Fault("contrastive_bound", "length 0 divides", PREPARE, "$squares > 0 ? ", "$squares >= 0 ? "),
    Fault("contrastive_bound", "no barrier before staging", FORWARD_KERNEL, "      __syncthreads();  // $offsets $are $there; $the $step $before is $used $up\n", ""),
    Fault("contrastive_bound", "one channel too many", "cuda/pixel_stage.h", "if ($c >= $width) continue;", "if ($c > $width) continue;"),
    Fault("contrastive_bound", "own logit with covariance", FORWARD_KERNEL, "$own = first;", "$own = first + two[k] * inverse * inverse;"),
    Fault("contrastive_bound", "sum not brought to the new maximum", FORWARD_KERNEL, "    $total *= exponential($largest - $next);\n", ""),
    Fault("contrastive_bound", "norm of the last channel", FORWARD_KERNEL, "$squares[$i] += $square[$i];", "$squares[$i] = $square[$i];"),
    Fault("contrastive_bound", "no barrier after the arrays", BACKWARD_KERNEL, "$c0, $k0, $count);\n        __syncthreads();", "$c0, $k0, $count);"),
    Fault("contrastive_bound", "own class of the wrong step", BACKWARD_KERNEL, "$own == $k0 + $k ?", "$own == $k ?"),
    Fault("contrastive_bound", "channels beyond the last", BACKWARD_KERNEL, "$inside ? $b.in.means[$from] : Acc(0)", "$b.in.means[$from]"),
    Fault("contrastive_bound", "norm left out of the part along q", BACKWARD_KERNEL, "$sum[1] + 2 * $inverse * $sum[2]", "$sum[1] + 2 * $sum[2]"),
    Fault("contrastive_bound", "channels written beyond the last", BACKWARD_KERNEL, "if ($c + j < $b.in.channels) $b.slope", "$b.slope"),
    Fault("contrastive_bound", "gradient taken as dense", BACKWARD_KERNEL, "$b.grad[locate($b.grad_grid, $pixel)]", "$b.grad[$pixel]"),
    Fault("contrastive_bound", "bf16 cut off instead of rounded", KERNEL, "$bits + 0x7fffu + ($bits >> 16 & 1u)", "$bits"),
    Fault("contrastive_bound", "alignment of rows not looked at", KERNEL, " && fits($at.grid.row_stride)", ""),
    Fault("contrastive_bound", "alignment of the first element not looked at", KERNEL, "reinterpret_cast<unsigned long long>($at.buffer.data) % (4 * sizeof(T)) == 0", "true"),
]  # fmt: skip
