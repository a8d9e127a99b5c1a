"""The planted faults of the losses on dense labels in csrc, as mutant_table.py has those of others."""

from __future__ import annotations

from planted import Mutant

UP, TILE, NODES = "cpu/upsample_rows.h", "cpu/upsample_tile.h", "cpu/upsample_nodes.h"
PIXELS = "cpu/upsample_pixels.h"
LOSS, ENTROPY = "cpu/upsample_cross_entropy.cpp", "cpu/upsample_cross_entropy.cpp"
SORT, LOVASZ = "cpu/lovasz_softmax_sweeps.h", "cpu/lovasz_softmax.cpp"


def planted_in(operator: str, *faults: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(operator, f"{operator}: {name}", file, old, new) for name, file, old, new in faults)


MUTANTS = planted_in(
    "upsample_cross_entropy",
    ("a wrong coefficient", PIXELS, "0.055507336f", "0.054507336f"),
    ("the whole part shifted too little", PIXELS, "exponent << 23", "exponent << 22"),
    ("smaller powers than float32 holds", PIXELS, "x < -126.0f ?", "x < -1260.0f ?"),
    (
        "positions before the first node",
        UP,
        "std::max<int64_t>((2 * at + 1) * source - size, 0)",
        "(2 * at + 1) * source - size",
    ),
    (
        "weight for a node beyond the last",
        UP,
        "cell + 1 < source ? static_cast<Acc>(share) : Acc(0)",
        "static_cast<Acc>(share)",
    ),
    ("both rows of a band the same", TILE, "std::min(band + i, u_.scores.height - 1)", "band"),
    ("a row of another band held", TILE, "next = band == held_ + 1;", "next = held_ >= 0;"),
    ("the last tile's columns counted", TILE, "i = count_; i < kTile", "i = count_ + 1; i < kTile"),
    ("an ignored pixel's powers kept", TILE, "    if (!any) return;\n", "    return;\n"),
    ("the upper row by the lower one's weight", TILE, "above + (1 - down) * slope", "above + down * slope"),
    ("the right node of a cell forgotten", TILE, "        left = right;\n", "        left = V{};\n"),
    ("a node before a gap forgotten", TILE, "          add(left, nodes + (cell + 1) * classes_);\n", ""),
    ("the last node of a tile forgotten", TILE, "    add(right, nodes + (cell + 1) * classes_);\n", ""),
    ("all bands of a chunk at its first nodes", TILE, "partial + (band - first_band) * u.node_row()", "partial"),
    ("both rows of nodes at the upper one", TILE, "nodes + side * u_.node_row() + k", "nodes + k"),
    (
        "the last row of nodes of a chunk forgotten",
        NODES,
        "row < c.first_node + c.nodes)",
        "row < c.first_node + c.nodes - 1)",
    ),
    (
        "partial sums not started at zero",
        NODES,
        "    std::fill(to, to + chunk(item).nodes * up.node_row(), Acc(0));\n",
        "",
    ),
    ("nodes taken for pixels", TILE, "down.size == down.source && along.size", "along.size"),
    (
        "a row of the result not written",
        TILE,
        "        if (to.direct) tile.write(row, x, to);\n",
        "        if (any && to.direct) tile.write(row, x, to);\n",
    ),
    ("ignore_index counted", PIXELS, " & (label < most) & (label != ignored);", " & (label < most);"),
    ("labels beyond the classes counted", PIXELS, " & (label < most) & (label != ignored);", " & (label != ignored);"),
    ("a tile's sums counted again", LOSS, "      loss_sum_[v] = share_sum_[v] = V{};\n", ""),
    ("the label's share of the smoothing", LOSS, "share * (1 - p_.smoothing)", "share"),
    ("the smoothing's sum of logarithms", LOSS, "p_.even_sum * log_sum - (natural", "log_sum - (natural"),
    ("the smoothing's share of the gradient", LOSS, "kept(valid, (certain + p_.even_sum)", "kept(valid, certain"),
    ("the label's gradient added", LOSS, "slope - wanted[v] : slope", "slope + wanted[v] : slope"),
    (
        "an ignored row unwritten",
        LOSS,
        "      if (p_.losses) std::memset(loss_at(y, x), 0, count_ * sizeof(Acc));\n",
        "",
    ),
    ("weights of pixels taken as adjacent", LOSS, "at + i * p_.scale.column_stride", "at + i"),
    ("ignored pixels in the divisor", ENTROPY, "  values[classes] = 0;", "  values[classes] = 1;"),
    ("half the chunks' sums", ENTROPY, "i < sums.size(); i += 2", "i < sums.size(); i += 4"),
) + planted_in(
    "lovasz_softmax",
    (
        "a sort that is not stable",
        SORT,
        "for (int64_t i = 0; i < size; ++i) other[",
        "for (int64_t i = size - 1; i >= 0; --i) other[",
    ),
    ("a digit left out", SORT, "& mask] == size) continue;", "& mask] > 2) continue;"),
    ("own pixels not counted off", SORT, "    left -= own;\n", ""),
    ("a union of one pixel more", SORT, "(total + wrong)", "(total + wrong + 1)"),
    (
        "the union after the step twice",
        SORT,
        "((size_of_union - 1) * size_of_union)",
        "(size_of_union * size_of_union)",
    ),
    ("own pixels pushed away", SORT, "own ? -increment * share : increment * share", "increment * share"),
    ("errors of one pixel", SORT, "2 * (at + i) +", "2 * at +"),
    ("own errors like others", SORT, "store(this->labels(v) == own ? 1 - p : p, errors", "store(p, errors"),
    ("an incomplete tile unwritten", SORT, "    for (int i = 0; i < count_; ++i) to[i] = values[i];\n", ""),
    ("ignored pixels among the errors", SORT, "(this->label_[i] < this->u_.classes) & !", "!"),
    ("the softmax's sum forgotten", SORT, "          sum[v] += slope;\n", ""),
    ("the softmax's sum added", SORT, "slope = -this->probability", "slope = this->probability"),
    ("gradient of ignored pixels", SORT, "        slope = kept(this->valid(v), slope);\n", ""),
    ("errors left out that count", SORT, "!(errors[i] < least)", "!(errors[i] < least + Acc(0.01))"),
    ("errors left out that are not written", SORT, "      this->write_plane(none, plane + at);\n", ""),
    ("the least error of all classes", SORT, "least[this->p_.first_class]", "least[0]"),
    ("an absent class sorted", LOVASZ, "        if (totals_[first + k] == 0) continue;\n", ""),
    (
        "the mean over all classes",
        LOVASZ,
        "return loss / divisor();",
        "return loss / static_cast<double>(view_.classes);",
    ),
    ("every class like the first", LOVASZ, "    p.first_class = first;\n", ""),
    ("every class's scores the first one's", LOVASZ, "first * view_.class_stride * bytes", "0 * bytes"),
    (
        "a number out of none",
        LOVASZ,
        "return poisoned ? std::numeric_limits<double>::quiet_NaN() : loss",
        "return loss",
    ),
    ("a part of a direct gradient overwritten", TILE, "if (place.more) load(to + i, before);", ""),
    ("a part of the gradient overwritten", TILE, "if (more) load(to + (k + j)", "if (false) load(to + (k + j)"),
    (
        "a part of few gradients overwritten",
        TILE,
        "Acc sum = more ? to[k * class_stride + x] : Acc(0);",
        "Acc sum = 0;",
    ),
    ("an error of 1 beyond the bins", SORT, "        bin = bin < last ? bin : V{} + last;\n", ""),
    ("own pixels in the first bin", SORT, "++own[place[label * kTile]]", "++own[label * 0]"),
    ("own pixels in the union twice", LOVASZ, "together += counts[i] - own[i];", "together += counts[i];"),
    ("the whole loss at every bin", LOVASZ, "(loss - before)", "loss"),
    ("the sum over classes", LOVASZ, "counts[i] * divisor()", "counts[i]"),
    ("a bin's weight pushes own pixels away", SORT, "        w = own ? -w : w;\n", ""),
    ("a softmax without its sum", SORT, "p * (w - sum[v])", "p * w"),
    ("ignored pixels in the binned loss", SORT, "kept(this->valid(v), error * w)", "error * w"),
    ("a tile's binned loss counted again", SORT, "      loss_[v] = V{};\n", ""),
)
