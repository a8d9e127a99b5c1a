"""Planted faults in the CUDA C++ kernels of sinkhorn; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SUMS = "cuda/sinkhorn_sums.h"
ROUNDS = "cuda/sinkhorn_rounds.h"
SOURCE = "cuda/sinkhorn.cu"

FAULTS = [
    Fault("sinkhorn", "exponent of one float", SUMS, "fmaf($value, $rest * 0.693147181f, $value)", "$value"),
    Fault("sinkhorn", "difference rounded", SUMS, "fmaf(lost, $s.scale, ", "fmaf(0.0f, $s.scale, "),
    Fault("sinkhorn", "threshold far too high", SUMS, "kWidest = 60", "kWidest = 600"),
    Fault("sinkhorn", "larger exponent not subtracted", SUMS, "exponential($above > 0 ? -$above : $above)", "exponential($above)"),
    Fault("sinkhorn", "compensated by the whole term", SUMS, "$lost = ($next - $sum) - $term;", "$lost = $next - $sum;"),
    Fault("sinkhorn", "one row too many", ROUNDS, "const bool $inside = row < $end;", "const bool $inside = row <= $end;"),
    Fault("sinkhorn", "one class too many", ROUNDS, "if ($k >= $s.classes) continue;", "if ($k > $s.classes) continue;"),
    Fault("sinkhorn", "kept rows only", ROUNDS, "for (int $step = kSlots; $step < $steps; ++$step) {\n      float $e[kOwn];\n      $add", "for (int $step = kSlots; $step < kSlots; ++$step) {\n      float $e[kOwn];\n      $add"),
    Fault("sinkhorn", "later rows once too few", ROUNDS, "$skip > kSlots ? $skip : kSlots; step < $steps", "$skip > kSlots ? $skip : kSlots; step + 1 < $steps"),
    Fault("sinkhorn", "no barrier after the sums of warps", ROUNDS, "$values[$j];\n        }\n      }\n      __syncthreads();\n", "$values[$j];\n        }\n      }\n", quick=True),
    Fault("sinkhorn", "first block only", ROUNDS, "for (int $b = $part; $b < $s.blocks; $b += $parts)", "for (int $b = $part; $b < 1; $b += $parts)"),
    Fault("sinkhorn", "scalings not normalised", ROUNDS, "static_cast<float>($logs[$t] / $largest)", "static_cast<float>($logs[$t])"),
    Fault("sinkhorn", "share of problem 0", ROUNDS, "$problem * $s.share_problem_stride", "0 * $s.share_problem_stride"),
    Fault("sinkhorn", "scores of problem 0", ROUNDS, "$problem * $s.problem_stride + $row", "$row"),
    Fault("sinkhorn", "result of the first rows", ROUNDS, "$s.current + $row - $first_row)", "$s.current + $row)"),
    Fault("sinkhorn", "one buffer", SOURCE, "$block.narrow_pass(round % 2);", "$block.narrow_pass((round - 1) % 2);"),
    Fault("sinkhorn", "blocks do not meet", SOURCE, "        $block.narrow_pass($round % 2);\n        meet();", "        $block.narrow_pass($round % 2);"),
    Fault("sinkhorn", "steps: wide sums of every round are the first", SOURCE, "$block.wide_pass($step == 0, $step % 2)", "$block.wide_pass(true, $step % 2)"),
]  # fmt: skip
