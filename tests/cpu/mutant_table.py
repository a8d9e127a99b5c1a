"""The planted faults of csrc/cpu: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

ROWS, MERGE, PIXELS = "cpu/class_moments_rows.h", "cpu/class_moments.cpp", "cpu/pixels.h"
FULL, OUTER = "cpu/class_moments_full.h", "cpu/class_moments_full.h"
SHARED = PACK = "cpu/contrastive_bound_statistics.h"
TILE, PRODUCTS = "cpu/contrastive_bound_tile.h", "cpu/products.h"
FORWARD = "cpu/contrastive_bound.cpp"
BACKWARD = BY_ROWS = "cpu/contrastive_bound_backward.h"
PLACE, MATH = "cpu/tile.h", "cpu/vector_math.h"


def _diag(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("class_moments", f"diagonal: {name}", file, search, replace, quick)


def _full(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("class_moments_full", f"full: {name}", file, search, replace, quick)


def _forward(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("bound_forward", f"forward: {name}", file, search, replace, quick)


def _backward(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("bound_backward", f"backward: {name}", file, search, replace, quick)


MUTANTS = [
    # Diagonal moments: rows of a class, planes, chunks and their merge, labels (which both forms share)
    _diag("square of x instead of x - pivot", ROWS,
        "    sum += d;\n    square += d * d;", "    square += (d + pivot) * d;\n    sum += d;"),
    _diag("a bundle overwrites the sums", ROWS, "store(sum += before,", "store(sum,"),
    _diag("a bundle overwrites the squares", ROWS, "store(square += before,", "store(square,"),
    _diag("missing rows are not zeros", ROWS, "group.rows[at + j] : level;", "group.rows[at] : level;", True),
    _diag("level of the class before", ROWS, "      store(pivot, group.level + c);\n", ""),
    _diag("pivot not rounded as the level is", ROWS, "    load(rounded, pivot);\n", ""),
    _diag("last channels left out", ROWS, "if (c < end) add_last", "if (c + 1 < end) add_last"),
    _diag("second half of a line left out", ROWS,
        "if constexpr (step < line) add_vector", "if constexpr (false) add_vector"),
    _diag("last rows left out", ROWS, "if (left == 0) continue;", "if (left <= 1) continue;"),
    _diag("seven rows of eight", ROWS, "if (left > kRows / 2) add_rows", "if (left > kRows) add_rows"),
    _diag("second strip left out", ROWS, "begin < channels; begin += strip", "begin < channels; begin += 2 * strip"),
    _diag("last KB left out", ROWS,
        "for (int part = split == begin; part < 2", "for (int part = split == begin; part < 1 + (split == begin)"),
    _diag("pivot added to the sums", ROWS, "d = x - pivot;", "d = x + pivot;"),
    _diag("channels transposed wrongly", ROWS, "        transpose<Acc>(block);\n", "", True),
    _diag("a row's end taken for a run", ROWS, "offsets[i + step - 1] - offsets[i] == step - 1;", "true;"),
    _diag("last planes left out", ROWS, "std::min<int64_t>(step, width - c)", "std::min<int64_t>(step, width - c - 1)"),
    _diag("pixel beyond the last one staged", ROWS,
        "std::min<int64_t>(step, count - i), std", "std::min<int64_t>(step, count - i) - 1, std"),
    _diag("counts of one tile", MERGE, "counts[k] += work.starts", "counts[k] = work.starts"),
    _diag("last pixel of a chunk left out", MERGE, "std::min(view.grid.pixels(), (chunk + 1) * problem.chunk_rows)",
        "std::min(view.grid.pixels() - 1, (chunk + 1) * problem.chunk_rows)"),
    _diag("only the first chunk", MERGE,
        "chunk < problem.chunks; ++chunk) {\n    const double", "chunk < 1; ++chunk) {\n    const double"),
    _diag("no shift between chunks", MERGE,
        "(spread < 0 ? 0 : spread) + delta * delta * cross", "(spread < 0 ? 0 : spread)"),
    _diag("shift weighted by the chunk", MERGE, "cross = total * share", "cross = count * share"),
    _diag("mean not weighted", MERGE, "mean[c] += delta * share;", "mean[c] += delta;"),
    _diag("sum of squares not centred", MERGE, "square[c] - sum[c] * shift", "square[c]"),
    _diag("pivot forgotten in the merge", MERGE, "pivot[c] + shift - mean[c]", "shift - mean[c]"),
    _diag("total not counted", MERGE, "    total += count;\n", ""),
    _diag("negative labels are classes", PIXELS, "(label >= 0) & (label < classes)", "(label < classes)"),
    _diag("ignore_index not ignored", PIXELS, " & (label != ignored)", ""),
    _diag("64-bit labels cut to 32", PIXELS, "std::conditional_t<sizeof(T) == 8, int64_t, int32_t>", "int32_t"),
    _diag("stride of the labels forgotten", PIXELS, "convert(from[i * step])", "convert(from[i])"),
    _diag("rows joined across a gap", PIXELS,
        " || g.row_stride == g.width * g.column_stride", " || g.column_stride > 0"),
    # Full moments
    _full("pivot not subtracted", FULL, "store(x -= pivot, p.packed", "store(x, p.packed"),
    _full("last rows of a panel left out", FULL, "p.rows = std::min(kPanelRows, starts[k + 1] - begin);",
        "p.rows = std::min(kPanelRows, starts[k + 1] - begin - 1);"),
    _full("panels overlap", FULL,
        "begin < starts[k + 1]; begin += kPanelRows)", "begin < starts[k + 1]; begin += kPanelRows - 1)"),
    _full("square not cleared between classes", FULL,
        "    std::fill(square.data(), square.data() + width * width, Acc(0));\n", ""),
    _full("sums not cleared between classes", FULL,
        "    std::fill(sums.begin(), sums.end(), 0.0);\n    std::fill(square", "    std::fill(square"),
    _full("sum of half the rows", FULL, "for (int64_t row = 0; row < p.rows; ++row) {\n      load",
        "for (int64_t row = 0; row < p.rows; row += 2) {\n      load", True),
    _full("upper triangle read", FULL, "row = std::max(i, j), column = std::min(i, j)", "row = i, column = j"),
    _full("not centred", FULL, " - p.sums[row] * each * p.sums[column]", ""),
    _full("pivot of 16-bit features not rounded", FULL, "static_cast<Acc>(static_cast<T>(static_cast<Acc>(total /",
        "static_cast<Acc>((static_cast<Acc>(total /"),
    _full("pivot forgotten in the mean", FULL, "p.pivot[i] + p.sums[i] * each", "p.sums[i] * each"),
    _full("last strip left out", FULL,
        "(groups + kStripGroups - 1) / kStripGroups", "std::max<int64_t>(groups / kStripGroups, 1)"),
    _full("a strip twice", FULL, "i % 2 ? strips - 1 - i / 2 : i / 2", "i % 2 ? strips - 1 - i / 2 : i"),
    _full("last class left out", FULL, "if (const int32_t k = label[pixel + i]; k < classes) sorted",
        "if (const int32_t k = label[pixel + i]; k < classes - 1) sorted"),
    _full("ignored pixels sorted in", FULL,
        "++next[label[i] + 1];", "++next[std::min<int64_t>(label[i], classes - 1) + 1];"),
    _full("only the first chunk of labels", FULL, "labels.read(i, std::min(i + chunk, pixels), label.data() + i);",
        "labels.read(i, std::min(i + chunk, pixels), label.data());"),
    _full("block overwrites", OUTER,
        "        load(to + i * pitch + g * step, x[g]);\n", "        x[g] = Vec<Acc>{};\n"),
    _full("only the first run of rows", OUTER, "begin < rows; begin += kOuterRun", "begin < 1; begin += kOuterRun"),
    _full("rows of a block one off", OUTER, "x[g] * a[row * step + i];", "x[g] * a[row * step + i / 2 * 2];"),
    _full("first column group alone", OUTER, "panel + first * group_pitch, rows", "panel + g * group_pitch, rows"),
    _full("last group of rows left out", OUTER, "g = first; g < groups; ++g", "g = first; g + 1 < groups; ++g"),
    # Bound, forward
    _forward("scores not cleared", FORWARD, "    std::fill(first, first + b.classes() * pixels, Acc(0));\n", ""),
    _forward("channels after the first run left out", FORWARD,
        "c < b.channels(); c += kDepth) {\n      const int64_t depth",
        "c < 1; c += kDepth) {\n      const int64_t depth"),
    _forward("last block of classes left out", FORWARD, "i < blocks.blocks; ++i", "i + 1 < blocks.blocks; ++i"),
    _forward("diagonal with q instead of q squared", FORWARD,
        "at + square * half, square,", "at + square * half, false,"),
    _forward("diagonal not divided by the length twice", FORWARD,
        "c = a + c * inverse * inverse", "c = a + c * inverse"),
    _forward("mean not divided by the length", FORWARD, "store(a *= inverse, one);", "store(a, one);"),
    _forward("softmax without its maximum", FORWARD, "top = c > top ? c : top;", "top = Lanes{};"),
    _forward("last class left out of the sum", FORWARD,
        "      sum += c;\n", "      if (k + 1 < b.classes()) sum += c;\n"),
    _forward("softmax not divided by its sum", FORWARD, "store(a *= share, at);", "store(a, at);"),
    _forward("maximum not added to the logarithm", FORWARD, "      log += top;\n", "", True),
    _forward("own class from the wrong pixel", FORWARD,
        "first[label * pixels + v * step + lane];", "first[label * pixels + lane];"),
    _forward("loss of ignored pixels not cleared", FORWARD, "    std::fill(loss, loss + chunk.size, Acc(0));\n", ""),
    _forward("last pixel without a loss", FORWARD,
        "v * step + lane < count; ++lane", "v * step + lane + 1 < count; ++lane"),
    _forward("last group of tiles left out", FORWARD,
        "start += work.tiles * pixels) {", "start += (work.tiles + 1) * pixels) {"),
    _forward("triangle's last block left out", FORWARD, "r < t.blocks(); ++r", "r + 1 < t.blocks(); ++r"),
    _forward("triangle of the first class", FORWARD, "packed + (k * depth + c) * M::rows", "packed + c * M::rows"),
    _forward("diagonal not halved", PACK,
        "to[half] = static_cast<Acc>(second / 2);", "to[half] = static_cast<Acc>(second);"),
    _forward("upper triangle packed too", PACK, "a < t.channels && c <= a", "a < t.channels && c < t.channels"),
    _forward("covariance not normalised", PACK, "b.covariance_scale[k] /", "1.0 /"),
    _forward("squares of a run of channels left out", TILE,
        "c < std::min(c0 + kDepth, b.channels()); ++c) {", "c + 1 < std::min(c0 + kDepth, b.channels()); ++c) {"),
    _forward("second vector of a tile not loaded", TILE,
        "store(block[j], x + (c + j) * pixels + v * step);", "store(block[j], x + (c + j) * pixels);"),
    _forward("planes not dense taken for dense", PLACE, "dense[i] = gaps == 0 && ", "dense[i] = "),
    _forward("exponential's rounding", MATH, "+ 1.0f / 6;", "+ 1.0f / 5;"),
    # Bound, backward
    _backward("own class not subtracted", BACKWARD, "      if (label < classes) w[label * pixels + i] -= 1;\n", ""),
    _backward("own class of rows not subtracted", BY_ROWS,
        " + i) * 2 * kWeights + own % kWeights] -= 1;", " + i) * 2 * kWeights + own % kWeights] -= 0;"),
    _backward("own class of another pixel", BACKWARD,
        "chunk.label[chunk.order[start + i]]", "chunk.label[start + i + (start + i + 1 < chunk.size)]"),
    _backward("last tile of rows left out", BY_ROWS, "start < work.chunk.count; start += kRowPixels",
        "start + kRowPixels < work.chunk.count + 1; start += kRowPixels"),
    _backward("incoming gradient forgotten", BACKWARD,
        "        scale[v][lane] = work.grad[i];\n", "        scale[v][lane] = 1;\n"),
    _backward("incoming gradient of another pixel, rows", BY_ROWS,
        "scale = work.grad[pixel] * inverse", "scale = work.grad[start + i] * inverse"),
    _backward("part along q kept", BACKWARD, "(out - q * back[v]) * scale[v]", "out * scale[v]"),
    _backward("part along q kept, rows", BY_ROWS, "out = (out - q * back) * scale;", "out = out * scale;", True),
    _backward("part along q divided once", BACKWARD,
        "along[v] * inverse * inverse : Lanes{}", "along[v] * inverse : Lanes{}"),
    _backward("diagonal not divided by the length, rows", BY_ROWS, "p[first + k] * inverse;", "p[first + k];"),
    _backward("ignored pixels not cleared", BACKWARD,
        "if (chunk.label[i] >= b.classes()) erase(b, work.result_offset[i]);", ""),
    _backward("last channels of rows not written", BY_ROWS,
        "1, b.channels(), b.slope", "1, b.channels() - 1, b.slope"),
    _backward("factors of the second half of the classes", BY_ROWS, "(own / kWeights * kRowPixels + i)", "i"),
    _backward("second product with the first's factors", PRODUCTS,
        "weights[(p * 2 + 1) * kWeights + k]", "weights[p * 2 * kWeights + k]"),
    _backward("product of the tile with q forgotten", PRODUCTS, "      along[v] += a[c][v] * q;\n", ""),
    _backward("triangle added to its rows alone", PRODUCTS,
        "      store(sum += part, to_columns + c * pixels + v * step);\n", ""),
    _backward("triangle's last columns left out", BACKWARD,
        "c < width; c += columns", "c + columns < width; c += columns"),
    _backward("block of channels packed one off", PACK,
        "c / width * b.classes() + k) * pitch + c % width", "c / width * b.classes() + k) * pitch + (c + 1) % width"),
    _backward("lanes not summed", BY_ROWS, "      transpose<Acc>(block);\n", ""),
    _backward("order of the pixels forgotten", BY_ROWS,
        "work.chunk.order[start + std::min(i, count - 1)]", "start + std::min(i, count - 1)"),
]  # fmt: skip
