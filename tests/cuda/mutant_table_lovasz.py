"""The planted faults of the exact Lovász-Softmax: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

EXACT, SORT, PLAN = "cuda/lovasz_softmax_exact.h", "cuda/radix_sort.h", "cuda/lovasz_softmax.cu"
SYNC = "__syncthreads();\n"


def _exact(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("lovasz_softmax", f"exact lovasz: {name}", file, search, replace, quick)


MUTANTS = [
    # the errors as whole numbers
    _exact(
        "the smallest error first",
        EXACT,
        "(ErrorKey<Acc>::infinity + 1 - error_bits(error)) << 1",
        "error_bits(error) << 1",
    ),
    _exact("no number is a number", EXACT, "return bits < last ? bits : last;", "return bits < last ? bits : 0;"),
    _exact("own pixels as others", EXACT, "<< 1 | (own ? 1 : 0);", "<< 1;", True),
    _exact(
        "errors of others",
        EXACT,
        "const Acc error = own ? 1 - probability : probability;",
        "const Acc error = probability;",
    ),
    _exact("behind the largest own error", EXACT, "if (own || !(error < least))", "if (own)"),
    _exact("ignored pixels sorted", EXACT, "if (present && rows.label[r] >= 0) {", "if (present) {"),
    _exact(
        "rows below the cell",
        EXACT,
        "if (!block.inside || block.row + r >= block.row_end) continue;",
        "if (!block.inside) continue;",
    ),
    # the first walk
    _exact("totals not cleared", EXACT, "  totals[k] = 0;\n  least", "  least"),
    _exact(
        "no barrier before a block's counts are added",
        EXACT,
        f"  {SYNC}  for (int i = threadIdx.x; i < own;",
        "  for (int i = threadIdx.x; i < own;",
    ),
    _exact("own pixels of one block", EXACT, "atomicAdd(p.totals + i, total);", "atomicAdd(p.totals + i, 1);"),
    _exact("the scale left out", EXACT, "p.unit[p.pixel(block, r)] = rows.unit[r];", "p.unit[p.pixel(block, r)] = 1;"),
    _exact(
        "every pixel in the first image", EXACT, "static_cast<u32>(block.image) * c.down.size + block.row", "block.row"
    ),
    # the order
    _exact(
        "rows without a key kept",
        SORT,
        "const bool inside = keys[i] != kNoKey<Key>;",
        "const bool inside = first + lane < size;",
    ),
    _exact("all rows in later passes", SORT, "return first || !sizes ?", "return first || sizes ?"),
    _exact(
        "classes in one order",
        SORT,
        "const i64 segment = blockIdx.y, base = segment * s.rows;",
        "const i64 segment = blockIdx.y, base = 0;",
    ),
    _exact("digits of the first class", SORT, "const i64 line = (segment << s.bits) + t;", "const i64 line = t;"),
    _exact("the own bit sorts", PLAN, "1 + pass * kRadixBits, bits,", "pass * kRadixBits, bits,"),
    _exact("a pass too few", EXACT, "static constexpr int passes = 4;", "static constexpr int passes = 2;"),
    # the steps
    _exact("tiles before forgotten", EXACT, "before += s.own[row + i];", "before += 0;"),
    _exact(
        "warps before forgotten",
        EXACT,
        "int seen = before + block_scan(sums, last, all) - last;",
        "int seen = before;\n    block_scan(sums, last, all);",
    ),
    _exact(
        "the pixel itself not yet wrong",
        EXACT,
        "__popc(own[i] & ((1u << lane) - 1)) + is_own;",
        "__popc(own[i] & ((1u << lane) - 1));",
    ),
    _exact("lanes before forgotten", EXACT, "seen + __popc(own[i] & ((1u << lane) - 1)) + is_own", "seen + is_own"),
    _exact("rows of a warp before forgotten", EXACT, "      seen += __popc(own[i]);\n", ""),
    _exact(
        "union of the class alone",
        EXACT,
        "static_cast<u32>(total) + (at + 1 - static_cast<u32>(upto))",
        "static_cast<u32>(total)",
    ),
    _exact("the union before", EXACT, "left / ((together - 1) * together);", "left / (together * together);"),
    _exact("all classes occur", EXACT, "present += s.totals[i] > 0;", "present += 1;"),
    _exact("loss of the sum of classes", EXACT, "16), loss) / present;", "16), loss);"),
    _exact("own errors pull up", EXACT, "is_own ? -step * share : step * share;", "step * share;"),
    _exact("gradients of the order", EXACT, "s.toward[base + s.order[base + at]] =", "s.toward[base + at] ="),
    _exact(
        "what errors count for not cleared", EXACT, "    if (s.toward && at < s.pixels) s.toward[base + at] = 0;\n", ""
    ),
    # the gradient
    _exact("sums of one group", EXACT, "if (kRest || (p.first > 0 && !p.probabilities)) {", "if (kRest) {"),
    _exact("gradient for probabilities", EXACT, "if (!p.probabilities) slope *= probability;", "slope *= probability;"),
    _exact("the rest pulls up", EXACT, "slope = -probability * mean[r];", "slope = probability * mean[r];"),
    _exact(
        "ignored pixels in the gradient",
        EXACT,
        "if (!present || rows.label[r] < 0) continue;",
        "if (!present) continue;",
    ),
    _exact(
        "gradient of the first class",
        EXACT,
        "static_cast<i64>(k - p.first) * p.pixels",
        "static_cast<i64>(0) * p.pixels",
    ),
    _exact("every group stored", EXACT, "!kRest && columns == 0 && chunk == 0", "columns == 0 && chunk == 0"),
    _exact(
        "one group of classes",
        PLAN,
        "first < classes && blocks.x; first += part.group",
        "first < part.group && blocks.x; first += part.group",
    ),
]
