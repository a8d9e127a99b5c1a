"""The planted faults of class_moments and contrastive_bound. ``quick`` ones also run in CI."""

# Rows are quotations, each of them whole.
# ruff: noqa: E501

from __future__ import annotations

from planted import Mutant

COMMON, MOMENTS, BOUND = "_common.py", "class_moments.py", "contrastive_bound.py"


def _of(operator: str, file: str, rows: list[tuple]) -> list[Mutant]:
    """rows: (name, text, replacement) and whether it is quick; or with the file before the text."""
    found = []
    for name, *change in rows:
        quick = change.pop() if change[-1] is True else False
        where = change.pop(0) if len(change) == 3 else file
        found.append(Mutant(operator, f"{operator}: {name}", where, *change, quick))
    return found


SUM = [
    ("the last pixel is left out", "end = tl.minimum(begin + chunk_rows, pixels)",
     "end = tl.minimum(begin + chunk_rows, pixels - 1)"),
    ("chunks overlap by a pixel", "end = tl.minimum(begin + chunk_rows, pixels)",
     "end = tl.minimum(begin + chunk_rows + 1, pixels)"),
    ("no mask at the end", COMMON, "inside = pixel < end\n", "inside = pixel < end + 1\n"),
    ("the label K is not out of range", COMMON, "(y < classes)", "(y <= classes)"),
    ("ignored labels are class 0", COMMON, "tl.where(valid, y, -1)", "tl.where(valid, y, 0)"),
    ("labels are cut to 32 bits", COMMON, "other=0).to(tl.int64)\n    valid", "other=0).to(tl.int32)\n    valid"),
    ("ignore_index is a class", COMMON, " & (y != ignore_index)", ""),
    ("labels are cut to 8 bits", COMMON, "other=0).to(tl.int64)\n    valid", "other=0).to(tl.uint8).to(tl.int64)\n    valid"),
    ("images are a row apart", COMMON, "row = row - image * d1", "row = row - image * d1 + image"),
    ("rows are counted in images", COMMON, "image = row // d1", "image = row // d2"),
    ("strides of labels for features", "tl.minimum(first, pixels - 1), fd1, fd2, fs0, fs1, fs2",
     "tl.minimum(first, pixels - 1), ld1, ld2, ls0, ls1, ls2"),
    ("channels are side by side", "columns = features + spaced(a, channel_stride)", "columns = features + a.to(tl.int64)"),
    ("the channels' mask is missing", "[:, None] & (a < channels)[None, :]\n        x = tl.load(columns[None, :] + locate(p",
     "[:, None] & (a >= 0)[None, :]\n        x = tl.load(columns[None, :] + locate(p"),
    ("the count of one block only", "count += tl.sum(", "count = tl.sum("),
    ("each block of channels counts", "    if tl.program_id(1) == 0:\n        tl.store(counts", "    if tl.program_id(2) == 0:\n        tl.store(counts"),
    ("an infinite pivot", 'pivot = tl.where(tl.abs(pivot) < float("inf"), pivot, 0.0)', "pivot = pivot + 0.0"),
    ("the pivot is not subtracted", "d = x.to(tl.float32) - c\n", "d = x.to(tl.float32)\n", True),
    ("d without square", "exact_dot(member, d * d, PRODUCT)", "exact_dot(member, d, PRODUCT)"),
    ("two parts of d", COMMON, "    total = tl.dot(one, low)\n", "    total = tl.dot(one, low) * 0\n"),
    ("the middle part is lost", COMMON, "total = tl.dot(one, middle, total)", "total = tl.dot(one, high, total)"),
    ("features in 8 bits", COMMON, "total = tl.dot(one, high, total)", "total = tl.dot(one, high)"),
    ("sums of one block only", "total += exact_dot(", "total = exact_dot("),
    ("squares in 8 bits", "return tl.dot(one, x), tl.dot(one, high, q)", "return tl.dot(one, x), tl.dot(one, high)"),
    ("the shift of the square is half done", "square += (q - pivot * s) - pivot * s_shifted", "square += q - pivot * s"),
    ("the shift by the pixels of all blocks", "s_shifted = s - number * pivot", "s_shifted = s - count[:, None] * pivot"),
    ("the sum is stored over the pivot", "tl.store(to + channels, total, mask=written)\n    tl.store(to + 2 * channels, square, mask=written)\n\n    #",
     "tl.store(to, total, mask=written)\n    tl.store(to + 2 * channels, square, mask=written)\n\n    #"),
    ("no second walk for infinity", "(total != total).to(tl.int32) + (square != square).to(tl.int32)) > 0", "(total != total).to(tl.int32) + (square != square).to(tl.int32)) < 0"),
    ("the second walk adds to the first", "        tl.store(to + 2 * channels, tl.zeros_like(total), mask=written)\n", ""),
    ("the second walk forgets", "tl.store(at + channels, tl.load(at + channels, mask=read, other=0.0) + d, mask=read)",
     "tl.store(at + channels, d, mask=read)"),
    ("no tensor cores: features in 8 bits", COMMON, 'total = tl.dot(member.to(tl.float32), x, input_precision="ieee")',
     'total = tl.dot(member.to(tl.float32), x.to(tl.bfloat16).to(tl.float32), input_precision="ieee")'),
]  # fmt: skip
MERGE = [
    ("the last chunk is left out", "c = start + tl.arange(0, BLOCK_C)\n        n = tl.load(counts + c * classes + label, mask=c < chunks, other=0)\n        pixels",
     "c = start + tl.arange(0, BLOCK_C)\n        n = tl.load(counts + c * classes + label, mask=c < chunks - 1, other=0)\n        pixels", True),
    ("counts of another class", "n = tl.load(counts + c * classes + label, mask=c < chunks, other=0)\n        pixels",
     "n = tl.load(counts + c * classes, mask=c < chunks, other=0)\n        pixels"),
    ("counts of the last chunks only", "pixels += n", "pixels = n.to(tl.int64)"),
    ("sums of the last chunks only", "total += pivot * n[:, None]", "total = pivot * n[:, None]"),
    ("the pivot counts once a chunk", "total += pivot * n[:, None]", "total += pivot"),
    ("the sum of squares as the sum", "tl.load(at + channels, mask=read, other=0.0).to(tl.float64)\n    n_all",
     "tl.load(at + 2 * channels, mask=read, other=0.0).to(tl.float64)\n    n_all"),
    ("division by zero", "average = tl.sum(total, 0) / tl.maximum(n_all, 1)", "average = tl.sum(total, 0) / n_all"),
    ("the shift is not divided", ".to(tl.float64) / tl.maximum(n, 1)[:, None].to(tl.float64)", ".to(tl.float64)"),
    ("within a chunk without its shift", "within = square - shift * shift * n[:, None]", "within = square"),
    ("between chunks is forgotten", "spread += within + delta * delta * n[:, None]", "spread += within"),
    ("between chunks counts once", "delta * delta * n[:, None]", "delta * delta"),
    ("the distance of the pivots", "pivot + shift - average[None, :]", "pivot - average[None, :]"),
    ("chunks without the class count", "delta = tl.where(read, pivot + shift - average[None, :], 0.0)", "delta = pivot + shift - average[None, :]\n        within += delta * delta"),
    ("rows of another class", "out = label.to(tl.int64) * channels + a", "out = (label.to(tl.int64) + 1) * channels + a"),
    ("no mask of the channels", "tl.store(mean + out, average.to(tl.float32), mask=a < channels)", "tl.store(mean + out, average.to(tl.float32))"),
    ("the total does not begin at zero", "total = tl.zeros([BLOCK_C, BLOCK_A], tl.float64)", "total = tl.full([BLOCK_C, BLOCK_A], 1e-3, tl.float64)"),
]  # fmt: skip
SCALE = [
    ("nothing is normalised", "scale = factor * _inverse_root(tl.sum(total))", "scale = factor * (tl.sum(total) * 0 + 1)", True),
    ("the square of the length", "return tl.where(squared > 0, 1.0 / tl.sqrt(tl.where(squared > 0, squared, 1.0)), 0.0)",
     "return tl.where(squared > 0, 1.0 / tl.where(squared > 0, squared, 1.0), 0.0)"),
    ("a length of 0 is one of 1", "squared, 1.0)), 0.0)", "squared, 1.0)), 1.0)"),
    ("0 / 0", "return tl.where(squared > 0, 1.0 / tl.sqrt(tl.where(squared > 0, squared, 1.0)), 0.0)", "return 1.0 / tl.sqrt(squared)"),
    ("the length of the last block", "total += x * x", "total = x * x"),
    ("the length without squares", "total += x * x", "total += tl.abs(x)"),
    ("rows of the padded width", "row_at = rows + row.to(tl.int64) * channels", "row_at = rows + row.to(tl.int64) * width"),
    ("the padding is not written", "mask=i < width)\n            tl.store(to + classes * width, middle", "mask=i < channels)\n            tl.store(to + classes * width, middle"),
    ("rows are a class apart", "to = out + row * width + i", "to = out + row * channels + i"),
    ("no middle part", "middle, mask=i < width)", "middle.to(tl.float32) * 0, mask=i < width)"),
    ("the low part again", "tl.store(to + 2 * classes * width, low", "tl.store(to + 2 * classes * width, middle"),
    ("the middle part over the high one", "to + classes * width, middle", "to, middle"),
    ("the factor is forgotten", "other=0.0).to(tl.float32) * scale\n", "other=0.0).to(tl.float32) * (scale / factor)\n"),
    ("tau instead of 2 tau^2", "1 / (2 * temperature**2)", "1 / (2 * temperature)"),
    ("the mean twice", "spread = rows if covariance is None else covariance.contiguous()", "spread = rows"),
]  # fmt: skip
FORWARD = [
    ("the last pixel is left out", "inside = p < pixels\n    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)\n    first, second",
     "inside = p < pixels - 1\n    rows = features + locate(p, fd1, fd2, fs0, fs1, fs2)\n    first, second"),
    ("one tile too few", "_bound_forward, (cdiv(labels.numel(), tile[\"BLOCK_P\"]),)", "_bound_forward, (max(1, labels.numel() // tile[\"BLOCK_P\"]),)"),
    ("the last block of channels only", "first += _product(q, at, known", "first = _product(q, at, known"),
    ("the channels' mask is missing", "read = inside[:, None] & (a < channels)[None, :]", "read = inside[:, None] & (a >= 0)[None, :]"),
    ("the second term of the last block only", "second += _product(q * q", "second = _product(q * q"),
    ("q instead of its square", "_product(q * q, at", "_product(q, at"),
    ("the mean instead of the covariance", "at + parts * part, known, part, SQUARE_PARTS", "at, known, part, SQUARE_PARTS"),
    ("the length of the last block", "squared += tl.sum(q * q, 1)", "squared = tl.sum(q * q, 1)"),
    ("the length counts once", "second = second * inverse * inverse", "second = second * inverse"),
    ("q is not normalised", "first = first * inverse\n", "first = first * 1.0\n"),
    ("padded classes take part", 'first + second, float("-inf"))', "first + second, 0.0)"),
    ("no second term", 'first + second, float("-inf"))', 'first, float("-inf"))'),
    ("the largest logit is not subtracted", "share = tl.exp(logits - top[:, None])", "share = tl.exp(logits - top[:, None] * 0)"),
    ("the largest logit is forgotten", "top + tl.log(total) - own", "tl.log(total) - own"),
    ("the own logit with the covariance", "k[None, :] == y[:, None], first, 0.0)", "k[None, :] == y[:, None], first + second, 0.0)", True),
    ("ignored pixels have a loss", "tl.where(y >= 0, top + tl.log(total) - own, 0.0)", "top + tl.log(total) - own"),
    ("the softmax is not divided", "share / total[:, None], mask", "share, mask"),
    ("rows of the padded classes", "at = posterior + (p.to(tl.int64) * classes)", "at = posterior + (p.to(tl.int64) * BLOCK_K)"),
    ("padded classes are written", "tl.store(at, share / total[:, None], mask=inside[:, None] & (k < classes)[None, :])", "tl.store(at, share / total[:, None], mask=inside[:, None])"),
    ("bfloat16 only", "        total = tl.dot(high, first, total)\n    return total", "        total = tl.dot(high, first)\n    return total", True),
    ("the third parts are lost", "total = tl.dot(high, third)", "total = tl.dot(high, third) * 0"),
    ("the low part of q is lost", "total = tl.dot(low, first, total)", "total = tl.dot(low, third, total)"),
    ("float16 has one part", "torch.float16: (2, 3)", "torch.float16: (1, 3)"),
    ("the square of bfloat16 has one part", "torch.bfloat16: (1, 2)", "torch.bfloat16: (1, 1)"),
    ("sums in the tensor cores", "        first += _product(q, at, known, part, Q_PARTS, PRODUCT)", "        first = tl.dot(q.to(tl.bfloat16), tl.load(at, mask=known, other=0.0).to(tl.bfloat16), first)"),
]  # fmt: skip
BACKWARD = [
    ("one tile too few", "_bound_backward, (cdiv(labels.numel(), tile[\"BLOCK_P\"]),)", "_bound_backward, (max(1, labels.numel() // tile[\"BLOCK_P\"]),)"),
    ("the own class does not pull", "pull = share - (k[None, :] == y[:, None]).to(tl.float32)", "pull = share"),
    ("the own class pushes", "pull = share - (k[None, :] == y", "pull = share + (k[None, :] == y"),
    ("rows of the padded classes", "shares = posterior + (p.to(tl.int64) * classes)", "shares = posterior + (p.to(tl.int64) * BLOCK_K)"),
    ("padded classes are read", "share = tl.load(shares, mask=inside[:, None] & (k < classes)[None, :], other=0.0)", "share = tl.load(shares, mask=inside[:, None], other=0.0)"),
    ("nothing along q is removed", "total = (total - q * along[:, None]) * inverse[:, None]", "total = total * inverse[:, None]", True),
    ("the gradient is not scaled by 1 / |q|", "total = (total - q * along[:, None]) * inverse[:, None]", "total = total - q * along[:, None]"),
    ("half of the second term along q", "2 * tl.sum(second * share, 1) * inverse)", "tl.sum(second * share, 1) * inverse)"),
    ("the length of the second term along q", "2 * tl.sum(second * share, 1) * inverse)", "2 * tl.sum(second * share, 1))"),
    ("the softmax along q for the pull", "(tl.sum(first * pull, 1)", "(tl.sum(first * share, 1)"),
    ("half of the second term", "total += 2 * _product(", "total += _product("),
    ("the second term without q", "part, 3, PRODUCT) * q * inverse[:, None]", "part, 3, PRODUCT) * inverse[:, None]"),
    ("the second term without 1 / |q|", "part, 3, PRODUCT) * q * inverse[:, None]", "part, 3, PRODUCT) * q"),
    ("the pull for the softmax", "_product(share, at + parts * part", "_product(pull, at + parts * part"),
    ("the mean for the covariance", "_product(share, at + parts * part,", "_product(share, at,"),
    ("statistics of other channels", "at = statistics + k[:, None] * width + a[None, :]", "at = statistics + k[:, None] * width + (a % 16)[None, :]"),
    ("ignored pixels have a gradient", "total = tl.where((y >= 0)[:, None], total * weight[:, None], 0.0)", "total = total * weight[:, None]"),
    ("the incoming gradient is forgotten", "total * weight[:, None], 0.0)", "total, 0.0)"),
    ("the incoming gradient after the rounding", "total * weight[:, None], 0.0)", "total.to(slope.dtype.element_ty).to(tl.float32) * weight[:, None], 0.0)"),
    ("the strides of the labels for the gradient", "locate(p, gd1, gd2, gs0, gs1, gs2)", "locate(p, ld1, ld2, ls0, ls1, ls2)"),
    ("the strides of the features for the result", "to = slope + locate(p, od1, od2, os0, os1, os2)", "to = slope + locate(p, fd1, fd2, fs0, fs1, fs2)"),
    ("channels of the result are side by side", "spaced(a, out_stride)", "spaced(a, None)"),
    ("the last channels are not written", "written = inside[:, None] & (a < channels)[None, :]", "written = inside[:, None] & (a < channels - 1)[None, :]"),
    ("a pixel beyond the end is written", "written = inside[:, None] & (a", "written = (p <= pixels)[:, None] & (a"),
    ("weights in bfloat16", "total = _product(pull, at, known, part, 3, PRODUCT)", "total = _product(pull, at, known, part, 1, PRODUCT)"),
]  # fmt: skip

MUTANTS = [
    *_of("_sum_chunks", MOMENTS, SUM),
    *_of("_merge_chunks", MOMENTS, MERGE),
    *_of("_scale_statistics", BOUND, SCALE),
    *_of("_bound_forward", BOUND, FORWARD),
    *_of("_bound_backward", BOUND, BACKWARD),
]
