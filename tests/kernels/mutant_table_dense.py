"""The planted faults of softmax_kl and class_thresholds; see mutant_table.py."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

import triton_room

_of = triton_room.load_file(triton_room.HERE / "mutant_table.py", "triton_room_mutant_table")._of
KL, THRESHOLDS = "softmax_kl.py", "class_thresholds.py"

SOFTMAXES = [
    ("the mask is not read", "        counted = counted & (tl.load(mask + locate(i, md1, md2, ms0, ms1, ms2), mask=counted, other=0) != 0)\n", "        counted = counted & (tl.load(mask + locate(i, md1, md2, ms0, ms1, ms2), mask=counted, other=0) >= 0)\n"),
    ("strides of the logits for the mask", "tl.load(mask + locate(i, md1, md2, ms0, ms1, ms2)", "tl.load(mask + locate(i, ad1, ad2, as0, as1, as2)"),
    ("the other's classes are as far apart", "y = _read(other, locate(i, bd1, bd2, bs0, bs1, bs2), k, bc,", "y = _read(other, locate(i, bd1, bd2, bs0, bs1, bs2), k, ac,"),
    ("the other's pixels are as far apart", "y = _read(other, locate(i, bd1, bd2, bs0, bs1, bs2)", "y = _read(other, locate(i, ad1, ad2, as0, as1, as2)"),
    ("the temperature is left out", "    return (x - tl.max(x, 1)[:, None]) * scale\n", "    return x - tl.max(x, 1)[:, None]\n"),
    ("the largest logit stays", "    return (x - tl.max(x, 1)[:, None]) * scale\n", "    return x * scale\n"),
    ("one largest logit for all pixels", "    return (x - tl.max(x, 1)[:, None]) * scale\n", "    return (x - tl.max(x)) * scale\n"),
    ("classes beyond the last one", 'x = tl.where((k < classes)[None, :], x, float("-inf"))', "x = tl.where((k < classes)[None, :], x, 0.0)"),
    ("pixels that do not count are read", "mask=counted[:, None] & (k < classes)[None, :], other=0.0)", "mask=(k < classes)[None, :] & (k >= 0)[None, :], other=0.0)"),
    ("no difference beyond the classes", "d = tl.where((k < classes)[None, :], x - y, 0.0)", "d = x - y"),
    ("the difference the other way", "d = tl.where((k < classes)[None, :], x - y, 0.0)", "d = tl.where((k < classes)[None, :], y - x, 0.0)", True),
]  # fmt: skip
DIVERGENCES = [
    *SOFTMAXES,
    ("the mean is not divided", "        mean = tl.sum(x * d, 1) / x_total\n        gap", "        mean = tl.sum(x * d, 1)\n        gap"),
    ("the gap of equal normalisers", "- y / y_total[:, None]", "- y / x_total[:, None]"),
    ("one sign", "gap = x / x_total[:, None] - y", "gap = x / x_total[:, None] + y"),
    ("nearly equal means are subtracted", "value = tl.sum(gap * (d - mean[:, None]), 1)", "value = tl.sum(gap * d, 1) + mean - mean * 1.0001"),
    ("no normalisers", "value = tl.log(x_total / y_total) - tl.sum(y * d, 1) / y_total", "value = -tl.sum(y * d, 1) / y_total"),
    ("the other divergence", "tl.sum(y * d, 1) / y_total\n    tl.store", "tl.sum(x * d, 1) / x_total\n    tl.store"),
    ("no square of the temperature", "tl.where(counted, value * factor, 0.0)", "tl.where(counted, value, 0.0)"),
    ("pixels that do not count have a loss", "tl.where(counted, value * factor, 0.0)", "tl.where(counted, value * factor, 1.0)"),
    ("the last pixel", "tl.where(counted, value * factor, 0.0), mask=i < pixels)", "tl.where(counted, value * factor, 0.0), mask=i < pixels - 1)"),
    ("pixels beyond the last one", "tl.where(counted, value * factor, 0.0), mask=i < pixels)", "tl.where(counted, value * factor, 0.0))"),
]  # fmt: skip
DIVERGENCE_SLOPES = [
    *SOFTMAXES,
    ("no temperature", "mask=counted, other=0.0) * temperature", "mask=counted, other=0.0)"),
    ("gradients of pixels that do not count", "weight = tl.load(grad + locate(i, gd1, gd2, gs0, gs1, gs2), mask=counted, other=0.0)", "weight = tl.load(grad + locate(i, gd1, gd2, gs0, gs1, gs2), mask=i < pixels, other=0.0)"),
    ("gradients side by side", "weight = tl.load(grad + locate(i, gd1, gd2, gs0, gs1, gs2)", "weight = tl.load(grad + i"),
    ("the first mean is not divided", "x_mean = tl.sum(x * d, 1) / x_total", "x_mean = tl.sum(x * d, 1)"),
    ("the second mean is not divided", "y_mean = tl.sum(y * d, 1) / y_total", "y_mean = tl.sum(y * d, 1)"),
    ("the second mean is the first", "y_mean = tl.sum(y * d, 1) / y_total", "y_mean = tl.sum(x * d, 1) / x_total"),
    ("the first softmax is not normalised", "    x = x * (1 / x_total)[:, None]\n", ""),
    ("the second softmax is not normalised", "    y = y * (1 / y_total)[:, None]\n", ""),
    ("the second slope lacks the gap", "(y * (y_mean[:, None] - d) - first) * weight", "(y * (y_mean[:, None] - d)) * weight"),
    ("the first slope lacks the gap", "first = x * (d - x_mean[:, None]) + first", "first = x * (d - x_mean[:, None])"),
    ("the first slope lacks the mean", "first = x * (d - x_mean[:, None]) + first", "first = x * d + first"),
    ("the second slope in the first's strides", "to = other_slope + locate(i, dd1, dd2, ds0, ds1, ds2)[:, None]", "to = other_slope + locate(i, cd1, cd2, cs0, cs1, cs2)[:, None]"),
    ("the first slope in the gradient's strides", "to = slope + locate(i, cd1, cd2, cs0, cs1, cs2)[:, None]", "to = slope + locate(i, gd1, gd2, gs0, gs1, gs2)[:, None]"),
    ("no weight", "(first * weight[:, None]).to(slope", "first.to(slope"),
    ("the last class", "written = (i < pixels)[:, None] & (k < classes)[None, :]", "written = (i < pixels)[:, None] & (k < classes - 1)[None, :]"),
    ("the last pixel", "written = (i < pixels)[:, None] & (k < classes)[None, :]", "written = (i < pixels - 1)[:, None] & (k < classes)[None, :]"),
]  # fmt: skip
CHOOSE = [
    ("the digit after", "below = tl.cumsum(number, 1) <= rank[:, None]", "below = tl.cumsum(number, 1) < rank[:, None]", True),
    ("counts, not sums", "below = tl.cumsum(number, 1) <= rank[:, None]", "below = number <= rank[:, None]"),
    ("all ranks stay", "rank - tl.sum(tl.where(below, number, 0), 1)", "rank"),
    ("the digit a bit too low", "return key | (digit << _shift(i - 1, WIDTH))", "return key | (digit << _shift(i, WIDTH))"),
    ("earlier digits are lost", "return key | (digit", "return 0 * key | (digit"),
    ("a rank more from the top", "rank = size - tl.maximum(tl.floor(part).to(tl.int32), 1)", "rank = size - tl.floor(part).to(tl.int32)"),
    ("rounded up from the top", "rank = size - tl.maximum(tl.floor(part)", "rank = size - tl.maximum(tl.ceil(part)"),
    ("rounded down from below", "rank = tl.maximum(tl.ceil(part).to(tl.int32), 1) - 1", "rank = tl.maximum(tl.floor(part).to(tl.int32), 1) - 1"),
    ("ranks from one", "rank = tl.maximum(tl.ceil(part).to(tl.int32), 1) - 1", "rank = tl.maximum(tl.ceil(part).to(tl.int32), 1)"),
    ("the portion in float32", "size.to(tl.float64) * tl.full([BLOCK_K], share, tl.int64).to(tl.float64, bitcast=True)", "size.to(tl.float32) * tl.full([BLOCK_K], share, tl.int64).to(tl.float64, bitcast=True).to(tl.float32)"),
    ("classes without pixels have a rank", "rank = tl.where(size > 0, rank, -1)", "rank = tl.where(size > 0, rank, 0)"),
    ("ranks of the round before", "before = known + (i - 2) * 2 * BLOCK_K + k", "before = known + (i - 3) * 2 * BLOCK_K + k"),
    ("sums of the first round", "tl.load(counts + (((i - 1) * BLOCK_K + k) << WIDTH)", "tl.load(counts + (k << WIDTH)"),
    ("the last digit does not end at 0", "return tl.maximum(32 - (i + 1) * WIDTH, 0)", "return 32 - (i + 1) * WIDTH"),
]  # fmt: skip
COUNT = [
    *CHOOSE,
    ("the rank is not handed on", "            tl.store(to + BLOCK_K, rank)\n", "            tl.store(to + BLOCK_K, rank * 0)\n"),
    ("the last pixel of a program", "end = tl.minimum((program + 1) * per_program, pixels)", "end = tl.minimum((program + 1) * per_program, pixels) - 1"),
    ("programs do not end", "end = tl.minimum((program + 1) * per_program, pixels)", "end = pixels"),
    ("strides of the labels", "confidence + locate(p, cd1, cd2, cs0, cs1, cs2)", "confidence + locate(p, ld1, ld2, ls0, ls1, ls2)"),
    ("NaN counts", "counted = (y >= 0) & (value == value)", "counted = y >= 0"),
    ("ignored pixels count", "counted = (y >= 0) & (value == value)", "counted = (p < end) & (value == value)"),
    ("negative numbers the wrong way", "key = bits ^ ((bits >> 31) | -0x80000000)", "key = bits ^ -0x80000000"),
    ("negative numbers last", "key = bits ^ ((bits >> 31) | -0x80000000)", "key = bits ^ ((bits >> 31) & 0x7FFFFFFF)"),
    ("every digit agrees", "counted = counted & (apart == 0)", "counted = counted & (apart >= 0)", True),
    ("digits agree one too early", ">> _shift(i - 1, WIDTH)\n            counted", ">> (_shift(i - 1, WIDTH) + 1)\n            counted"),
    ("digits agree one too late", ">> _shift(i - 1, WIDTH)\n            counted", ">> _shift(i, WIDTH)\n            counted"),
    ("the first class's key", "tl.gather(wanted, y, 0)", "tl.gather(wanted, y * 0, 0)"),
    ("the last block only", "total += tl.histogram(", "total = tl.histogram("),
    ("classes share bins", "tl.histogram((y << WIDTH) + digit", "tl.histogram((y << (WIDTH - 1)) + digit"),
    ("counts of the last program", 'tl.atomic_add(to, total, mask=total > 0, sem="relaxed")', "tl.store(to, total, mask=total > 0)"),
    ("counts of one pixel are lost", "mask=total > 0, sem", "mask=total > 1, sem"),
]  # fmt: skip
WRITE = [
    *CHOOSE,
    ("positive bits", "bits = key ^ (~(key >> 31) | -0x80000000)", "bits = key ^ -0x80000000"),
    ("the key itself", "bits = key ^ (~(key >> 31) | -0x80000000)", "bits = key"),
    ("nobody's threshold is 0", "bits.to(tl.float32, bitcast=True), 1.0)", "bits.to(tl.float32, bitcast=True), 0.0)"),
    ("thresholds beyond the classes", "1.0), mask=k < classes)", "1.0))"),
    ("the last class", "1.0), mask=k < classes)", "1.0), mask=k < classes - 1)"),
]  # fmt: skip
MUTANTS = [
    *_of("_divergences", KL, DIVERGENCES), *_of("_divergence_slopes", KL, DIVERGENCE_SLOPES),
    *_of("_count_keys", THRESHOLDS, COUNT), *_of("_write_thresholds", THRESHOLDS, WRITE),
]  # fmt: skip
