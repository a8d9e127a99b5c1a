"""The planted faults of upsample_cross_entropy and of the walk over cells; see mutant_table.py."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

import triton_room

_of = triton_room.load_file(triton_room.HERE / "mutant_table.py", "triton_room_mutant_table")._of
LOSSES, CELLS = "upsample_cross_entropy.py", "_cells.py"

WALK = [
    ("every image is the first", CELLS, "return image.to(tl.int64), rest", "return image.to(tl.int64) * 0, rest"),
    ("a cell less", CELLS, "first_position(cell + 1, width, w, ALIGN) - first", "first_position(cell, width, w, ALIGN) - first"),
    ("the right node is the left", CELLS, "right = tl.minimum(cell + 1, w - 1)", "right = tl.minimum(cell, w - 1)"),
    ("a row of cells less", CELLS, "return first, last - first + 1", "return first, last - first"),
    ("the strip's first row of cells only", CELLS, "taps(tl.minimum(strip * ROWS + ROWS, height) - 1, height", "taps(strip * ROWS, height"),
    ("rows of the strip above", CELLS, "begin = tl.maximum(first_position(node, height, h, ALIGN), strip * ROWS)", "begin = first_position(node, height, h, ALIGN)"),
    ("rows of the strip below", CELLS, "first_position(node + 1, height, h, ALIGN), strip * ROWS + ROWS)", "first_position(node + 1, height, h, ALIGN), height)"),
    ("the last row", CELLS, "return begin, tl.maximum(tl.minimum(end, height) - begin, 0)", "return begin, tl.maximum(tl.minimum(end, height - 1) - begin, 0)"),
    ("weights from the wrong node", CELLS, "rest = position * (source - 1) - node * denominator", "rest = position * (source - 1) - (node + 1) * denominator"),
    ("half a pixel is left out", CELLS, "rest = tl.maximum((2 * position + 1) * source - size, 0)", "rest = tl.maximum(2 * position * source, 0)"),
    ("the edge is not kept", CELLS, "rest = tl.maximum((2 * position + 1) * source - size, 0) - node", "rest = (2 * position + 1) * source - size - node"),
    ("a node after the last one", CELLS, "return tl.where(node + 1 < source, weight, 0.0)", "return weight"),
    ("classes are transposed", CELLS, "at = (tl.minimum(k, classes - 1) * class_stride)[:, None]", "at = (tl.minimum(classes - 1 - k, classes - 1) * class_stride)[:, None]"),
    ("classes beyond the last one", CELLS, "return tl.where((k < classes)[:, None], x, LOWEST)", "return x"),
    ("labels are cut to 32 bits", CELLS, "label = tl.load(target + at, mask=inside, other=0).to(tl.int64)", "label = tl.load(target + at, mask=inside, other=0).to(tl.int32)"),
    ("ignore_index is a class", CELLS, " & (label < classes) & (label != ignore_index)", " & (label < classes)"),
    ("the label K is not out of range", CELLS, " & (label < classes) & (label != ignore_index)", " & (label <= classes) & (label != ignore_index)"),
    ("negative labels", CELLS, "valid = inside & (label >= 0) & (label", "valid = inside & (label"),
    ("labels of the first image", CELLS, "at = image * image_stride + y.to", "at = 0 * image_stride + y.to"),
    ("labels side by side", CELLS, "+ x.to(tl.int64) * column_stride\n    label", "+ x.to(tl.int64)\n    label"),
]  # fmt: skip
SIDES = [
    ("sides are exchanged", CELLS, "    tl.store(to, left, mask=stored)\n    tl.store(to + classes * w, right, mask=stored)\n", "    tl.store(to, right, mask=stored)\n    tl.store(to + classes * w, left, mask=stored)\n"),
    ("one slot", CELLS, "tl.max_contiguous(partials + slot * 2 * classes", "tl.max_contiguous(partials + slot * 0 * classes"),
    ("the last column of cells", CELLS, "stored = (k < classes)[:, None] & (cell < w)[None, :]", "stored = (k < classes)[:, None] & (cell < w - 1)[None, :]"),
    ("classes side by side", CELLS, "(k * w)[:, None] + cell[None, :], (1, 1))", "k[:, None] + (cell * classes)[None, :], (1, 1))"),
]  # fmt: skip
# Of both kernels with a gradient.
ROWS = [
    ("the whole row on the left", "            if partials is not None:\n                whole -= moment\n", "            if partials is not None:\n                whole -= 0 * moment\n"),
    ("the upper node takes all", "upper_left += whole - whole * down", "upper_left += whole"),
    ("the upper right node takes all", "upper_right += moment - moment * down", "upper_right += moment"),
    ("nothing for the lower left node", "lower_left += whole * down", "lower_left += 0 * whole"),
    ("the last row for the lower right node", "lower_right += moment * down", "lower_right = moment * down"),
    ("no weight along the row", "moment += slope * along[None, :]", "moment += slope"),
    ("the last pixel of a row", "                    whole += slope\n", "                    whole = slope\n"),
    ("the lower nodes are forgotten", "            upper_left = lower_left\n", "            upper_left = 0 * lower_left\n"),
    ("upper nodes stay", "            upper_right = lower_right\n", "            upper_right += lower_right\n"),
    ("ignored pixels have a slope", "slope = tl.where(valid[None, :], slope, 0.0)", "slope = tl.where(valid[None, :], slope, slope * 0)"),
    ("the last row of nodes is stored elsewhere", "* slots + nodes, w, classes", "* slots + nodes - 1, w, classes"),
    ("strips share slots", "store_sides(partials, (image * strips + strip) * slots + n, w", "store_sides(partials, (image * strips + 0 * strip) * slots + n, w"),
]  # fmt: skip
SUM = [
    ("the first pixel of each cell again", "                x = first + i\n", "                x = first + 0 * i\n"),
    ("cells of equally many pixels", "                inside = i < count\n", "                inside = i < most\n"),
    ("the largest logit stays", "e = tl.exp2((z - largest[None, :]) * LOG2_E)", "e = tl.exp2(z * LOG2_E)"),
    ("powers of two", "e = tl.exp2((z - largest[None, :]) * LOG2_E)", "e = tl.exp2(z - largest[None, :])", True),
    ("logarithms of two", "log_total = tl.log2(total) * LN_2", "log_total = tl.log2(total)"),
    ("the pixel's weight in the divisor", "                cell_share += wanted\n", "                cell_share += wanted * scale\n"),
    ("ignored pixels in the divisor", "wanted = tl.where(valid, 1.0, 0.0)", "wanted = tl.where(inside, 1.0, 0.0)"),
    ("no smoothing of the own class", "wanted *= 1 - smoothing", "wanted *= 1"),
    ("weights side by side", "even *= tl.load(weight + k * weight_stride,", "even *= tl.load(weight + k,"),
    ("the first class's weight", "wanted = tl.load(weight + label * weight_stride", "wanted = tl.load(weight + 0 * label * weight_stride"),
    ("smoothing over all places", "even = tl.where(k < classes, smoothing / classes, 0.0)", "even = tl.where(k < classes, smoothing / BLOCK_K, 0.0)"),
    ("weights of the first image's pixels", "at = image * scale_image + y.to", "at = 0 * scale_image + y.to"),
    ("weights of pixels side by side", "x.to(tl.int64) * scale_column\n", "x.to(tl.int64)\n"),
    ("the largest logit is not counted", "value = wanted * (largest - own + log_total)", "value = wanted * (log_total - own)"),
    ("smoothing without the normaliser", "value += even_sum * log_total + tl.sum(", "value += tl.sum("),
    ("smoothing from the wrong end", "tl.sum(even[:, None] * (largest[None, :] - z), 0)", "tl.sum(even[:, None] * (z - largest[None, :]), 0)"),
    ("ignored pixels have a loss", "value = tl.where(valid, scale * value, 0.0)", "value = scale * value"),
    ("the pixel's weight is left out", "value = tl.where(valid, scale * value, 0.0)", "value = tl.where(valid, value, 0.0)"),
    ("losses of the last pixels", "                cell_loss += value\n", "                cell_loss = value\n"),
    ("losses of the last cells", "loss += cell_loss.to(tl.float64)", "loss = cell_loss.to(tl.float64)"),
    ("the divisor of the last cells", "share += cell_share.to(tl.float64)", "share = cell_share.to(tl.float64)"),
    ("the map of the first image", "tl.store(losses + (image * height + y) * width + x", "tl.store(losses + y * width + x"),
    ("the map beyond its cells", "+ x, value, mask=inside)", "+ x, value)"),
    ("slopes without the pixel's weight", "                    wanted *= scale\n", ""),
    ("slopes without smoothing's part", "((wanted + even_sum * scale) / total)", "(wanted / total)"),
    ("slopes of the class before", "tl.where(k[:, None] == label[None, :], wanted", "tl.where(k[:, None] + 1 == label[None, :], wanted"),
    ("smoothing without the pixel's weight", "slope -= even[:, None] * scale[None, :]", "slope -= even[:, None]"),
    ("the own logit's lower row", "start = tl.fma(down, tl.load(scores + bottom + left).to(tl.float32) - top_left", "start = tl.fma(down, tl.load(scores + top + left).to(tl.float32) - top_left"),
    ("the own logit's right node", "return tl.fma(along, end - start, start)", "return start"),
    ("the divisor in the loss's place", "tl.store(sums + 2 * tl.program_id(0) + 1, tl.sum(share, 0))", "tl.store(sums + 2 * tl.program_id(0) + 1, tl.sum(loss, 0))"),
    *ROWS,
    *SIDES,
    *WALK,
]  # fmt: skip
GATHER = [
    ("elements beyond the last one", CELLS, "tl.store(slope + e, total, mask=inside)", "tl.store(slope + e + 1, total, mask=inside)"),
    ("the last element", CELLS, "inside = e < elements\n", "inside = e < elements - 1\n"),
    ("the strip of the node itself", CELLS, "begin = first_position(tl.maximum(i - 1, 0), height, h, ALIGN)", "begin = first_position(i, height, h, ALIGN)"),
    ("the row of cells above only", CELLS, "end = first_position(i + 1, height, h, ALIGN)\n    strip", "end = first_position(i, height, h, ALIGN)\n    strip"),
    ("one strip", CELLS, "for n in range(tl.max(count, 0)):", "for n in range(tl.minimum(tl.max(count, 0), 1)):", True),
    ("every strip", CELLS, "        known = n < count\n", "        known = n < tl.max(count, 0)\n"),
    ("slots from the first strip's node", CELLS, "taps(tl.minimum((strip + n) * ROWS, height - 1)", "taps(tl.minimum(strip * ROWS, height - 1)"),
    ("partial sums of the first image", CELLS, "row = ((image * strips + strip + n).to", "row = ((strip + n).to"),
    ("partial sums of the first class", CELLS, "* 2 * classes + plane - image * classes", "* 2 * classes + 0 * plane"),
    ("left sides only", CELLS, "total += left + tl.load(partials", "total += left + 0 * tl.load(partials"),
    ("right sides of the same cell", CELLS, "(row + classes) * w + j - 1, mask=known & (j > 0)", "(row + classes) * w + j, mask=known & (j > 0)"),
    ("right sides of the row before", CELLS, "mask=known & (j > 0), other=0.0)", "mask=known, other=0.0)"),
    ("the last strip", CELLS, "        total += left + tl", "        total = left + tl"),
    ("the left side again", CELLS, "tl.load(partials + (row + classes) * w + j - 1", "tl.load(partials + row * w + j - 1"),
]  # fmt: skip

MUTANTS = [*_of("_gather_nodes", CELLS, GATHER), *_of("_sum_losses", LOSSES, SUM)]
