"""Planted faults in the Triton kernels of lovasz_softmax; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "lovasz_softmax.py"

FAULTS = [
    Fault("_sum_errors", "errors of the wrong classes", SOURCE, "$own = $k[:, None] == $label[None, :]", "$own = $k[:, None] != $label[None, :]", quick=True),
    Fault("_sum_errors", "own errors are probabilities", SOURCE, "$error = tl.where($own, 1 - $p, $p)", "$error = tl.where($own, $p, $p)"),
    Fault("_sum_errors", "the largest logit of all pixels", SOURCE, "(z - tl.max(z, 0)[None, :]) * LOG2_E", "(z - tl.max(z)) * LOG2_E"),
    Fault("_sum_errors", "no normaliser", SOURCE, "        $p = $p * (1 / tl.sum($p, 0))[None, :]\n", ""),
    Fault("_sum_errors", "bins are rounded", SOURCE, "$place = $error * $bins\n", "$place = $error * $bins + 0.5\n"),
    Fault("_sum_errors", "a mean over all classes", SOURCE, "$share = $occurs / tl.maximum(tl.sum($occurs, 0), 1.0)", "$share = $occurs / classes"),
    Fault("_sum_errors", "tables of the first class", SOURCE, "tl.load($table + ($k * $bins)[:, None] + $place, mask", "tl.load($table + ($k * 0)[:, None] + $place, mask"),
    Fault("_sum_errors", "ignored pixels count", SOURCE, "$counted = $valid[None, :] & ($occurs > 0)[:, None]", "$counted = (i < count)[None, :] & ($occurs > 0)[:, None]"),
    Fault("_sum_errors", "errors of the last pixels", SOURCE, "cell_loss += tl.sum(", "cell_loss = tl.sum("),
    Fault("_sum_errors", "own errors grow", SOURCE, "$slope = tl.where($own, -$weight, $weight) * $share", "$slope = tl.where($own, $weight, $weight) * $share"),
    Fault("_count_errors", "errors of the wrong classes", SOURCE, "$own = $k[:, None] == $label[None, :]", "$own = $k[:, None] != $label[None, :]"),
    Fault("_count_errors", "own errors are probabilities", SOURCE, "$error = tl.where($own, 1 - $p, $p)", "$error = tl.where($own, $p, $p)"),
    Fault("_count_errors", "the largest logit of all pixels", SOURCE, "(z - tl.max(z, 0)[None, :]) * LOG2_E", "(z - tl.max(z)) * LOG2_E"),
    Fault("_count_errors", "no normaliser", SOURCE, "        $p = $p * (1 / tl.sum($p, 0))[None, :]\n", ""),
    Fault("_count_errors", "bins are rounded", SOURCE, "$place = $error * $bins\n", "$place = $error * $bins + 0.5\n"),
    Fault("_count_errors", "ignored pixels are counted", SOURCE, "$counted = $valid[None, :] & (k < $classes)[:, None]", "$counted = (i < count)[None, :] & (k < $classes)[:, None]"),
    Fault("_count_errors", "the lowest bin twice", SOURCE, "mask=$counted & ($place > 0), $sem", "mask=$counted, $sem"),
    Fault("_count_errors", "the lowest bin never", SOURCE, "$lowest += ($counted & ($place == 0)).to(tl.int32)", "$lowest += ($counted & ($place < 0)).to(tl.int32)"),
    Fault("_count_errors", "the lowest bin of the last pixels", SOURCE, "lowest += ($counted", "lowest = ($counted"),
    Fault("_count_errors", "all of the lowest bin are the class's own", SOURCE, "($counted & ($place == 0) & $own).to(tl.int32)", "($counted & ($place == 0)).to(tl.int32)"),
    Fault("_weigh_bins", "all pixels are the class's own", SOURCE, "mask=b < $bins, other=0) >> 32, 0)", "mask=b < $bins, other=0), 0)"),
    Fault("_weigh_bins", "the last bins' own", SOURCE, "total += tl.sum(", "total = tl.sum("),
    Fault("_weigh_bins", "from the smallest error up", SOURCE, "$b = $bins - 1 - $start - tl.arange(0, BLOCK)", "$b = tl.where($start + tl.arange(0, BLOCK) < $bins, $start + tl.arange(0, BLOCK), -1)"),
    Fault("_weigh_bins", "numbers with the own in them", SOURCE, "$number = $packed & 0xFFFFFFFF", "$number = $packed"),
    Fault("_weigh_bins", "own of this block only", SOURCE, "$own_so_far = $seen + tl.cumsum(own, 0)", "$own_so_far = tl.cumsum(own, 0)"),
    Fault("_weigh_bins", "steps from nothing", SOURCE, " - _jaccard($total, $own_so_far - $own, $so_far - $number)", ""),
    Fault("_weigh_bins", "steps back by pixels only", SOURCE, "_jaccard($total, $own_so_far - $own, $so_far - $number)", "_jaccard($total, $own_so_far, $so_far - $number)"),
    Fault("_weigh_bins", "the step is not shared", SOURCE, "$step / tl.maximum($number, 1).to(tl.float64)", "$step"),
    Fault("_weigh_bins", "a class that does not occur counts", SOURCE, "tl.store($present + $k, tl.where($total > 0, 1.0, 0.0))", "tl.store($present + $k, 1.0)"),
    Fault("_weigh_bins", "the union without the pixels", SOURCE, "tl.maximum($total + $rank - $seen, 1)", "tl.maximum($total + 0 * $rank, 1)"),
]  # fmt: skip
