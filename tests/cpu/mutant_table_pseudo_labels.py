"""The planted faults of pseudo labels from dense scores in csrc: written, 15 of 77 run (all caught), not yet joined.

To join them: rename this file to mutant_table_pseudo_labels.py; in checks.py import checks_pseudo_labels and add the
four operators to CASES as lovasz_softmax is there; in mutants.py add their names to CHECKED; then
``python tests/cpu/mutants.py --new`` (5 to 15 s a fault).  sanitize.py lacks the same four, with these selections:
pseudo_labels: every_size or (layouts and dtype0) or number_of_classes or ugly or nan or images;
confidence_histogram: every_size or number_of_bins or uniform or nan;
prototype_rectify: (every_size and other0) or dtypes_and_layouts or without or nan;
aggregate_patches: wherever or any_size or many_patches or nan or images.
"""

from __future__ import annotations

from planted import Mutant

ROWS, BEST = "common/dense_rows.h", "common/dense_best.h"
LABELS, HISTOGRAM = "cpu/pseudo_labels.cpp", "cpu/confidence_histogram.cpp"
RECTIFY, PATCHES = "cpu/prototype_rectify.cpp", "cpu/aggregate_patches.cpp"


def planted_in(operator: str, *faults: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(operator, f"{operator}: {name}", file, old, new) for name, file, old, new in faults)


MUTANTS = planted_in(
    "pseudo_labels",
    ("a row beyond the last", ROWS, "std::min(lower + 1, scores_.height - 1)", "lower + 1"),
    ("the rows the wrong way round", ROWS, "x += weight * (z - x);", "x = z + weight * (x - z);"),
    ("a held row is not swapped with its number", ROWS, "      std::swap(held_[0], held_[1]);\n", ""),
    ("a held row of another image", ROWS, "if (image == image_ && row == held_[i]) return;",
     "if (row == held_[i]) return;"),
    ("rows that are not finite taken as such", ROWS, "odd[i] += x * Acc(0);", ""),
    ("the second node's own weight", ROWS, "weight[1] = node == 1 ? own : node == 0 ? upper : none;",
     "weight[1] = node == 1 ? own : none;"),
    ("the fourth node", ROWS, "weight[3] = node == 2 ? upper : none;", "weight[3] = none;"),
    ("nodes for a smaller upsampling", ROWS, "> kCount - 2) return false;", "> kCount - 1) return false;"),
    ("ties to the highest class", BEST, "const Mask above = x > most;", "const Mask above = x >= most;"),
    ("the largest is not subtracted", BEST, "softmax_exp(x - most, e);", "softmax_exp(x - most - 0.01f, e);"),
    ("the whole part of the exponent", BEST, "exponent << 23", "exponent << 22"),
    ("small exponentials wrap around", BEST, "x < -87.0f ?", "x < -870.0f ?"),
    ("NaN with a payload", BEST, "e = x - most <= 0 ? e : x - most;", ""),
    ("one class left out of the sum", BEST, "  for (int64_t k = 0; k < classes; ++k) {\n    Vec<Acc> x, e;",
     "  for (int64_t k = 1; k < classes; ++k) {\n    Vec<Acc> x, e;"),
    ("the quotient for the probability", BEST, "own = x > most ? e : own;", "own = x > most ? x : own;"),
    ("the first class always own", BEST, "      own = x > most ? e : own;\n", ""),
    ("NaN probabilities of later classes", BEST, "bad |= p != p;", ""),
    ("above the threshold only", LABELS, "best.confidence >= limit", "best.confidence > limit"),
    ("the threshold of the first class", LABELS, "least[best.label[i]]", "least[0]"),
    ("thresholds taken as adjacent", LABELS, "k * threshold.stride(0)", "k"),
    ("no threshold is a small one", LABELS, "o.balanced && !(given >", "false && !(given >"),
    ("a row's place in the output", LABELS, "i * p.along.size;", "i * (p.along.size - 1);"),
    ("the last pixels of a row unwritten", LABELS, "x < width; x += lanes", "x + lanes <= width; x += lanes"),
) + planted_in(
    "confidence_histogram",
    ("pixels beyond the row", BEST, "i < std::min<int64_t>(count, lanes)", "i < lanes"),
    ("equal pixels beyond the row", BEST, "count >= lanes && !any_lane(other)", "!any_lane(other)"),
    ("a vector counted once", BEST, "counts_[index[0]] += lanes;", "counts_[index[0]] += 1;"),
    ("a vector like its first pixel", BEST, "(index ^ index[0]) | ~valid", "~valid"),
    ("equal pixels that are not valid", BEST, "(index ^ index[0]) | ~valid", "(index ^ index[0])"),
    ("NaN counted", BEST, "      if (valid[i]) ++counts_", "      ++counts_"),
    ("the bin below", BEST, "best.confidence * static_cast<Acc>(bins_)",
     "best.confidence * static_cast<Acc>(bins_ - 1)"),
    ("confidences above 1 beyond the class", BEST, "place = place < last ? place : Vec<Acc>{} + last;", ""),
    ("negative confidences before the class", BEST, "place = place > 0 ? place : Vec<Acc>{};", ""),
    ("classes side by side", BEST, "best.label * static_cast<Lane>(bins_)",
     "best.label * static_cast<Lane>(bins_ - 1)"),
    ("half of a mask", ROWS, "half[0] | half[1]", "half[0]"),
    ("the last thread's counts only", BEST, "__atomic_fetch_add(to + i, counts_[i], __ATOMIC_RELAXED)",
     "to[i] = counts_[i]"),
    ("counts never handed over", HISTOGRAM, "  counts.add(p.counts);\n", ""),
    ("softmax of probabilities", HISTOGRAM, "probabilities ? Kernels<Acc, true>", "false ? Kernels<Acc, true>"),
) + planted_in(
    "prototype_rectify",
    ("no temperature", RECTIFY, "score * p.scale", "score"),
    ("the temperature upside down", RECTIFY, "static_cast<Acc>(1 / temperature)", "static_cast<Acc>(temperature)"),
    ("probabilities instead of logarithms", RECTIFY, "+ log_of(share)", "+ share"),
    ("subnormal probabilities", RECTIFY, "x * 0x1p64f", "x * 0x1p0f"),
    ("the exponent's shift", RECTIFY, ">> 23) - 64,", ">> 23) - 63,"),
    ("a coefficient of the logarithm", RECTIFY, "2.0f / 3;", "2.0f / 4;"),
    ("the low part of ln 2", RECTIFY, "2.12194440e-4f", "2.12194440e-3f"),
    ("no probability is a small one", RECTIFY, "return x > 0 ? log : x - INFINITY;", "return log;"),
    ("NaN beside better classes", RECTIFY, "bad |= key != key;", ""),
    ("the first class where there is none", RECTIFY, "label = Mask{} + kIgnored, bad", "label = Mask{}, bad"),
    ("soft labels at the scores' columns", RECTIFY, "soft_along.set(p.soft_along, x);", "soft_along = along;"),
    ("soft labels at the scores' rows", RECTIFY, "soft(p.soft, p.soft_down);", "soft(p.soft, p.down);"),
    ("few nodes for both where one has", RECTIFY, " && Nodes<Acc>::serve(p.soft_along);", ";"),
    ("soft labels that are not finite", RECTIFY, " && soft.finite())", ")"),
    ("float64 soft labels misread", ROWS, "scores_.type == ScalarType::Double) {\n      widen_score_row<double>",
     "scores_.type == ScalarType::Double) {\n      widen_score_row<float>"),
) + planted_in(
    "aggregate_patches",
    ("a patch's last row", PATCHES, "line <= y - a.down.size", "line < y - a.down.size + 2"),
    ("a patch's first row", PATCHES, "(line > y ||", "(line >= y ||"),
    ("a patch's first column", PATCHES, "from <= -lanes", "from < 0"),
    ("a patch's last column", PATCHES, "from >= length) continue;", "from >= length - 1) continue;"),
    ("lanes before the patch vote", PATCHES, "(place >= 0) & (place <", "(place <"),
    ("lanes beyond the patch vote", PATCHES, "inside = (place >= 0) & (place < static_cast<Lane>(length));",
     "inside = place >= 0;"),
    ("lists of the first tile only", PATCHES, "if (x % kTileColumns == 0) {", "if (x == 0) {"),
    ("a tile's list without its right neighbour", PATCHES, "c.column < x + kTileColumns", "c.column < x"),
    ("rows of the image before", PATCHES,
     "      if (y == 0 && !is_full) rows[p] = nullptr;  // of another image\n", ""),
    ("the whole image's row of another image", PATCHES, "at(is_full ? image : 0,", "at(0,"),
    ("edges of logits vote", PATCHES, "    if (!whole) scale = inside ? scale : none;\n", ""),
    ("edges of probabilities vote", PATCHES, "      if (!whole) along.keep(inside);\n", "      ;\n"),
    ("edges of any nodes vote", PATCHES, "      if (!whole) p = inside ? p : none;", "      "),
    ("votes are not counted", PATCHES, "votes -= inside;", "votes -= ~Mask{};"),
    ("the whole image has no vote", PATCHES, "      votes += 1;\n", ""),
    ("the sum for the mean", PATCHES, "nan_where<Acc>(bad, most * scale)", "nan_where<Acc>(bad, most)"),
    ("a volume of sums", PATCHES, "store_some<Acc>(sum * scale,", "store_some<Acc>(sum,"),
    ("uncovered pixels are the first class", PATCHES, "covered & ~bad ? best.label", "~bad ? best.label"),
    ("uncovered pixels are counted", PATCHES, "counts.take<Acc>(best, covered, count)",
     "counts.take<Acc>(best, ~Mask{}, count)"),
    ("NaN of later classes", PATCHES, "    bad |= sum != sum;\n", ""),
    ("the patches' stride", PATCHES, "patch * patch_stride) * bytes", "patch) * bytes"),
    ("offsets taken as adjacent", PATCHES, "axis * offset_strides[2]", "axis"),
    ("no room before a patch", PATCHES, "along.set(a.along, from + lanes);",
     "along.set(a.along, std::max(from, -from));"),
    ("rows that are not finite", PATCHES, "      few_nodes &= rows[p]->finite();\n", ""),
    ("few nodes though the whole image has more", PATCHES, " && (!r.full || Nodes<Acc>::serve(a.full_along));", ";"),
)  # fmt: skip
