"""The planted faults of the kernels of the assignment operators; see mutant_table.py."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

import triton_room

_of = triton_room.load_file(triton_room.HERE / "mutant_table.py", "triton_room_mutant_table")._of
SINKHORN = "sinkhorn.py"

SWEEP = [
    ("the last row is left out", "end = tl.minimum(begin + at_once, rows)", "end = tl.minimum(begin + at_once, rows - 1)", True),
    ("programs overlap by a row", "end = tl.minimum(begin + at_once, rows)", "end = tl.minimum(begin + at_once + 1, rows)"),
    ("rows of all programs", "begin = tl.program_id(1) * at_once", "begin = tl.program_id(1) * 0"),
    ("the first problem's scores", "    scores += problem * problem_stride\n    scaling = tl.zeros", "    scaling = tl.zeros"),
    ("the first problem's scaling", "        scaling = tl.load(log_v + problem * classes + k, mask", "        scaling = tl.load(log_v + k, mask"),
    ("rows without scale", "part *= _inverse(tl.sum(part * _power(whole), 1))[:, None]", "part *= 1.0"),
    ("rows keep their size", "            whole = _over_rows(whole)\n", ""),
    ("a row's sum without powers", "_inverse(tl.sum(part * _power(whole), 1))", "_inverse(tl.sum(part, 1))"),
    ("the last tile only", "mass * _power(largest - larger).to(tl.float64) + own", "0.0 * mass + own"),
    ("the earlier tiles are not moved", "mass * _power(largest - larger).to(tl.float64) + own", "mass + own"),
    ("the tile is not moved", "own.to(tl.float64) * _power(here - larger)", "own.to(tl.float64)"),
    ("the largest of the last tile", "        largest = larger\n", "        largest = here\n"),
    ("a sum without powers", "own = tl.sum(part * _power(whole - here[None, :]), 0)", "own = tl.sum(part, 0)"),
    ("the sums of the first problem", "to = (problem * tl.num_programs(1) + tl.program_id(1)) * classes + k", "to = tl.program_id(1) * classes + k"),
    ("the sums of the first program", "to = (problem * tl.num_programs(1) + tl.program_id(1)) * classes + k", "to = problem * tl.num_programs(1) * classes + k"),
    ("no mask of the classes", "tl.store(top + to, largest, mask=k < classes)", "tl.store(top + to, largest)"),
    ("a class less", "mask=inside[:, None] & (k < classes)[None, :]", "mask=inside[:, None] & (k < classes - 1)[None, :]"),
    ("rows beyond the end", "mask=inside[:, None] & (k < classes)[None, :]", "mask=(i >= 0)[:, None] & (k < classes)[None, :]"),
    ("classes are side by side", "spaced(k, class_stride)[None, :]", "spaced(k, None)[None, :]"),
    ("rows are side by side", "(i.to(tl.int64) * row_stride)[:, None]", "(i.to(tl.int64) * classes)[:, None]"),
    ("epsilon in float32", "scale = tl.full([1, 1], scale_high, tl.float64) + scale_low", "scale = tl.full([1, 1], scale_high, tl.float64)"),
    ("exponents in float32", "t = s * scale + log_v[None, :]", "t = (s * scale + log_v[None, :]).to(tl.float32).to(tl.float64)"),
    ("no bound of the integers", "tl.minimum(tl.maximum(t, -1.0 * LARGEST), 1.0 * LARGEST)", "tl.minimum(tl.maximum(t, -100.0), 100.0)"),
    ("the rest is left out", "tl.exp2((t - whole.to(tl.float64)).to(tl.float32))", "tl.exp2(0 * (t - whole.to(tl.float64)).to(tl.float32))"),
    ("powers stop at 2^-17", "(tl.maximum(n + 127, 0) << 23)", "(tl.maximum(n + 127, 110) << 23)"),
    ("rows without a class divide by 0", "tl.where(total == 0, 0.0, 1 / total)", "1 / total"),
]  # fmt: skip
SCALE = [
    ("the first program is left out", "known = (c < programs)[:, None] & (k < classes)[None, :]\n        at", "known = ((c > 0) & (c < programs))[:, None] & (k < classes)[None, :]\n        at", True),
    ("the first block of programs only", "        mass += tl.sum(own", "        mass = tl.sum(own"),
    ("the smallest of a block", "largest = tl.maximum(largest, tl.max(here, 0))", "largest = tl.maximum(largest, tl.min(here, 0))"),
    ("programs are not moved", "tl.sum(own * _power(here - largest[None, :]).to(tl.float64), 0)", "tl.sum(own, 0)"),
    ("the largest is forgotten", "(largest.to(tl.float64) + tl.log2(mass))", "tl.log2(mass)"),
    ("no division by the mass", " - (largest.to(tl.float64) + tl.log2(mass))", ""),
    ("no share", "moved = tl.log2(share.to(tl.float64)) - (", "moved = 0.0 - ("),
    ("rounds do not follow each other", "        moved += tl.load(to, mask=k < classes, other=0.0)\n", "        moved += 0.0\n"),
    ("no mass is infinite", "tl.where(mass == 0, ", "tl.where(mass < 0, "),
    ("the first problem's shares", "tl.load(marginal + problem * marginal_stride + k * share_stride", "tl.load(marginal + k * share_stride"),
    ("shares are side by side", "+ k * share_stride, mask", "+ k, mask"),
    ("integers of the first problem", "    top += problem * programs * classes\n", ""),
    ("sums of the first problem", "    total += problem * programs * classes\n", ""),
    ("the first classes again and again", "k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)", "k = tl.arange(0, BLOCK_K)"),
    ("no mask of the classes", 'float("-inf"), moved), mask=k < classes)', 'float("-inf"), moved))'),
]  # fmt: skip
ASSIGN = [
    ("the first rows", "i = first + (tl.program_id(0) - problem * tiles).to(tl.int32) * BLOCK_N", "i = (tl.program_id(0) - problem * tiles).to(tl.int32) * BLOCK_N", True),
    ("the first tile again and again", "i = first + (tl.program_id(0) - problem * tiles).to(tl.int32) * BLOCK_N", "i = first"),
    ("scores of the first problem", "scores + problem * problem_stride, i, i < rows", "scores, i, i < rows"),
    ("the first problem's scaling", "    scaling = tl.load(log_v + problem * classes + k, mask=k < classes, other=0.0)\n    i = first", "    scaling = tl.load(log_v + k, mask=k < classes, other=0.0)\n    i = first"),
    ("no scaling", "        scale_high, scale_low, scaling,\n    )", "        scale_high, scale_low, 0 * scaling,\n    )"),
    ("rows without scale", "share = part * _inverse(tl.sum(part, 1))[:, None]", "share = part"),
    ("powers are left out", "    part *= _power(_over_rows(whole))\n", ""),
    ("powers of the number, not of its distance", "_power(_over_rows(whole))", "_power(tl.minimum(whole, 0))"),
    ("the last row is left out", "mask=(i < rows)[:, None] & (k < classes)[None, :])\n", "mask=(i < rows - 1)[:, None] & (k < classes)[None, :])\n"),
    ("rows beyond the end", "mask=(i < rows)[:, None] & (k < classes)[None, :])\n", "mask=(i >= 0)[:, None] & (k < classes)[None, :])\n"),
    ("no mask of the classes", "mask=(i < rows)[:, None] & (k < classes)[None, :])\n", "mask=(i < rows)[:, None] & (k >= 0)[None, :])\n"),
    ("the result of the first problem", "to = result + (problem * (rows - first) + i - first)", "to = result + (i - first)"),
    ("the result from the first row on", "(problem * (rows - first) + i - first)", "(problem * (rows - first) + i)"),
]  # fmt: skip

MUTANTS = [
    *_of("_sweep", SINKHORN, SWEEP), *_of("_scale_classes", SINKHORN, SCALE), *_of("_assign", SINKHORN, ASSIGN),
]  # fmt: skip
