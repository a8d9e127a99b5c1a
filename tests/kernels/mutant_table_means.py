"""The planted faults of the kernels of pixel_mean; see mutant_table.py."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

import triton_room

_of = triton_room.load_file(triton_room.HERE / "mutant_table.py", "triton_room_mutant_table")._of
MEANS = "pixel_mean.py"

SUMS = [
    ("every pixel counts", "ld1, ld2, ls0, ls1, ls2) >= 0", "ld1, ld2, ls0, ls1, ls2) >= -1", True),
    ("beyond the stretch", "valid = read_labels(labels, p, end,", "valid = read_labels(labels, p, pixels,"),
    ("every stretch to the end", "end = tl.minimum((program + 1) * stretch, pixels)", "end = pixels"),
    ("one stretch for all", "for start in range(program * stretch, end, BLOCK):", "for start in range(0, end, BLOCK):"),
    ("the first block alone", "        p = start + tl.arange(0, BLOCK)\n", "        p = program * stretch + tl.arange(0, BLOCK)\n"),
    ("the last block alone", "        count += valid.to(tl.int32)", "        count = valid.to(tl.int32)"),
    ("the last losses alone", "        first += tl.load(", "        first = tl.load("),
    ("losses as labels lie", "losses + locate(p, fd1, fd2, fs0, fs1, fs2)", "losses + locate(p, ld1, ld2, ls0, ls1, ls2)"),
    ("the other losses as the first lie", "others + locate(p, od1, od2, os0, os1, os2)", "others + locate(p, fd1, fd2, fs0, fs1, fs2)"),
    ("one loss twice", "tl.load(others + locate(", "tl.load(losses + locate("),
    ("ignored losses are read", "fs1, fs2), mask=valid, other=0.0)", "fs1, fs2), mask=p < end, other=0.0)"),
    ("all stretches in one place", "tl.store(sums + program, tl.sum(first))", "tl.store(sums, tl.sum(first))"),
    ("sums of the wrong loss", "tl.store(sums + tl.num_programs(0) + program, tl.sum(second))", "tl.store(sums + tl.num_programs(0) + program, tl.sum(first))"),
    ("the other sums begin elsewhere", "tl.store(sums + tl.num_programs(0) + program,", "tl.store(sums + 2 * tl.num_programs(0) - 1 + 0 * program,"),
]  # fmt: skip
QUOTIENTS = [
    ("every place is read", "total = tl.sum(tl.load(counts + i, mask=i < programs, other=0))", "total = tl.sum(tl.load(counts + i, mask=i < programs - 1, other=0))"),
    ("the last stretch left out", "first = tl.sum(tl.load(sums + i, mask=i < programs, other=0.0))", "first = tl.sum(tl.load(sums + i, mask=i < programs - 1, other=0.0))", True),
    ("the other's last stretch left out", "second = tl.sum(tl.load(sums + programs + i, mask=i < programs, other=0.0))", "second = tl.sum(tl.load(sums + programs + i, mask=i < programs - 1, other=0.0))"),
    ("the other's sums are the first's", "tl.load(sums + programs + i, mask", "tl.load(sums + i, mask"),
    ("a mean of nothing", "        total = tl.maximum(total, 1)\n", ""),
    ("never divided", "        first /= total.to(tl.float64)\n", ""),
    ("the other never divided", "        second /= total.to(tl.float64)\n", ""),
    ("always a mean", "    if MEAN:\n", "    if MEAN or TWO:\n"),
    ("two pixels at least", "total = tl.maximum(total, 1)", "total = tl.maximum(total, 2)"),
    ("the sum instead of the number", "tl.store(divisor, total)", "tl.store(divisor, first.to(tl.int64))"),
    ("results change places", "tl.store(value, first.to(tl.float32))", "tl.store(value, second.to(tl.float32))"),
    ("one result twice", "tl.store(other_value, second.to(tl.float32))", "tl.store(other_value, first.to(tl.float32))"),
    ("in 16 bits", "tl.store(value, first.to(tl.float32))", "tl.store(value, first.to(tl.bfloat16).to(tl.float32))"),
]  # fmt: skip

MUTANTS = [*_of("_sum_pixels", MEANS, SUMS), *_of("_divide_sums", MEANS, QUOTIENTS)]
