"""Planted faults in the C++ kernels of upsample_cross_entropy; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

UPSAMPLE_PIXELS = "cpu/upsample_pixels.h"
UPSAMPLE_TILE = "cpu/upsample_tile.h"
UPSAMPLE_NODES = "cpu/upsample_nodes.h"
SOURCE = "cpu/upsample_cross_entropy.cpp"

FAULTS = [
    Fault("upsample_cross_entropy", "a wrong coefficient", UPSAMPLE_PIXELS, "0.055507336f", "0.054507336f", quick=True),
    Fault("upsample_cross_entropy", "positions before the first node", "upsample_position.h", "$middle > $size ? $middle - $size : 0", "$middle - $size"),
    Fault("upsample_cross_entropy", "both rows of a band the same", UPSAMPLE_TILE, "std::min($band + $i, $u_.scores.height - 1)", "$band"),
    Fault("upsample_cross_entropy", "the last tile's columns counted", UPSAMPLE_TILE, "$i = $count_; $i < kTile", "$i = $count_ + 1; $i < kTile"),
    Fault("upsample_cross_entropy", "an ignored pixel's powers kept", UPSAMPLE_TILE, "    if (!any) return;\n", "    return;\n"),
    Fault("upsample_cross_entropy", "the last row of nodes of a chunk forgotten", UPSAMPLE_NODES, "row < $c.first_node + $c.nodes)", "row < $c.first_node + $c.nodes - 1)"),
    Fault("upsample_cross_entropy", "partial sums not started at zero", UPSAMPLE_NODES, "    std::fill($to, $to + chunk($item).nodes * $up.node_row(), Acc(0));\n", ""),
    Fault("upsample_cross_entropy", "ignore_index counted", "labels.h", " & ($label != $ignored);", ";"),
    Fault("upsample_cross_entropy", "a tile's sums counted again", SOURCE, "      $loss_sum_[$v] = $share_sum_[$v] = V{};\n", ""),
    Fault("upsample_cross_entropy", "the label's share of the smoothing", SOURCE, "$share * (1 - $p_.smoothing)", "$share"),
]  # fmt: skip
