"""Planted faults in the CUDA C++ kernels of triplet_consistency_loss; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

ROWS = "cuda/triplet_consistency_loss_rows.h"
SOURCE = "cuda/triplet_consistency_loss.cu"

FAULTS = [
    Fault("triplet_consistency_loss", "quads overlap", ROWS, "($quads ? kTripletQuad : 1)),", "(1)),"),
    Fault("triplet_consistency_loss", "quads beyond the last channel read", ROWS, "if ($lane.first >= $lane.end) return x;", "if ($lane.first > $lane.end) return x;"),
    Fault("triplet_consistency_loss", "quads beyond the last channel written", ROWS, "if ($lane.first < $lane.end) $store_pack", "if ($lane.first <= $lane.end) $store_pack"),
    Fault("triplet_consistency_loss", "partners before the first row", ROWS, "$n >= 0 && $n < $sources;", "$n < $sources;"),
    Fault("triplet_consistency_loss", "no margin", ROWS, "$near - $far + $f.margin", "$near - $far"),
    Fault("triplet_consistency_loss", "half a warp summed", ROWS, "$flip > 0; $flip /= 2", "$flip > 1; $flip /= 2"),
    Fault("triplet_consistency_loss", "rows without a loss", ROWS, "return $loss[$i * $loss_stride] > 0 && $t.", "return $t."),
    Fault("triplet_consistency_loss", "half the slope", ROWS, "const Acc $g = 2 * $b.grad", "const Acc $g = $b.grad"),
    Fault("triplet_consistency_loss", "negative partners among the positive ones", ROWS, "$b.keys[$b.t.rows + $i] = static_cast<$u32>($active ? $n", "$b.keys[$b.t.rows + $i] = static_cast<$u32>($active ? p"),
    Fault("triplet_consistency_loss", "rows never go on from an earlier run", ROWS, "$begin > 0 && $b.keys[$begin - 1] == $b.keys[$begin]", "false"),
    Fault("triplet_consistency_loss", "sum of the rows before", ROWS, "    $sum = Pack<Acc, 4>{};\n", ""),
    Fault("triplet_consistency_loss", "one place for two sums", ROWS, "store_row($to, 2 * $run + !$before,", "store_row($to, 2 * $run,"),
    Fault("triplet_consistency_loss", "first run left out", ROWS, "part(2 * static_cast<$i64>($first) + 1);", "part(2 * static_cast<$i64>($first));"),
    Fault("triplet_consistency_loss", "rows apart by any number in quads", SOURCE, "(rows <= 1 || $s.row % 4 == 0) &&", ""),
    Fault("triplet_consistency_loss", "any number of channels in quads", SOURCE, "$channels % 4 == 0 && ", ""),
    Fault("triplet_consistency_loss", "one tile of the runs", SOURCE, "triplet_grid($p.runs() * $b.tiles, kTripletWarps)", "triplet_grid($p.runs(), kTripletWarps)"),
    Fault("triplet_consistency_loss", "a broken run left out", SOURCE, "ceil_div<$i64>(2 * static_cast<$i64>($rows), kTripletRun)", "2 * static_cast<$i64>($rows) / kTripletRun"),
    Fault("triplet_consistency_loss", "unsorted draws", SOURCE, "$b.keys = $sort.sorted_keys();", ""),
]  # fmt: skip
