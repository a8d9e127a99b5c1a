"""Planted faults in the C++ kernels of aggregate_patches; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/aggregate_patches.cpp"

FAULTS = [
    Fault("aggregate_patches", "a patch's last row", SOURCE, "line <= y - $a.down.size", "line < y - $a.down.size + 2", quick=True),
    Fault("aggregate_patches", "a patch's first row", SOURCE, "($line > y ||", "($line >= y ||"),
    Fault("aggregate_patches", "a patch's first column", SOURCE, "from <= -$lanes", "from < 0"),
    Fault("aggregate_patches", "a patch's last column", SOURCE, "$from >= $length) continue;", "$from >= $length - 1) continue;"),
    Fault("aggregate_patches", "edges of logits vote", SOURCE, "    if (!$whole) scale = $inside ? scale : $none;\n", ""),
    Fault("aggregate_patches", "edges of probabilities vote", SOURCE, "      if (!$whole) $along.keep($inside);\n", "      ;\n"),
    Fault("aggregate_patches", "the sum for the mean", SOURCE, "nan_where<Acc>($bad, $most * $scale)", "nan_where<Acc>($bad, $most)"),
    Fault("aggregate_patches", "uncovered pixels are the first class", SOURCE, "$covered & ~$bad ? $best.label", "~$bad ? $best.label"),
    Fault("aggregate_patches", "offsets taken as adjacent", SOURCE, "axis * $offset_strides[2]", "axis"),
    Fault("aggregate_patches", "few nodes though the whole image has more", SOURCE, " && (!$r.full || Nodes<Acc>::serve($a.full_along));", ";"),
]  # fmt: skip
