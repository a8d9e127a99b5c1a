"""Planted faults in the Triton kernels of triplet_consistency_loss; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "triplet_consistency_loss.py"

FAULTS = [
    Fault("_triplet_losses", "a negative partner", SOURCE, "return $row, ($row >= 0) & ($row < $sources)", "return $row, $row < $sources"),
    Fault("_triplet_losses", "partners side by side", SOURCE, "$row = tl.load($index + $i.to(tl.int64) * stride, mask", "$row = tl.load($index + $i.to(tl.int64), mask"),
    Fault("_triplet_losses", "rows side by side", SOURCE, "$at = ($row.to(tl.int64) * row_stride)[:, None]", "$at = ($row.to(tl.int64) * channels)[:, None]"),
    Fault("_triplet_losses", "channels side by side", SOURCE, "spaced($d, $channel_stride)[None, :]\n    return", "spaced($d, None)[None, :]\n    return"),
    Fault("_triplet_losses", "no mask of the channels", SOURCE, "mask=$known[:, None] & (d < $channels)[None, :], other=0.0)", "mask=$known[:, None] & (d >= 0)[None, :], other=0.0)"),
    Fault("_triplet_losses", "distances of the last channels", SOURCE, "        $total += $to_near * $to_near", "        $total = $to_near * $to_near"),
    Fault("_triplet_losses", "the far partner is not far", SOURCE, "$to_near * $to_near - $to_far * $to_far", "$to_near * $to_near + $to_far * $to_far"),
    Fault("_triplet_losses", "no margin", SOURCE, "$hinge = tl.sum($total, 1) + $margin", "$hinge = tl.sum($total, 1)", quick=True),
    Fault("_triplet_losses", "the hinge is open", SOURCE, "    $hinge = tl.where($hinge < 0, 0.0, $hinge)  # $keeps NaN\n", ""),
    Fault("_triplet_losses", "NaN becomes 0", SOURCE, "tl.where($hinge < 0, 0.0, $hinge)", "tl.where($hinge >= 0, $hinge, 0.0)"),
    Fault("_pull_targets", "a negative partner", SOURCE, "return $row, ($row >= 0) & ($row < $sources)", "return $row, $row < $sources"),
    Fault("_pull_targets", "a partner beyond the source", SOURCE, "return $row, ($row >= 0) & ($row < $sources)", "return $row, $row >= 0"),
    Fault("_pull_targets", "partners side by side", SOURCE, "$row = tl.load($index + $i.to(tl.int64) * stride, mask", "$row = tl.load($index + $i.to(tl.int64), mask"),
    Fault("_pull_targets", "closed hinges pull", SOURCE, "mask=i < $rows, other=0.0) > 0", "mask=i < $rows, other=0.0) >= 0"),
    Fault("_pull_targets", "the slope once", SOURCE, "$g = 2 * tl.load($grad + $i.to", "$g = tl.load($grad + $i.to"),
    Fault("_pull_targets", "the wrong sign", SOURCE, "    $apart -= _rows(", "    $apart = -$apart + _rows("),
    Fault("_pull_targets", "the near partner alone", SOURCE, "    $apart -= _rows($source, $p,", "    $apart = -_rows($source, $p,"),
    Fault("_pull_targets", "one partner is enough", SOURCE, "    active = $near & $far\n", "    active = $near\n"),
    Fault("_pull_targets", "the first channels again and again", SOURCE, "$d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)\n    active", "$d = tl.arange(0, BLOCK_D)\n    active"),
    Fault("_pull_targets", "positive draws twice", SOURCE, "tl.store($keys + $rows + $i, tl.where($active, $n,", "tl.store($keys + $rows + $i, tl.where($active, p,"),
    Fault("_add_draws", "every place adds", SOURCE, "if ($row >= $sources) | ($before == $row):", "if $row >= $sources:"),
    Fault("_add_draws", "the first list is left out", SOURCE, "tl.load($keys + $place - 1, mask=$place > 0, other=-1)", "tl.load($keys + tl.maximum($place - 1, 0))"),
    Fault("_add_draws", "the first draws of a list", SOURCE, "        $more = tl.sum($own.to(tl.int32), 0) == BLOCK_R\n", "        $more = False\n"),
    Fault("_add_draws", "a full tile is the last one", SOURCE, "$more = tl.sum($own.to(tl.int32), 0) == BLOCK_R", "$more = tl.sum($own.to(tl.int32), 0) > BLOCK_R"),
    Fault("_add_draws", "places stay where they are", SOURCE, "        $place += BLOCK_R\n", "        $place += BLOCK_R - 1\n"),
    Fault("_add_draws", "draws of the next row", SOURCE, "other=-1) == $row\n        $draw", "other=-1) >= $row\n        $draw"),
    Fault("_add_draws", "draws beyond the last one", SOURCE, "mask=j < 2 * $rows, other=-1) == $row", "mask=j < 4 * $rows, other=-1) == $row"),
    Fault("_add_draws", "the number of the draw", SOURCE, "$i = tl.where($draw < $rows, $draw, $draw - $rows)", "$i = tl.where($draw < $rows, $draw, 0 * $draw)"),
    Fault("_add_draws", "all draws are positive", SOURCE, "        $g = tl.where(draw < $rows, $g, -$g)\n", ""),
    Fault("_add_draws", "the target alone", SOURCE, "$apart = $s[None, :] - _rows(", "$apart = -_rows("),
]  # fmt: skip
