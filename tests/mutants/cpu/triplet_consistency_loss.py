"""Planted faults in the C++ kernels of triplet_consistency_loss; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/triplet_consistency_loss.cpp"

FAULTS = [
    Fault("triplet_consistency_loss", "no margin", SOURCE, " + static_cast<Acc>($f.margin)", ""),
    Fault("triplet_consistency_loss", "half the gradient", SOURCE, "return 2 * $static_cast", "return 1 * $static_cast"),
    Fault("triplet_consistency_loss", "the target's gradient reversed", SOURCE, "$slope = (z - y) * $g", "$slope = (y - z) * $g"),
    Fault("triplet_consistency_loss", "negatives drawn near", SOURCE, "$draw.is_positive ? $g : -$g", "$g"),
    Fault("triplet_consistency_loss", "closed hinges give a gradient", SOURCE, "[$i * $loss_stride] > 0", "[$i * $loss_stride] >= 0"),
    Fault("triplet_consistency_loss", "the last channel left out", SOURCE, "if (c < $channels) $step", "if (c + 1 < $channels) $step"),
    Fault("triplet_consistency_loss", "channels taken as adjacent", SOURCE, "if ($stride == 1 && $lanes == kLanes<Accumulate<T>>) {", "if ($lanes == kLanes<Accumulate<T>>) {"),
    Fault("triplet_consistency_loss", "channels written as adjacent", SOURCE, "$to[$i * $stride] = $rounded[$i]", "$to[$i] = $rounded[$i]"),
    Fault("triplet_consistency_loss", "a negative partner", SOURCE, "$least >= 0 && ", ""),
    Fault("triplet_consistency_loss", "draws of the row before", SOURCE, "$w.draws[$next[$row]++] = $draw", "$w.draws[$next[$row]] = $draw"),
]  # fmt: skip
