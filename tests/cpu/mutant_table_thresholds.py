"""The planted faults of class_thresholds, confusion_matrix and softmax_kl, as mutant_table.py has those of others."""

from __future__ import annotations

from planted import Mutant


def planted_in(operator: str, file: str, *faults: tuple[str, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(operator, f"{operator}: {name}", file, old, new) for name, old, new in faults)


MUTANTS = (
    planted_in(
        "confusion_matrix",
        "cpu/confusion_matrix.cpp",
        ("a run counted one short", "table[cell[i]] += kLane", "table[cell[i]] += kLane - 1"),
        ("the upper half of a vector not looked at", "half[0] |= half[1];", ""),
        ("a quarter of a vector not looked at", "quarter[0] |= quarter[1];", ""),
        ("one word of a quarter not looked at", "(quarter[0][0] | quarter[0][1]) == 0", "quarter[0][0] == 0"),
        ("a run is every vector", "if (uniform(cells, cell[i])) {", "{"),
        ("the last pixels left out", "for (; i < count; ++i) ++table[cell[i]];", ""),
        (
            "only one table counted",
            "for (int64_t t = 0; t < p.tables(); ++t) sum",
            "for (int64_t t = 0; t < 1; ++t) sum",
        ),
        ("tables that overlap", "p.tables() > 1 ? p.cells() : 0", "p.tables() > 1 ? p.classes : 0"),
        ("transposed", "cell[i] * side + other[i]", "cell[i] + other[i] * side"),
        ("ignored pixels join the next row", "return classes + 1;", "return classes;"),
        (
            "the last class left out",
            "for (int64_t j = 0; j < p.classes; ++j) {",
            "for (int64_t j = 0; j + 1 < side - 1; ++j) {",
        ),
        ("counts kept for the next task", "    std::fill(table.begin(), table.end(), 0);\n", ""),
        ("a task's rest left out", "std::min(p.pixels, (segment + 1) * kSegment)", "std::min(p.pixels, kSegment)"),
        ("the result not cleared", "  std::fill_n(counts, num_classes * num_classes, 0);\n", ""),
        (
            "labels of another strip",
            "p.prediction.read(first, first + count, other)",
            "p.prediction.read(segment * kSegment, segment * kSegment + count, other)",
        ),
        ("an ignored class", "label_view(truth, num_classes, -1)", "label_view(truth, num_classes, 0)"),
    )
    + planted_in(
        "class_thresholds",
        "cpu/class_thresholds.cpp",
        ("NaN counted", "label[i] = value[i] == value[i] ? label[i] : none;", ""),
        (
            "above 1 is 1",
            "static_cast<int32_t>(inside * kSteps) + (value[i] > 1.0f)",
            "static_cast<int32_t>(inside * kSteps)",
        ),
        ("more than is above 1", "(value[i] > 1.0f);", "(value[i] >= 1.0f);"),
        (
            "bins of half the width",
            "static_cast<int32_t>(inside * kSteps)",
            "static_cast<int32_t>(inside * (kSteps / 2))",
        ),
        (
            "negative values in other classes",
            "const float positive = value[i] > 0.0f ? value[i] : 0.0f;",
            "const float positive = value[i];",
        ),
        ("1 not alone", "interval.narrow(one, one + 1)", "interval.narrow(one - 1, one)"),
        ("infinity left out", "key_of(std::numeric_limits<float>::infinity()) + 1", "key_of(3e38f)"),
        ("the first bin begins at 0", "bin == 0 ? 0 : edge(bin)", "edge(bin)"),
        ("keys of negative values not turned", "static_cast<uint32_t>(bits >> 31) | 0x80000000u", "0x80000000u"),
        ("a digit too few", "std::bit_width(width - 1)) - kDigit", "std::bit_width(width - 1)) - kDigit - 1"),
        (
            "an open interval taken for closed",
            "bool open() const { return width > 1; }",
            "bool open() const { return width > 4; }",
        ),
        ("counts of the bin before", "interval.count = counts[bin];", "interval.count = counts[bin] / 2;"),
        ("the rank not reduced", "++bin) interval.rank -= counts[bin];", "++bin) interval.rank -= 0 * counts[bin];"),
        ("the next bin at an equal rank", "interval.rank >= counts[bin]", "interval.rank > counts[bin]"),
        ("floor from below", "std::ceil(share)", "std::floor(share)"),
        ("ceiling from above", "std::floor(share)", "std::ceil(share)"),
        (
            "no pixel at portion 0",
            "count - std::max<int64_t>(1, static_cast<int64_t>(std::floor(share)))",
            "count - static_cast<int64_t>(std::floor(share))",
        ),
        (
            "the zeroth smallest",
            "std::max<int64_t>(1, static_cast<int64_t>(std::ceil(share))) - 1",
            "std::max<int64_t>(2, static_cast<int64_t>(std::ceil(share))) - 1",
        ),
        ("a later bin begins elsewhere", "(bin << interval.shift)", "(bin << (interval.shift + 1))"),
        (
            "the neighbour picked",
            "const auto wanted = kept[k].begin() + interval.rank;",
            "const auto wanted = kept[k].begin() + interval.rank / 2;",
        ),
        (
            "not all are collected",
            "for (int64_t j = i; j < std::min(i + 16, count); ++j)\n        if (inside[j])",
            "for (int64_t j = i; j < std::min(i + 15, count); ++j)\n        if (inside[j])",
        ),
        ("a vector's first alone is looked at", "any |= inside[j];", "any |= inside[i];"),
        ("strides of the values", "from[i * step]", "from[i]"),
        (
            "a class without pixels is 0",
            "s.intervals[k].width ? value_of(s.intervals[k].low) : 1.0f",
            "value_of(s.intervals[k].low)",
        ),
        ("the last segment left out", "(pixels + kSegment - 1) / kSegment", "std::max<int64_t>(1, pixels / kSegment)"),
    )
    + planted_in(
        "softmax_kl",
        "cpu/softmax_kl_tile.h",
        ("another base", "high = 1.44269502f", "high = 1.4427f"),
        ("no smallest exponent", "x < -87.0f ? Vec<float>{} - 87.0f : x;", "x;"),
        ("the whole part shifted too little", "exponent << 23", "exponent << 22"),
        ("not relative to the largest", "top = value > top ? value : top;", "top = value < top ? value : top;"),
        (
            "the largest of the first classes",
            "for (int64_t c = 1; c < classes; ++c) {",
            "for (int64_t c = 1; c < std::min<int64_t>(classes, 2); ++c) {",
        ),
        ("one temperature forgotten", "y = (y - y_top) * scale;", "y = y - y_top;"),
        ("the last block of classes alone", "x_total += x_part;", "x_total = x_part;"),
        ("means not divided", "work.mean[1][v] = y_sum / y_total;", "work.mean[1][v] = y_sum;"),
        ("means of the other", "work.mean[0][v] = x_sum / x_total;", "work.mean[0][v] = y_sum / y_total;"),
        ("logarithms swapped", "work.log_ratio[v] = x_log - y_log;", "work.log_ratio[v] = y_log - x_log;"),
        (
            "a difference of means",
            "value = p.symmetric ? divergence(p, work, v) :",
            "value = p.symmetric ? work.mean[0][v] - work.mean[1][v] :",
        ),
        ("one normaliser for both", "second * work.unit[1][v]) *", "second * work.unit[0][v]) *"),
        ("the last block's sum alone", "      total += part;", "      total = part;"),
        ("T for T squared", "p.temperature * p.temperature);", "p.temperature);"),
        ("losses that do not count", "to[i] = work.valid[i] ? loss[i] : Acc(0);", "to[i] = loss[i];"),
        (
            "the gradient's temperature forgotten",
            "grad[work.grad_at[start + i]] * p.temperature)",
            "grad[work.grad_at[start + i]])",
        ),
        ("the first gradients for all", "grad[work.grad_at[start + i]]", "grad[work.grad_at[i]]"),
        (
            "gradients that do not count",
            "store(kept > Acc(0) ? two : Lanes{}, work.z[1] + at);",
            "store(two, work.z[1] + at);",
        ),
        ("the first mean for both", "(second * (second_mean - d) - gap)", "(second * (first_mean - d) - gap)"),
        ("the gap's sign", "(second * (second_mean - d) - gap)", "(second * (second_mean - d) + gap)"),
        (
            "one formula for both",
            "(p.symmetric ? first * (d - first_mean) + gap : gap)",
            "(first * (d - first_mean) + gap)",
        ),
        ("a tile without pixels is not cleared", "else std::fill(work.z[0], work.d, Acc(0));", ""),
        ("rows taken as adjacent", "begin % grid.width + (end - begin) > grid.width", "false"),
        ("columns taken as adjacent", "grid.column_stride != 1 ||", ""),
        (
            "tiles of the other's offset",
            "work.dense[i] < 0 ? -1 : work.dense[i] + start",
            "work.dense[0] < 0 ? -1 : work.dense[0] + start",
        ),
        ("a mask of other pixels", "p.mask[work.mask_at[start + i]]", "p.mask[work.mask_at[i]]"),
    )
)
