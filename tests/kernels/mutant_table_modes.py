"""The planted faults of the kernels of mode_losses; see mutant_table.py."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

import triton_room

_of = triton_room.load_file(triton_room.HERE / "mutant_table.py", "triton_room_mutant_table")._of
MODES = "mode_losses.py"

CENTRE = [
    ("modes are centred twice", "v - middle[None, :], mask=known)", "v - 2 * middle[None, :], mask=known)"),
    ("rows of the last block twice", "    total = tl.zeros([BLOCK_A], tl.float32)\n    for start in range(0, rows, BLOCK_R):\n        r = start +", "    total = tl.zeros([BLOCK_A], tl.float32)\n    for start in range(0, rows, BLOCK_R):\n        r = 0 * start + rows +"),
    ("the centre is stored otherwise", "tl.store(centre + a, middle, mask=a < channels)", "tl.store(centre + a, 0 * middle, mask=a < channels)", True),
    ("modes are not centred", "v - middle[None, :], mask=known)", "v, mask=known)"),
    ("the first channels again and again", "a = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)\n    total", "a = tl.arange(0, BLOCK_A)\n    total"),
    ("no mask of the centre", "tl.store(centre + a, middle, mask=a < channels)", "tl.store(centre + a, middle)"),
    ("a channel less", "tl.store(centre + a, middle, mask=a < channels)", "tl.store(centre + a, middle, mask=a < channels - 1)"),
    ("the last mode is not written", "v - middle[None, :], mask=known)", "v - middle[None, :], mask=known & (r < rows - 1)[:, None])"),
    ("modes in 8 bits", "v - middle[None, :], mask=known)", "(v - middle[None, :]).to(tl.bfloat16).to(tl.float32), mask=known)"),
    ("modes are transposed", "at = (r * channels)[:, None] + a[None, :]\n        v", "at = r[:, None] + (a * rows)[None, :]\n        v"),
]  # fmt: skip
LOSSES = [
    ("products of two parts", "        total = tl.dot(low, first)\n", "        total = tl.dot(low, first) * 0\n", True),
    ("the rest of e is lost", "total = tl.dot(middle, first, total)", "total = tl.dot(middle, first) * 0"),
    ("e is not centred", "tl.where(read, e - tl.load(centre + a, mask=a < channels, other=0.0)[None, :], 0.0)", "tl.where(read, e, 0.0)"),
    ("products of the last channels", "            total += _product(e, v, PRODUCT)", "            total = _product(e, v, PRODUCT)"),
    ("one product instead of two", "norm[None, :] - 2 * total", "norm[None, :] - total"),
    ("the length is missing", "    distance += squared[:, None]\n", ""),
    ("ties go to the later mode", "nearer = least < distance", "nearer = least <= distance"),
    ("modes of the first block", "tl.where(nearer, first + which, mode)", "tl.where(nearer, which, mode)"),
    ("the last block of modes only", "distance = tl.where(nearer, least, distance)", "distance = least"),
    ("modes and classes are exchanged", "at = modes + (label * per_class + m) * channels", "at = modes + (m * classes + label) * channels"),
    ("the own class is its rival", "others = tl.where(own | (k >= classes)[None, :],", "others = tl.where((k >= classes)[None, :],"),
    ("no margin", "hinge = mine - best + margin", "hinge = mine - best"),
    ("the hinge is open", "tl.where((y < 0) | (hinge < 0), 0.0, hinge)", "tl.where(y < 0, 0.0, hinge)"),
    ("a rival of one class", 'tl.where((y >= 0) & (best < float("inf")), other, -1)', "tl.where(y >= 0, other, -1)"),
    ("never squared", "        exponent = distance * distance\n", "        exponent = distance\n"),
    ("a loss of ignored pixels", "tl.where(y >= 0, loss, 0.0)", "loss"),
    ("a slope without its own class", "(own.to(tl.float32) - share / whole[:, None])", "(-share / whole[:, None])"),
]  # fmt: skip
PULLS = [
    ("both hinges", "hinge = tl.where(tl.load(triplet + p, mask=valid, other=0.0) > 0, hinge, 0.0)", "hinge = hinge * 1.0"),
    ("no rival", "- (k[None, :] == other[:, None]).to(tl.float32)", "- 0.0"),
    ("the wrong sign", "sign = (k[None, :] == y[:, None]).to(tl.float32) -", "sign = (k[None, :] == y[:, None]).to(tl.float32) +"),
    ("the slope once", "return 2 * (g * scale[:, None] + sign * hinge[:, None])", "return g * scale[:, None] + sign * hinge[:, None]"),
    ("no hinge", "return 2 * (g * scale[:, None] + sign * hinge[:, None])", "return 2 * (g * scale[:, None])"),
    ("the other gradient's strides", "grad_cross_entropy + locate(p, cd1, cd2, cs0, cs1, cs2)", "grad_cross_entropy + locate(p, td1, td2, ts0, ts1, ts2)"),
]  # fmt: skip
SLOPES = [
    *PULLS,
    ("the modes are not subtracted", "total -= _product(tl.where(mode == m, g, 0.0), v, PRODUCT)", "total -= 0 * _product(tl.where(mode == m, g, 0.0), v, PRODUCT)", True),
    ("every mode counts", "_product(tl.where(mode == m, g, 0.0), v, PRODUCT)", "_product(g, v, PRODUCT)"),
    ("a mode less", "        for m in range(per_class):", "        for m in range(tl.maximum(per_class - 1, 1)):"),
    ("e itself is not pulled", "    whole = tl.sum(g, 1)[:, None]\n", "    whole = 0 * tl.sum(g, 1)[:, None]\n"),
    ("the first mode of each class", "((k * per_class + m) * channels)[:, None]", "((k * per_class) * channels)[:, None]"),
    ("ignored pixels keep a slope", "total = tl.where((y >= 0)[:, None], total, 0.0).to(slope", "total = tl.where((y >= 0)[:, None], total, 1.0).to(slope"),
    ("strides of the features", "to = slope + locate(p, od1, od2, os0, os1, os2)", "to = slope + locate(p, fd1, fd2, fs0, fs1, fs2)"),
    ("channels outside", "written = (p < pixels)[:, None] & (a < channels)[None, :]", "written = (p < pixels)[:, None] & (a >= 0)[None, :]"),
    ("the last pixel", "written = (p < pixels)[:, None] & (a < channels)[None, :]", "written = (p < pixels - 1)[:, None] & (a < channels)[None, :]"),
]  # fmt: skip
SUMS = [
    *PULLS,
    ("the last pixel is left out", "end = tl.minimum((chunk + 1) * chunk_rows, pixels)", "end = tl.minimum((chunk + 1) * chunk_rows, pixels - 1)", True),
    ("chunks do not end", "end = tl.minimum((chunk + 1) * chunk_rows, pixels)", "end = pixels"),
    ("every mode counts", "mode[:, None, :] == m[None, :, None]", "mode[:, None, :] >= m[None, :, None]"),
    ("the first modes again", "m = first + tl.arange(0, BLOCK_M)\n    k", "m = tl.arange(0, BLOCK_M)\n    k"),
    ("sums of the last pixels", "        total += _product(tl.trans(spread), e, PRODUCT)", "        total = _product(tl.trans(spread), e, PRODUCT)"),
    ("weights of the last pixels", "        weights += tl.sum(spread, 0)", "        weights = tl.sum(spread, 0)"),
    ("the mode is not pulled", "weights[:, None] * v - total", "0 * v - total"),
    ("the sum is added", "weights[:, None] * v - total", "weights[:, None] * v + total"),
    ("every chunk is the first", "partials + chunk.to(tl.int64) * classes", "partials + 0 * chunk.to(tl.int64) * classes"),
    ("modes and classes are exchanged", "at = ((label * per_class + mine) * channels)", "at = ((mine * classes + label) * channels)"),
]  # fmt: skip
ADD = [
    ("the last chunk only", "        whole += tl.load(partials + i", "        whole = tl.load(partials + i"),
    ("the first chunk again and again", "        partials += size\n", "", True),
    ("a chunk less", "    for _ in range(chunks):", "    for _ in range(chunks - 1):"),
    ("a chunk more", "    for _ in range(chunks):", "    for _ in range(chunks + 1):"),
    ("the first block again and again", "i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)", "i = tl.arange(0, BLOCK)"),
    ("no mask", "tl.store(total + i, whole.to(tl.float32), mask=i < size)", "tl.store(total + i, whole.to(tl.float32))"),
    ("the last number", "tl.store(total + i, whole.to(tl.float32), mask=i < size)", "tl.store(total + i, whole.to(tl.float32), mask=i < size - 1)"),
    ("numbers outside are read", "tl.load(partials + i, mask=i < size, other=0.0)", "tl.load(partials + i)"),
    ("sums in 8 bits", "whole.to(tl.float32), mask", "whole.to(tl.float32).to(tl.bfloat16).to(tl.float32), mask"),
    ("chunks a number apart", "        partials += size\n", "        partials += size - 1\n"),
]  # fmt: skip

MUTANTS = [
    *_of("_subtract_centre", MODES, CENTRE), *_of("_mode_losses", MODES, LOSSES), *_of("_feature_slopes", MODES, SLOPES),
    *_of("_sum_modes", MODES, SUMS), *_of("_add_chunks", MODES, ADD),
]  # fmt: skip
