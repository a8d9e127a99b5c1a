"""The planted faults of sinkhorn, the samplers and the triplets in csrc, as mutant_table.py has those of others."""

from __future__ import annotations

from planted import Mutant

SINKHORN, WIDE, TILE = "cpu/sinkhorn.cpp", "cpu/sinkhorn_wide.h", "cpu/row_tile.h"
EXP = "cpu/scaled_exp.h"
SAMPLE, RANDOM = "cpu/class_balanced_sample.cpp", "random_bits.h"
SELECT, TRIPLET = "cpu/select_triplets.cpp", "cpu/triplet_consistency_loss.cpp"


def planted_in(operator: str, *faults: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(operator, f"{operator}: {name}", file, old, new) for name, file, old, new in faults)


MUTANTS = planted_in(
    "sinkhorn",
    ("a wider spread than float32 holds", SINKHORN, "kWidestSpread = 92", "kWidestSpread = 200"),
    ("larger exponents than float32 splits", SINKHORN, "kLargestExponent = 1 << 20", "kLargestExponent = 1 << 30"),
    ("a wrong coefficient", EXP, "0.05550329f", "0.05450329f"),
    ("the whole part shifted too little", EXP, "exponent << 23", "exponent << 22"),
    ("repeated rows counted in the first sums", SINKHORN, "sum += kBlocks == 1 ? x * weight : x", "sum += x"),
    ("repeated rows counted in the later sums", SINKHORN, "u[j] = weight / u[j]", "u[j] = 1.0f / u[j]"),
    ("a block left out", SINKHORN, "    add_blocks<1>(tiles + i", "    if (i < whole - 1) add_blocks<1>(tiles + i"),
    ("an incomplete block left out", SINKHORN, "weight = lane_weights(std::min(kBlockRows, rows - i * kBlockRows));",
     "weight = one;"),
    ("a chunk's shift forgotten", SINKHORN, "first ? std::exp2(ranges[i].shift - top) : 1", "1"),
    ("a chunk's shift undone twice", SINKHORN, "first ? std::exp2(ranges[i].shift - top) : 1",
     "std::exp2(ranges[i].shift - top)"),
    ("the last chunk only", SINKHORN, "sums[k] += unit * partial[k]", "sums[k] = unit * partial[k]"),
    ("one round less", SINKHORN, "if (round > 0) run_step", "if (round > 1) run_step"),
    ("rows before the current ones", SINKHORN, "begin = std::max(row, skipped), end", "begin = row, end"),
    ("what is not finite goes unseen", SINKHORN, "if (std::isnan(ranges[i].low)) return true;", ""),
    ("no problem is wide", SINKHORN, "wide[b] = is_wide(n, b)", "wide[b] = 0"),
    ("a problem takes its neighbour's scale", SINKHORN, "const float *tile = n.tiles_of(b, block), *v = n.v + b * p.",
     "const float *tile = n.tiles_of(b, block), *v = n.v + 0 * p."),
    ("a class without mass", WIDE, "total == 0 ? kLogZero : ", ""),
    ("a row that no class may take", WIDE, "if (top == kLogZero) return false;", ""),
    ("a chunk's largest exponent forgotten", WIDE, "(is_first ? relative(tops[i * p.classes + k], top) : 1)", "1"),
    ("classes taken as adjacent", WIDE, "from[k * p.class_stride]", "from[k]"),
    ("the last columns at the wrong place", TILE, "four_columns(from + at, pitch, to + at * kTileRows)",
     "four_columns(from + at, pitch, to + c * kTileRows)"),
    ("rows written in another order", TILE, "to + i * pitch + c, pitch", "to + (12 - i) * pitch + c, pitch"),
    ("quads of the wrong rows", TILE, "load(at + (4 * j + i) * pitch, r[j])", "load(at + (j + 4 * i) * pitch, r[j])"),
) + planted_in(
    "class_balanced_sample",
    ("too few candidates are not looked for again", SAMPLE, "          enough = false;\n", ""),
    ("32 bits instead of 31", SAMPLE, "stream) >> 1;", "stream);"),
    ("another mixer", RANDOM, "0x735A2D97u", "0x735A2D99u"),
    ("the top-up from the first stream", SAMPLE, "random_, 1, nullptr", "random_, 0, nullptr"),
    ("one pixel of a class too few", SAMPLE, "return keys[n - 1] + 1", "return keys[n - 1]"),
    ("a pixel drawn twice", SAMPLE, "labels_.classes && !chosen(i))", "labels_.classes)"),
    ("ignored pixels in the top-up", SAMPLE, "label_[i] < labels_.classes && !chosen(i)", "!chosen(i)"),
    ("every image like the first", SAMPLE, "uint32_t>(image * labels.pixels)", "uint32_t>(0 * labels.pixels)"),
    ("quotas rounded up", SAMPLE, "quota[k] = count * drawing.sizes()[k] /",
     "quota[k] = (count * drawing.sizes()[k] + total - 1) /"),
    ("the top-up at the end", SAMPLE, "next != more.end() && *next < pixel", "false"),
    ("places beyond the last pixel unwritten", SAMPLE, "    std::fill(to, end, -1);\n", ""),
    ("ignore_index drawn", SAMPLE, " & (label != ignore) ?", " ?"),
    ("ignore_index beyond 32 bits wraps", SAMPLE, " && labels.ignore_index <= most", ""),
    ("pixels taken as adjacent", SAMPLE, "from[i * labels.pixel_stride]", "from[i]"),
    ("one pixel a class too many", SAMPLE, "wanted[k] >= sizes_[k]\n", "wanted[k] + 1 >= sizes_[k]\n"),
) + planted_in(
    "select_triplets",
    ("a negative mode", SELECT, " && m >= 0", ""),
    ("a mode too large", SELECT, " && m < modes", ""),
    ("a negative class", SELECT, "k >= 0 && ", ""),
    ("a class too large", SELECT, " && k < classes", ""),
    ("the first row of the own class", SELECT, "other < class_first ?", "other <= class_first ?"),
    ("one stream for both", SELECT, "random.of(counter, 1)", "random.of(counter, 0)"),
    ("the other stream", SELECT, "random.of(counter, 0), own", "random.of(counter, 1), own"),
    ("rows of no class are drawn", SELECT, "usable = starts[buckets]", "usable = source.order.size()"),
    ("no other class is not missed", SELECT, "own == 0 || others == 0", "own == 0"),
    ("no own row is not missed", SELECT, "own == 0 || others == 0", "others == 0"),
    ("the first bucket for all", SELECT, "order[first + below", "order[below"),
    ("twice the limit", RANDOM, ">> 32)", ">> 31)"),
    ("the own class is not stepped over", SELECT, "other : other + class_count", "other : other"),
    ("rows taken as adjacent", SELECT, "mode[i * mode_stride]", "mode[i]"),
    ("nothing written where a partner is missing", SELECT, "to_positive[i] = to_negative[i] = 0;", ""),
) + planted_in(
    "triplet_consistency_loss",
    ("no margin", TRIPLET, " + static_cast<Acc>(f.margin)", ""),
    ("NaN taken for no loss", TRIPLET, "if (loss < 0) loss = 0;", "if (!(loss > 0)) loss = 0;"),
    ("rows without partners", TRIPLET, "if (f.valid[i * f.valid_stride])", "if (true)"),
    ("half the gradient", TRIPLET, "return 2 * static_cast", "return 1 * static_cast"),
    ("the target's gradient reversed", TRIPLET, "slope = (z - y) * g", "slope = (y - z) * g"),
    ("negatives drawn near", TRIPLET, "draw.is_positive ? g : -g", "g"),
    ("closed hinges give a gradient", TRIPLET, "[i * loss_stride] > 0", "[i * loss_stride] >= 0"),
    ("the last channel left out", TRIPLET, "if (c < channels) step", "if (c + 1 < channels) step"),
    ("channels taken as adjacent", TRIPLET, "if (stride == 1 && lanes == kLanes<Accumulate<T>>) {",
     "if (lanes == kLanes<Accumulate<T>>) {"),
    ("channels written as adjacent", TRIPLET, "to[i * stride] = rounded[i]", "to[i] = rounded[i]"),
    ("an expanded gradient", TRIPLET, "(grad)[i * grad_stride]", "(grad)[i]"),
    ("a negative partner", TRIPLET, "least >= 0 && ", ""),
    ("the row after the last", TRIPLET, "most < t.sources", "most <= t.sources"),
    ("the first draw of a row only", TRIPLET, "slope += (y - x) *", "slope = (y - x) *"),
    ("draws of the row before", TRIPLET, "w.draws[next[row]++] = draw", "w.draws[next[row]] = draw"),
)  # fmt: skip
