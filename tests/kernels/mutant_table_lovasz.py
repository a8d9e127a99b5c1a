"""The planted faults of lovasz_softmax; see mutant_table.py."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

import triton_room

_of = triton_room.load_file(triton_room.HERE / "mutant_table.py", "triton_room_mutant_table")._of
LOVASZ = "lovasz_softmax.py"

ERRORS = [
    ("errors of the wrong classes", LOVASZ, "own = k[:, None] == label[None, :]", "own = k[:, None] != label[None, :]"),
    ("own errors are probabilities", LOVASZ, "error = tl.where(own, 1 - p, p)", "error = tl.where(own, p, p)"),
    ("the largest logit of all pixels", LOVASZ, "(z - tl.max(z, 0)[None, :]) * LOG2_E", "(z - tl.max(z)) * LOG2_E"),
    ("powers of two", LOVASZ, "(z - tl.max(z, 0)[None, :]) * LOG2_E", "z - tl.max(z, 0)[None, :]"),
    ("no normaliser", LOVASZ, "        p = p * (1 / tl.sum(p, 0))[None, :]\n", ""),
    ("bins are rounded", LOVASZ, "place = error * bins\n", "place = error * bins + 0.5\n"),
    ("a bin less", LOVASZ, "place = error * bins\n", "place = error * (bins - 1)\n"),
    ("a bin beyond the last one", LOVASZ, "bins - 1.0).to(tl.int32)", "bins + 0.0).to(tl.int32)"),
    ("probabilities are logits", LOVASZ, "    if not PROBABILITIES:\n        p = tl.exp2", "    if True:\n        p = tl.exp2"),
]  # fmt: skip
COUNT = [
    *ERRORS,
    ("ignored pixels are counted", LOVASZ, "counted = valid[None, :] & (k < classes)[:, None]", "counted = (i < count)[None, :] & (k < classes)[:, None]"),
    ("the lowest bin twice", LOVASZ, "mask=counted & (place > 0), sem", "mask=counted, sem"),
    ("the lowest bin never", LOVASZ, "lowest += (counted & (place == 0)).to(tl.int32)", "lowest += (counted & (place < 0)).to(tl.int32)"),
    ("the lowest bin of the last pixels", LOVASZ, "lowest += (counted", "lowest = (counted"),
    ("all of the lowest bin are the class's own", LOVASZ, "(counted & (place == 0) & own).to(tl.int32)", "(counted & (place == 0)).to(tl.int32)"),
    ("the class's own are not counted", LOVASZ, "one = tl.where(own, 0x100000001, 1)", "one = tl.where(own, 1, 1)"),
    ("the class's own count once", LOVASZ, "one = tl.where(own, 0x100000001, 1)", "one = tl.where(own, 0x100000000, 1)"),
    ("bins of the first class", LOVASZ, "counts + (k * bins)[:, None] + place, one", "counts + (k * 0)[:, None] + place, one"),
    ("the lowest bin of the first class", LOVASZ, "tl.atomic_add(counts + k * bins, packed", "tl.atomic_add(counts + k * 0, packed"),
    ("the last program's lowest bin", LOVASZ, 'tl.atomic_add(counts + k * bins, packed, mask=(k < classes) & (packed > 0), sem="relaxed")', "tl.store(counts + k * bins, packed, mask=(k < classes) & (packed > 0))"),
]  # fmt: skip
WEIGH = [
    ("all pixels are the class's own", LOVASZ, "mask=b < bins, other=0) >> 32, 0)", "mask=b < bins, other=0), 0)"),
    ("the last bins' own", LOVASZ, "total += tl.sum(", "total = tl.sum("),
    ("from the smallest error up", LOVASZ, "b = bins - 1 - start - tl.arange(0, BLOCK)", "b = tl.where(start + tl.arange(0, BLOCK) < bins, start + tl.arange(0, BLOCK), -1)"),
    ("a bin is left out", LOVASZ, "b = bins - 1 - start - tl.arange(0, BLOCK)", "b = bins - 2 - start - tl.arange(0, BLOCK)"),
    ("numbers with the own in them", LOVASZ, "number = packed & 0xFFFFFFFF", "number = packed"),
    ("own of this block only", LOVASZ, "own_so_far = seen + tl.cumsum(own, 0)", "own_so_far = tl.cumsum(own, 0)"),
    ("pixels of this block only", LOVASZ, "so_far = rank + tl.cumsum(number, 0)\n", "so_far = tl.cumsum(number, 0)\n"),
    ("steps from nothing", LOVASZ, " - _jaccard(total, own_so_far - own, so_far - number)", ""),
    ("steps back by pixels only", LOVASZ, "_jaccard(total, own_so_far - own, so_far - number)", "_jaccard(total, own_so_far, so_far - number)"),
    ("the step is not shared", LOVASZ, "step / tl.maximum(number, 1).to(tl.float64)", "step"),
    ("a class that does not occur counts", LOVASZ, "tl.store(present + k, tl.where(total > 0, 1.0, 0.0))", "tl.store(present + k, 1.0)"),
    ("present once", LOVASZ, "tl.store(present + k, tl.where", "tl.store(present, tl.where"),
    ("the union without the pixels", LOVASZ, "tl.maximum(total + rank - seen, 1)", "tl.maximum(total + 0 * rank, 1)"),
    ("tables of the first class", LOVASZ, "    table += k.to(tl.int64) * bins\n", "    table += k.to(tl.int64) * 0\n"),
    ("counts of the first class", LOVASZ, "    counts += k.to(tl.int64) * bins\n", "    counts += k.to(tl.int64) * 0\n"),
]  # fmt: skip
SUM = [
    *ERRORS,
    ("a mean over all classes", LOVASZ, "share = occurs / tl.maximum(tl.sum(occurs, 0), 1.0)", "share = occurs / classes"),
    ("a sum over classes", LOVASZ, "share = occurs / tl.maximum(tl.sum(occurs, 0), 1.0)", "share = occurs"),
    ("tables of the first class", LOVASZ, "tl.load(table + (k * bins)[:, None] + place, mask", "tl.load(table + (k * 0)[:, None] + place, mask"),
    ("the next bin's", LOVASZ, "tl.load(table + (k * bins)[:, None] + place, mask", "tl.load(table + (k * bins)[:, None] + tl.minimum(place + 1, bins - 1), mask"),
    ("ignored pixels count", LOVASZ, "counted = valid[None, :] & (occurs > 0)[:, None]", "counted = (i < count)[None, :] & (occurs > 0)[:, None]"),
    ("errors of the last pixels", LOVASZ, "cell_loss += tl.sum(", "cell_loss = tl.sum("),
    ("errors of the last cells", LOVASZ, "        loss += cell_loss.to", "        loss = cell_loss.to"),
    ("own errors grow", LOVASZ, "slope = tl.where(own, -weight, weight) * share", "slope = tl.where(own, weight, weight) * share"),
    ("slopes of probabilities", LOVASZ, "                    if not PROBABILITIES:\n                        slope", "                    if False:\n                        slope"),
    ("slopes without their mean", LOVASZ, "slope = p * (slope - tl.sum(p * slope, 0)[None, :])", "slope = p * slope"),
    ("no weight along the row", LOVASZ, "moment += slope * along[None, :]", "moment += slope"),
    ("the last pixel of a row", LOVASZ, "                    whole += slope\n", "                    whole = slope\n"),
    ("the upper node takes all", LOVASZ, "upper_left += whole - whole * down", "upper_left += whole"),
    ("nothing for the lower right node", LOVASZ, "lower_right += moment * down", "lower_right += 0 * moment"),
    ("the lower nodes are forgotten", LOVASZ, "            upper_left = lower_left\n", "            upper_left = 0 * lower_left\n"),
    ("ignored pixels have a slope", LOVASZ, "slope = tl.where(valid[None, :], slope, 0.0)", "slope = tl.where(valid[None, :], slope, slope * 0)"),
]  # fmt: skip

MUTANTS = [*_of("_sum_errors", LOVASZ, SUM), *_of("_count_errors", LOVASZ, COUNT), *_of("_weigh_bins", LOVASZ, WEIGH)]
