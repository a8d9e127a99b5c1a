"""The planted faults of pixel_mean, as mutant_table.py has those of others."""

# ruff: noqa: E501  a row is a line of the kernel

from __future__ import annotations

from planted import Mutant

# (name, text of cpu/pixel_mean.cpp, what stands there instead)
_ROWS = (
    ("every pixel adds its loss", "own[i] < classes ? static_cast<double>(at[i * step]) : 0.0", "double(at[i * step])"),
    ("an ignored loss times zero", "? static_cast<double>(at[i * step]) : 0.0;", "* static_cast<double>(at[i * step]);"),
    ("losses side by side", "static_cast<double>(at[i * step])", "static_cast<double>(at[i])"),
    ("a loss too early", "static_cast<const T*>(from.data) + offset", "static_cast<const T*>(from.data)"),
    ("labels of the block's first run", "label + (pixel - begin)", "label"),
    ("the last pixels left out", "    for (; i < length; ++i) sums[0] += term(i);\n", ""),
    ("three sums of four", "(sums[0] + sums[1]) + (sums[2] + sums[3])", "(sums[0] + sums[1]) + sums[2]"),
    ("one sum's turn left out", "sums[j] += term(i + j);", "sums[j] += term(i + (j | 1));"),
    ("every pixel counts", "return y < classes;", "return y <= classes;"),
    ("the last class left out", "return y < classes;", "return y + 1 < classes;"),
    ("labels of the segment's first block", "labels.read(first, last, label);", "labels.read(begin, begin + last - first, label);"),
    ("the last block of a segment only", "sums.losses[i] += wide", "sums.losses[i] = wide"),
    ("the first block of a segment only", "first < end; first += kBlock", "first < begin + 1; first += kBlock"),
    ("the other loss is the first", "sum_block<float>(losses[i], label", "sum_block<float>(losses[0], label"),
    ("the other lies as the first", "{label_grid(others ? *others : losses),", "{label_grid(losses),"),
    ("one segment for all", "of, i * kSegment, std::min", "of, 0 * kSegment, std::min"),
    ("a segment's rest left out", "std::min(pixels, (i + 1) * kSegment)", "std::min(pixels, kSegment)"),
    ("the last segment left out", "(pixels + kSegment - 1) / kSegment", "pixels / kSegment"),
    ("the last segment's losses only", "all.losses[i] += part.losses[i]", "all.losses[i] = part.losses[i]"),
    ("the last segment's pixels only", "all.count += part.count;", "all.count = part.count;"),
    ("a mean of nothing", "mean ? std::max<int64_t>(1, all.count) : all.count", "all.count"),
    ("a sum counts one pixel at least", "mean ? std::max<int64_t>(1, all.count)", "true ? std::max<int64_t>(1, all.count)"),
    ("always a mean", "mean ? static_cast<double>(divisor) : 1.0", "static_cast<double>(divisor)"),
    ("the other not divided", "all.losses[1] / by", "all.losses[1]"),
)  # fmt: skip
MUTANTS = tuple(
    Mutant("pixel_mean", f"pixel_mean: {name}", "cpu/pixel_mean.cpp", search, replace)
    for name, search, replace in _ROWS
)
