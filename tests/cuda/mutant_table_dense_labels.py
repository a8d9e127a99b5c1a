"""The planted faults of the kernels that make and count labels: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

UP, STRIP, CELLS = "cuda/upsample.h", "cuda/dense_strip.h", "cuda/cell_counts.h"
SYNC = "__syncthreads();\n"


def _of(operator: str, short: str):
    def plant(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
        return Mutant(operator, f"{short}: {name}", file, search, replace, quick)

    return plant


_label = _of("pseudo_labels", "pseudo labels")
_pair = _of("confusion_matrix", "confusion")
_bin = _of("confidence_histogram", "histogram")
_rectify = _of("prototype_rectify", "rectify")
_vote = _of("aggregate_patches", "patches")

LABEL, PAIR, BIN = "cuda/pseudo_labels.cu", "cuda/confusion_matrix.cu", "cuda/confidence_histogram.cu"
RECTIFY, VOTE = "cuda/prototype_rectify.cu", "cuda/aggregate_patches.cu"

_LABEL = [
    # the taps
    _label("corners beyond the last score", UP, "at * (source - 1);", "at * source;"),
    _label("corners of one pixel more", UP, "size > 1 ? size - 1 : 1;", "size;"),
    _label("positions at a pixel's edge", UP, "(2 * at + 1) * source", "(2 * at) * source"),
    _label("positions above the first score", UP, "middle > size ? middle - size : 0", "middle - size"),
    _label("positions twice as far apart", UP, "denominator = 2 * size;", "denominator = size;"),
    _label("the score after the last one", UP, "lower + 1 < source ? lower + 1 : source - 1", "lower + 1"),
    _label("from the lower score only", STRIP, "weight < Acc(0.5) ? weight : weight - 1;", "weight;"),
    _label("the farther score's step", STRIP, "(step < 0 ? b : a) + step", "(step > 0 ? b : a) + step"),
    # the strip
    _label("both scores of a column the same", STRIP, "left = from + t.lower", "left = from + t.upper"),
    _label("rows after the last one", STRIP, "at < u.down.size ? at : u.down.size - 1;", "at;"),
    _label("one score row for all rows", STRIP, "if (r == 0 || lower[r] != lower[r - 1]) {", "if (r == 0) {"),
    _label("rows left out", STRIP, "lower[r] == lower[r - 1] + 1) top", "lower[r] > lower[r - 1]) top"),
    _label("the score row after the last", STRIP, "lower[r] + 1 < s.height ? lower[r] + 1 : lower[r]", "lower[r] + 1"),
    _label(
        "strips a row apart",
        STRIP,
        "static_cast<int>(strip - of * strips) * rows;",
        "static_cast<int>(strip - of * strips);",
    ),
    _label("threads beyond the last strip", STRIP, "return of < images;", "return true;"),
    _label("NaN is no largest", STRIP, "x > most || x != x;", "x > most;"),
    _label("the highest of equals", STRIP, "x > most || x != x;", "!(x < most);"),
    _label("another class's factor", STRIP, "take(r, k, e * f, e, key[r]);", "take(r, k, e, e, key[r]);"),
    _label(
        "the quotient for a probability", STRIP, "take(r, k, x * f, x, key[r]);", "take(r, k, x * f, x * f, key[r]);"
    ),
    _label("sum not divided", STRIP, "confidence[r] /= sum[r];", "confidence[r] /= 1;"),
    # the rule
    _label("a threshold that is met drops", LABEL, "confidence >= least", "confidence > least", True),
    _label("no threshold, a label", LABEL, "kLeastThreshold = 1e-30;", "kLeastThreshold = 0.0;"),
    _label("no barrier before the thresholds", LABEL, SYNC, "\n"),
    _label("thresholds of the first 128 classes", LABEL, "k += kStripThreads", "k += 2 * kStripThreads"),
    _label("rows of the strip below", LABEL, "    if (r >= rows) break;\n", ""),
    _label("another no label", LABEL, "kNoLabel = 255;", "kNoLabel = 254;"),
    _label("a confidence that nobody wants", LABEL, "if (p.with_confidence) ", ""),
    _label("thresholds side by side", LABEL, "k * threshold_stride;", "k;"),
    _label("factors of what has no threshold", LABEL, "none ? Acc(0) : 1 / given;", "1 / given;"),
    _label(
        "balanced as the others", LABEL, "p.balanced ? BestRule::balanced : BestRule::largest;", "BestRule::largest;"
    ),
]

_PAIR = [
    _pair("halves swapped", CELLS, "cell % 2 ? times << 16 : times", "cell % 2 ? times : times << 16", True),
    _pair("counts not cleared", CELLS, "i += blockDim.x) own[i] = 0;", "i += 2 * blockDim.x) own[i] = 0;"),
    _pair("no barrier after clearing", CELLS, f"own[i] = 0;\n    {SYNC}", "own[i] = 0;\n"),
    _pair("no barrier before adding up", CELLS, f"shared<u32>(offset);\n    {SYNC}", "shared<u32>(offset);\n"),
    _pair(
        "the last odd cell",
        CELLS,
        "cell_bytes(i64 cells) { return (cells + 1) / 2 * 4; }",
        "cell_bytes(i64 cells) { return cells / 2 * 4; }",
    ),
    _pair("high halves left out", CELLS, "if (high) ", "if (low && high) "),
    _pair("high halves with the low", CELLS, "total + (2 * i + 1)", "total + 2 * i"),
    _pair("the leader alone", CELLS, "static_cast<u32>(__popc(alike))", "1u"),
    _pair(
        "others' cells as the leader's",
        CELLS,
        "if (cell != first) put(cell, 1);",
        "if (cell != first) put(first < 0 ? cell : first, 1);",
    ),
    _pair("no cell is a cell", CELLS, "    if (cell < 0) return;\n", ""),
    _pair("more counts than half a word", CELLS, "kMostBlockCounts = 65535;", "kMostBlockCounts = 1 << 24;"),
    _pair(
        "totals not cleared",
        CELLS,
        "cells; i += gridDim.x * kThreads) total[i] = 0;",
        "cells - 1; i += gridDim.x * kThreads) total[i] = 0;",
    ),
    _pair(
        "totals of the first block",
        CELLS,
        "i = blockIdx.x * kThreads + threadIdx.x; i < cells",
        "i = threadIdx.x; i < cells",
    ),
    _pair("beyond the classes", PAIR, "label >= 0 && label < classes ?", "label >= 0 && label <= classes ?"),
    _pair("below the classes", PAIR, "label >= 0 && label < classes ?", "label < classes ?"),
    _pair(
        "cut to 32 bits", PAIR, "const i64 label = labels.at[i];", "const int label = static_cast<int>(labels.at[i]);"
    ),
    _pair("quads beyond the end", PAIR, "quads && pixel + kPairRun <= pixels", "quads && pixel < pixels"),
    _pair("pixels beyond the end", PAIR, "pixel + i < pixels ?", "pixel + i <= pixels ?"),
    _pair(
        "transposed", PAIR, "truth[i] * p.truth.classes + prediction[i]", "prediction[i] * p.truth.classes + truth[i]"
    ),
    _pair("truth alone", PAIR, "truth[i] >= 0 && prediction[i] >= 0;", "truth[i] >= 0;"),
    _pair("one tile a block", PAIR, "first += gridDim.x * kPairTile", "first += p.pixels"),
    _pair("one image for all", PAIR, "g.image_stride == static_cast<i64>(g.height) * row);", "true);"),
    _pair("rows without gaps", PAIR, "(g.height == 1 || g.row_stride == row)", "true"),
    _pair(
        "quads of what is far apart",
        PAIR,
        "at.grid.width == pixels && at.grid.column_stride == 1 &&",
        "at.grid.width == pixels &&",
    ),
    _pair(
        "quads of any address", PAIR, "% static_cast<u32>(kPairRun * bytes) == 0;", "% static_cast<u32>(bytes) == 0;"
    ),
    _pair("quads of several rows", PAIR, "return at.grid.width == pixels && at", "return at"),
]

_BIN = [
    _bin(
        "bins from 1",
        CELLS,
        "place > 0 ? place < last ? place : last : Acc(0)",
        "place > 1 ? place < last ? place : last : Acc(1)",
    ),
    _bin("beyond the last bin", CELLS, "place < last ? place : last", "place"),
    _bin(
        "below the first bin", CELLS, "place > 0 ? place < last ? place : last : Acc(0)", "place < last ? place : last"
    ),
    _bin("one bin fewer", CELLS, "place = confidence * static_cast<Acc>(bins);", "place = confidence * last;"),
    _bin("more than the shared memory", CELLS, "offset + cell_bytes(cells) <= limit;", "offset >= 0;"),
    _bin("more than a block may have", CELLS, "cell_bytes(cells) <= kCountBytes && ", ""),
    _bin("as many blocks as wanted", CELLS, "wanted < least ? least : wanted;", "wanted;"),
    _bin("no barrier before adding up", CELLS, f"shared<u32>(offset);\n    {SYNC}", "shared<u32>(offset);\n"),
    _bin("the leader alone", CELLS, "static_cast<u32>(__popc(alike))", "1u"),
    _bin("NaN is counted", BIN, "static_cast<int>(p.grid.height) && x == x;", "static_cast<int>(p.grid.height);", True),
    _bin(
        "rows after the last one",
        BIN,
        "inside && row + r < static_cast<int>(p.grid.height) && x == x;",
        "inside && x == x;",
    ),
    _bin("threads after the last one", BIN, "const bool counts = inside && row", "const bool counts = row"),
    _bin("bins of the next class", BIN, "best.label[r] * p.bins + bin_of", "(best.label[r] + 1) * p.bins + bin_of"),
    _bin("strips left out", BIN, "first += gridDim.x * kBinThreads", "first += 2 * gridDim.x * kBinThreads"),
    _bin("one strip a thread", BIN, "first += gridDim.x * kBinThreads", "first += threads"),
    _bin("all blocks the same strips", BIN, "u32 first = blockIdx.x * kBinThreads;", "u32 first = 0;"),
    _bin("images after the first one", BIN, "image * p.u.scores.image_stride", "0"),
    _bin("probabilities taken for logits", BIN, "if (p.probabilities) best", "if (!p.probabilities) best"),
    _bin("counts of a block not begun", BIN, "  p.counts.begin();\n", ""),
    _bin("counts of a block not handed over", BIN, "  p.counts.end();\n", ""),
    _bin(
        "sum of the strip above",
        STRIP,
        "sum[r] += exponential(x - most[r]); });\n  }",
        "sum[r] += exponential(most[r] - x); });\n  }",
    ),
    _bin("the reciprocal left out", STRIP, "confidence[r] = 1 / sum[r];", "confidence[r] = sum[r];"),
    _bin("too few score rows", STRIP, "if (r == 0 || lower[r] != lower[r - 1]) {", "if (r % 4 == 0) {"),
]

_RECTIFY = [
    _rectify("temperature turned", RECTIFY, "static_cast<Acc>(1 / p.temperature)", "static_cast<Acc>(p.temperature)"),
    _rectify("scores not scaled", RECTIFY, "key[r] = x * p.scale;", "key[r] = x;"),
    _rectify("shares below 0", RECTIFY, "logarithm(x < 0 ? Acc(0) : x)", "logarithm(x)"),
    _rectify("shares below 0 as 1", RECTIFY, "x < 0 ? Acc(0) : x", "x < 0 ? Acc(1) : x"),
    _rectify("no logarithm", RECTIFY, "key[r] + logarithm(x < 0 ? Acc(0) : x)", "key[r] + x", True),
    _rectify("NaN is left out", RECTIFY, "x < 0 ? Acc(0) : x", "x > 0 ? x : Acc(0)"),
    _rectify("the largest share", RECTIFY, "const Acc sum = key[r] + logarithm", "const Acc sum = logarithm"),
    _rectify(
        "any class where none has a share",
        RECTIFY,
        "best[r] > nothing ? label[r] : 255",
        "best[r] >= nothing ? label[r] : 255",
    ),
    _rectify("the first class where none has a share", RECTIFY, "best[r] > nothing ? label[r] : 255", "label[r]"),
    _rectify("another no label", RECTIFY, "label[r] : 255", "label[r] : 254"),
    _rectify("rows of the strip below", RECTIFY, "    if (r >= rows) break;\n", ""),
    _rectify("the first class left out", RECTIFY, "if (k > 0 && !is_larger", "if (k > 1 && !is_larger"),
    _rectify(
        "the last class left out",
        RECTIFY,
        "k < p.u.scores.classes; ++k",
        "k < p.u.scores.classes - (p.u.scores.classes > 1); ++k",
    ),
    _rectify("shares of the first image", RECTIFY, "image * p.soft.scores.image_stride", "0"),
    _rectify("scores of the first image", RECTIFY, "image * p.u.scores.image_stride", "0"),
    _rectify(
        "shares at the scores' size",
        RECTIFY,
        "soft.set(p.soft, image",
        "soft.set({p.soft.scores, p.u.down, p.u.along}, image",
    ),
    _rectify("threads beyond the last strip", STRIP, "return of < images;", "return true;"),
    _rectify(
        "halves read as bfloat16",
        STRIP,
        "if (s.type == 1) return static_cast<Acc>(read_wide(s.halves, at));",
        "if (s.type == 1) return static_cast<Acc>(read_wide(s.bfloats, at));",
    ),
    _rectify("the highest of equals", STRIP, "x > most || x != x;", "!(x < most);"),
    _rectify("NaN is no largest", STRIP, "x > most || x != x;", "x > most;"),
    _rectify("rows left out", STRIP, "lower[r] == lower[r - 1] + 1) top", "lower[r] > lower[r - 1]) top"),
    _rectify("label of a row above", RECTIFY, "      label[r] = k;\n", "      label[r / 2] = k;\n"),
]

_VOTE = [
    _vote("patches below", VOTE, "y >= row + kVoteRows ||", "y >= row ||"),
    _vote("patches above", VOTE, "y <= row - height ||", "y <= row - height + 1 ||"),
    _vote("patches to the right", VOTE, "x > column ||", "x >= column ||"),
    _vote("patches to the left", VOTE, "x <= column - width)", "x < column - width)"),
    _vote(
        "far patches cut to 32 bits",
        VOTE,
        "const i64 y = v.offset(image, q, 0), x",
        "const int y = static_cast<int>(v.offset(image, q, 0)); const i64 x",
    ),
    _vote(
        "rows above the patch", VOTE, "v.probabilities, -line, height - line);", "v.probabilities, 0, height - line);"
    ),
    _vote(
        "rows below the patch", VOTE, "v.probabilities, -line, height - line);", "v.probabilities, -line, kVoteRows);"
    ),
    _vote("the first patch for all", VOTE, "image * v.image_stride + q * v.patch_stride", "image * v.image_stride"),
    _vote("the first image's patches", VOTE, "image * v.image_stride + q * v.patch_stride", "q * v.patch_stride"),
    _vote("the first image's offsets", VOTE, "offsets[image * offset_strides[0] + q", "offsets[q"),
    _vote("rows and columns swapped", VOTE, "axis * offset_strides[2]", "(1 - axis) * offset_strides[2]"),
    _vote("the last patch left out", VOTE, "q < v.patches; ++q", "q < v.patches - 1; ++q"),
    _vote("the whole image left out", VOTE, "  if (!v.with_full) return;\n", "  return;\n"),
    _vote("the first whole image", VOTE, "image * v.full.scores.image_stride", "0"),
    _vote(
        "the whole image's first rows", VOTE, "v.probabilities, 0, kVoteRows);", "v.probabilities, 0, kVoteRows - 1);"
    ),
    _vote("sums not cleared", VOTE, "sums[at(k, r)] = 0;", "if (k) sums[at(k, r)] = 0;"),
    _vote("numbers not cleared", VOTE, "      number[r] = 0;\n", ""),
    _vote("votes not normalised", VOTE, "Acc(1) : 1 / scale[r];", "Acc(1) : Acc(1);", True),
    _vote("votes of the last patch", VOTE, "sums[at(k, r)] += vote;", "sums[at(k, r)] = vote;"),
    _vote("rows of a strip share a sum", VOTE, "(k * kVoteRows + r) * pitch", "(k * kVoteRows + r / 2 * 2) * pitch"),
    _vote("strips share a sum", VOTE, "shared<Accumulate<T>>(0) + thread", "shared<Accumulate<T>>(0) + thread / 2"),
    _vote("the sum for the mean", VOTE, "confidence = most / votes;", "confidence = most;"),
    _vote("a volume of sums", VOTE, "= sum / votes;", "= sum;"),
    _vote("a volume of the first class", VOTE, "* pixels.classes + k) * area", "* pixels.classes) * area"),
    _vote("a label where no patch lies", VOTE, "number > 0 && confidence == confidence;", "confidence == confidence;"),
    _vote("NaN has a label", VOTE, "number > 0 && confidence == confidence;", "number > 0;"),
    _vote("rows after the last one", VOTE, "if (inside && row + r < static_cast<int>(v.grid.height))", "if (inside)"),
    _vote("strips of threads without a sum", VOTE, " && thread < v.block_strips;", ";"),
    _vote("one strip a thread", VOTE, "first += gridDim.x * own", "first += all"),
    _vote("counts over the sums", VOTE, "classes * p.bins, sums, card", "classes * p.bins, 0, card"),
    _vote("no room for the counts", VOTE, "sums + (p.bins && counts.in_shared ? cell_bytes(counts.cells) : 0)", "sums"),
    _vote("bins not counted", VOTE, "label * v.bins + bin_of", "bin_of"),
    _vote("rows before the first one", STRIP, "at = at < 0 ? 0 : at < u", "at = at < u"),
    _vote("the highest of equals", STRIP, "x > most || x != x;", "!(x < most);"),
    _vote("halves read as bfloat16", STRIP, "read_wide(s.halves, at)", "read_wide(s.bfloats, at)"),
]

MUTANTS = [*_LABEL, *_PAIR, *_BIN, *_RECTIFY, *_VOTE]
