"""The planted faults of the kernels of dense losses and thresholds: one replacement each. ``quick``: also in CI."""

from __future__ import annotations

from planted import Mutant

KL, THRESHOLD = "cuda/softmax_kl.cu", "cuda/class_thresholds.cu"
CELLS, ENTROPY = "cuda/upsample_cells.h", "cuda/upsample_cross_entropy.cu"
LOVASZ, LOVASZ_ROWS, SCAN = "cuda/lovasz_softmax_bins.h", "cuda/lovasz_softmax_rows.h", "cuda/block_scan.h"
SYNC = "__syncthreads();\n"


def _of(operator: str, short: str):
    def plant(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
        return Mutant(operator, f"{short}: {name}", file, search, replace, quick)

    return plant


_kl = _of("softmax_kl", "kl")
_threshold = _of("class_thresholds", "thresholds")
_entropy = _of("upsample_cross_entropy", "upsampled loss")
_lovasz = _of("lovasz_softmax", "lovasz")

_KL = [
    _kl("every pixel counts", KL, "    if (valid && p.masked) valid = p.mask[place(p.mask_grid)] != 0;\n", "", True),
    _kl("one pixel too many", KL, "valid = pixel < p.pixels;", "valid = pixel <= p.pixels;"),
    _kl("rows of all images in a line", KL, "row = line - image * height;", "row = line;"),
    _kl("one side twice", KL, "const Acc x = logit(side, k);", "const Acc x = logit(0, k);"),
    _kl("one side kept", KL, "power_[side][i] = x;", "power_[0][i] = x;"),
    _kl(
        "largest logit of half the lanes",
        KL,
        "for (int flip = 1; flip < kKlLanes; flip *= 2) {",
        "for (int flip = 2; flip < kKlLanes; flip *= 2) {",
    ),
    _kl(
        "sums of half the lanes",
        KL,
        "float kl_sum(float x) {\n#pragma unroll\n  for (int flip = 1;",
        "float kl_sum(float x) {\n#pragma unroll\n  for (int flip = 2;",
    ),
    _kl("largest logit not subtracted", KL, "a = (a - top_[0]) * p_.scale;", "a = a * p_.scale;"),
    _kl("largest logit of the other", KL, "b = (b - top_[1])", "b = (b - top_[0])"),
    _kl("one temperature", KL, "b = (b - top_[1]) * p_.scale;", "b = b - top_[1];"),
    _kl("normaliser of the other", KL, "total[1] += y;", "total[1] += x;"),
    _kl("mean under the other", KL, "sum[1] += y * d;", "sum[1] += x * d;"),
    _kl(
        "normalisers the wrong way round",
        KL,
        "logarithm(total[0]) - logarithm(total[1])",
        "logarithm(total[1]) - logarithm(total[0])",
    ),
    _kl("sums for means", KL, "mean[side] = sum[side] / total[side];", "mean[side] = sum[side];"),
    _kl("student's mean", KL, "pixel.log_ratio - pixel.mean[1]", "pixel.log_ratio - pixel.mean[0]"),
    _kl("temperature once", KL, "loss * (p.temperature * p.temperature)", "loss * p.temperature"),
    _kl("losses of pixels that do not count", KL, "pixel.valid ? loss", "true ? loss"),
    _kl("every lane writes the loss", KL, " && threadIdx.x % kKlLanes == 0)", ")"),
    _kl("gradients beyond the last pixel", KL, "  if (pixel.pixel >= p.pixels) return;\n", ""),
    _kl(
        "gradient without the temperature",
        KL,
        "p.grad[pixel.place(p.grad_grid)] * p.temperature",
        "p.grad[pixel.place(p.grad_grid)]",
    ),
    _kl("half a gradient", KL, "first * (d - pixel.mean[0]) + gap : gap", "first * (d - pixel.mean[0]) : gap"),
    _kl("other gradient half turned", KL, "(pixel.mean[1] - d) - gap)", "(pixel.mean[1] - d) + gap)"),
    _kl("other gradient's mean", KL, "second * (pixel.mean[1] - d)", "second * (pixel.mean[0] - d)"),
    _kl("gradient's classes side by side", KL, "to.data[at + k * to.class_stride]", "to.data[at + k]"),
    _kl("other gradient laid out as the first", KL, "pixel.place(p.slope[1].grid)", "pixel.place(p.slope[0].grid)"),
    _kl("a class too many", KL, "for (int k = part_; k < classes;", "for (int k = part_; k <= classes;"),
    _kl("a kept class too many", KL, "if (part_ + i * kKlLanes < classes)", "if (part_ + i * kKlLanes <= classes)"),
    _kl("more classes than are kept", KL, "<= held * kKlLanes, backward", "<= held * kKlLanes + 1, backward"),
    _kl("gradients left unwritten", KL, "      store_slope(p.slope[0], to, k, Acc(0));\n", ""),
    _kl("the last pixels left out", KL, "ceil_div(s.pixels, static_cast<u32>(kKlPixels))", "1 + (s.pixels - 1) / 65"),
]

_THRESHOLD = [
    _threshold("negative numbers in the wrong order", THRESHOLD, "bits >> 31 ? ~bits : bits |", "bits |"),
    _threshold(
        "negative numbers not turned back", THRESHOLD, "key >> 31 ? key & 0x7fffffffu : ~key", "key & 0x7fffffffu"
    ),
    _threshold("counts not cleared", THRESHOLD, "    s.counts[i] = 0;\n", ""),
    _threshold("open classes not cleared", THRESHOLD, "    if (i <= kThresholdPasses) s.open[i] = 0;\n", ""),
    _threshold("NaN is a number", THRESHOLD, "label[i] >= 0 && value[i] == value[i]", "label[i] >= 0"),
    _threshold("two zeros", THRESHOLD, "key_of(value[i] + 0.0f)", "key_of(value[i])"),
    _threshold("numbers above 1 are 1", THRESHOLD, " + (value > 1.0f);", ";"),
    _threshold("negative bins", THRESHOLD, "value > 0.0f ? value : 0.0f,", "value,"),
    _threshold("bins beyond 1", THRESHOLD, "positive < 1.0f ? positive : 1.0f;", "positive;"),
    _threshold("one pixel too many", THRESHOLD, "if (pixel >= end) continue;", "if (pixel > end) continue;"),
    _threshold("every other tile", THRESHOLD, "tile += kThresholdTile)", "tile += 2 * kThresholdTile)"),
    _threshold(
        "labels not looked at for gaps",
        THRESHOLD,
        "p.flat(p.confidence.grid) && p.flat(p.labels.grid)",
        "p.flat(p.confidence.grid)",
    ),
    _threshold("gaps between rows", THRESHOLD, "(g.height == 1 || g.row_stride == row) &&", ""),
    _threshold("gaps between images", THRESHOLD, "|| g.image_stride == image)", "|| true)"),
    _threshold("keys outside the interval", THRESHOLD, "if (distance < interval.at[1]) at = label", "at = label"),
    _threshold(
        "one of each count",
        THRESHOLD,
        "if (count) atomicAdd(s.counts + i, count);",
        "if (count) atomicAdd(s.counts + i, 1);",
        True,
    ),
    _threshold(
        "no barrier after a block's counts are cleared",
        THRESHOLD,
        f"copy[i] = s.intervals[i];\n    {SYNC}",
        "copy[i] = s.intervals[i];\n",
    ),
    _threshold(
        "no barrier before a block's counts are added",
        THRESHOLD,
        f"if (!p.in_shared) return;\n  {SYNC}",
        "if (!p.in_shared) return;\n",
    ),
    _threshold("intervals not copied", THRESHOLD, "copy[i] = s.intervals[i];", ";"),
    _threshold("none from the top", THRESHOLD, "count - (whole > 1 ? whole : 1)", "count - whole"),
    _threshold("rank rounded down", THRESHOLD, "whole < share ? whole + 1 : whole", "whole"),
    _threshold("rank before the first", THRESHOLD, "(up > 1 ? up : 1) - 1", "up - 1"),
    _threshold("counts not cleared again", THRESHOLD, "    counts[i] = 0;\n", ""),
    _threshold(
        "written before all have read", THRESHOLD, "  __syncwarp();  // before one lane writes what all have read\n", ""
    ),
    _threshold("two lanes have the bin", THRESHOLD, "rank < upto;  // one lane", "rank <= upto;  // one lane"),
    _threshold("the bin before", THRESHOLD, "if (rank - before < mine)", "if (rank - before <= mine)"),
    _threshold("bins before left out", THRESHOLD, "    else before += mine;\n", ""),
    _threshold("numbers from 0 on", THRESHOLD, "low = bin == 0 ? 0 : bin >", "low = bin >"),
    _threshold(
        "1 alone is nothing",
        THRESHOLD,
        ": bin == kThresholdSteps           ? one + 1",
        ": bin == kThresholdSteps ? one",
    ),
    _threshold("bins twice as fine", THRESHOLD, ">> shift >= kThresholdSteps)", ">> shift >= 2 * kThresholdSteps)"),
    _threshold("classes without pixels", THRESHOLD, "    s.result[k] = 1.0f;\n", ""),
    _threshold(
        "the next pass finds nothing open",
        THRESHOLD,
        "atomicAdd(s.open + (pass + 1), 1);",
        "atomicAdd(s.open + pass, 1);",
    ),
    _threshold("the same rank", THRESHOLD, "static_cast<u32>(rank - before)}}", "static_cast<u32>(rank)}}"),
    _threshold(
        "a class too many in shared memory",
        THRESHOLD,
        "p.classes <= kThresholdClasses;",
        "p.classes <= kThresholdClasses + 1;",
    ),
    _threshold("a pass too few", THRESHOLD, "2 * kThresholdPasses + 1;", "2 * kThresholdPasses - 1;"),
    _threshold(
        "blocks end together",
        THRESHOLD,
        "p.pixels - begin < p.block_pixels ? p.pixels : begin + p.block_pixels",
        "p.pixels",
    ),
    _threshold("blocks do not meet", THRESHOLD, "    grid_sync();\n", ""),
    _threshold(
        "the first warps' classes alone", THRESHOLD, "k < s.classes; k += warps)", "k < s.classes; k += s.classes)"
    ),
    _threshold(
        "lanes alike counted once", SCAN, "atomicAdd(counts + at, __popc(alike));", "atomicAdd(counts + at, 1);"
    ),
    _threshold("settled classes again", THRESHOLD, "  if (pass > 0 && interval.at[1] == 0) return;\n", ""),
]

_ENTROPY = [
    # where cells begin
    _entropy("cells begin half a pixel early", CELLS, "size * (2 * c + 1)", "size * (2 * c)"),
    _entropy("cells begin a pixel early", CELLS, "(numerator - 1) / denominator + 1", "numerator / denominator"),
    _entropy("cells of one pixel more", CELLS, "c * (size > 1 ? size - 1 : 1)", "c * size"),
    _entropy(
        "every part from the first row",
        CELLS,
        "row_begin = begin + part_ * rows < end ? begin + part_ * rows : end;",
        "row_begin = begin;",
    ),
    _entropy(
        "every part to the last row",
        CELLS,
        "row_end = row_begin + rows < end ? row_begin + rows : end;",
        "row_end = end;",
    ),
    _entropy("the first columns again", CELLS, "column_begin + columns * kCellThreads + t;", "column_begin + t;"),
    _entropy("a column too many", CELLS, "inside = column < column_end;", "inside = column <= column_end;"),
    _entropy("the first rows again", CELLS, "row = row_begin + rows * kCellRows;", "row = row_begin;"),
    # the four nodes
    _entropy("a node beyond the last column", CELLS, "x.upper > x.lower ? x.weight : Acc(0)", "x.weight"),
    _entropy("a node beyond the last row", CELLS, "y < row_end && bottom > top ?", "y < row_end ?"),
    _entropy("a row beyond the last", CELLS, "below_ = (bottom - top) * s_.row_stride;", "below_ = s_.row_stride;"),
    _entropy("left nodes only", CELLS, "top_left + along_ * (top_right - top_left)", "top_left", True),
    _entropy("right nodes of the row above", CELLS, "value(s_, at + below_ + right_)", "value(s_, at + right_)"),
    _entropy("steps in another unit", CELLS, "d = (bottom - top) * unit_;", "d = bottom - top;"),
    _entropy("the last score for the largest", CELLS, "most[r] = z > most[r] ? z : most[r];", "most[r] = z;"),
    # back to the nodes
    _entropy(
        "weights written while they are read",
        CELLS,
        "    __syncthreads();  // the chunk before has been read\n",
        "",
    ),
    _entropy(
        "weights read while they are written",
        CELLS,
        f"    }}\n    {SYNC}#pragma unroll\n    for (int r = 0; r < kCellRows; ++r) weight[r]",
        "    }\n#pragma unroll\n    for (int r = 0; r < kCellRows; ++r) weight[r]",
    ),
    _entropy("all of it to the upper row", CELLS, "to[0] = sum - weighted;", "to[0] = sum;"),
    _entropy("rows the wrong way round", CELLS, "(strip * 2 + which % 2)", "(strip * 2 + 1 - which % 2)"),
    _entropy("columns of the chunk before", CELLS, "x < chunk_begin ? chunk_begin : x > chunk_end", "x > chunk_end"),
    _entropy("columns of the chunk after", CELLS, "x > chunk_end ? chunk_end : x)", "x)"),
    _entropy("right nodes get the left's share", CELLS, "* along[x];", "* (1 - along[x]);"),
    _entropy("left nodes get all", CELLS, "* (1 - along[x]);", "* 1;"),
    _entropy("the last chunk only", CELLS, "first_chunk ? sum : partials[at] + sum", "sum"),
    _entropy(
        "no barrier before nodes gather",
        CELLS,
        f"+ part_;\n    {SYNC}",
        "+ part_;\n",
    ),
    _entropy(
        "no barrier after nodes gather",
        CELLS,
        f"partials[at] + sum;\n    }}\n    {SYNC}",
        "partials[at] + sum;\n    }\n",
    ),
    _entropy("cells below only", CELLS, "moment < 2 && moment <= y", "moment < 1 && moment <= y"),
    _entropy("one part", CELLS, "part < c.parts; ++part", "part < 1; ++part"),
    _entropy("one tile", CELLS, "if (node == 0 && tile > 0) sum", "if (false) sum"),
    _entropy("more nodes than there is room for", CELLS, "std::min<i64>(source, kCellThreads)", "source"),
    _entropy("half a warp's sum", CELLS, "flip = kWarp / 2; flip > 0", "flip = kWarp / 4; flip > 0"),
    _entropy("one warp's sum", CELLS, "w < kThreads / kWarp; ++w", "w < 1; ++w"),
    # the loss
    _entropy("the first label's logits for all", ENTROPY, "if (label != before)", "if (before < 0)"),
    _entropy(
        "rows below the cell",
        ENTROPY,
        "const bool inside = block.inside && block.row + r < block.row_end;",
        "const bool inside = block.inside;",
    ),
    _entropy(
        "a map of columns outside",
        ENTROPY,
        "if (p.with_map && block.inside && block.row",
        "if (p.with_map && block.row",
    ),
    _entropy(
        "no smoothing in the loss", ENTROPY, "      if (p.smoothing != 0) loss += even", "      if (false) loss += even"
    ),
    _entropy("no smoothing in the gradient", ENTROPY, "(certain + even_sum) * scale", "certain * scale"),
    _entropy("smoothed label", ENTROPY, "rows.wanted[r] = certain * scale;", "rows.wanted[r] = share * scale;"),
    _entropy("the smoothed share", ENTROPY, "shares += share;", "shares += certain;"),
    _entropy("no weight of pixels", ENTROPY, "      loss *= scale;\n", ""),
    _entropy(
        "logits in powers of 2", ENTROPY, "loss = certain * (log_sum - natural * (", "loss = certain * (log_sum - 1 * ("
    ),
    _entropy("even shares in powers of 2", ENTROPY, "natural * (p.smoothing / classes)", "(p.smoothing / classes)"),
    _entropy(
        "even shares to one row", ENTROPY, "rows.scale_below += scale * block.weight[r];", "rows.scale_below += scale;"
    ),
    _entropy("ignored pixels in the gradient", ENTROPY, "slope = rows.label[r] < 0 ? Acc(0) : slope;", ";"),
    _entropy("no label in the gradient", ENTROPY, "if (rows.label[r] == group + i) slope -= rows.wanted[r];", ""),
    _entropy("the first class of a group", ENTROPY, "block.ends(group + i, a, d);", "block.ends(group, a, d);"),
    _entropy("divisor of the loss", CELLS, "sums + blockIdx.x * blocks;", "sums;"),
    _entropy("strides of weights", ENTROPY, "at<Acc>(k * weight_stride)", "at<Acc>(k)"),
]

_LOVASZ = [
    _lovasz(
        "ignored rows below the cell", LOVASZ_ROWS, "block.inside && block.row + r < block.row_end;", "block.inside;"
    ),
    _lovasz("powers of probabilities", LOVASZ_ROWS, "p.probabilities ? z : power_of_two", "power_of_two", True),
    _lovasz("powers for probabilities", LOVASZ_ROWS, "unit[r] = 1 / unit[r];", "unit[r] = 1;"),
    _lovasz(
        "bins of an error one too high", LOVASZ, "(at < last ? at : last) : 0;", "(at < last ? at + 1 : last) : 0;"
    ),
    _lovasz("bins beyond the last", LOVASZ, "(at < last ? at : last) : 0;", "(at) : 0;"),
    _lovasz(
        "negative bins",
        LOVASZ,
        "return at > 0 ? static_cast<int>(at < last ? at : last) : 0;",
        "return static_cast<int>(at < last ? at : last);",
    ),
    _lovasz(
        "logits as probabilities", LOVASZ_ROWS, "probabilities ? 1 : 1.44269504088896340736", "1.44269504088896340736"
    ),
    _lovasz("counts not cleared", LOVASZ, "    pixels[i] = own[i] = 0;\n", ""),
    _lovasz("totals not cleared", LOVASZ, "    if (i < classes) totals[i] = 0;\n", ""),
    _lovasz(
        "counts of a block not cleared",
        LOVASZ,
        "i < words; i += kCellThreads) counts[i] = 0;",
        "i < words; i += kCellThreads) ;",
    ),
    _lovasz("counts of a block added twice", LOVASZ, "    counts[i] = 0;\n    const i64", "    const i64"),
    _lovasz("16 bits that overflow", LOVASZ, "++counted % kLovaszChunks == 0", "++counted % (2 * kLovaszChunks) == 0"),
    _lovasz("even bins only", LOVASZ, "if (two >> 16 && at + 1 < size)", "if (false)"),
    _lovasz("odd bins as even ones", LOVASZ, "to % 2 ? 0x10000u : 1u", "1u"),
    _lovasz("one of each count", LOVASZ, "static_cast<int>(two & 0xffffu));", "1);"),
    _lovasz(
        "no barrier before a block's counts are added",
        LOVASZ,
        f"const Pointer<u32>& counts, int words) {{\n  {SYNC}",
        "const Pointer<u32>& counts, int words) {\n",
    ),
    _lovasz(
        "the first cells again",
        LOVASZ,
        "block(p.cells, p.scores, static_cast<u32>(at),",
        "block(p.cells, p.scores, blockIdx.x,",
    ),
    _lovasz(
        "one chunk a block",
        LOVASZ,
        "for (int chunk = 0; chunk < chunks; ++chunk)",
        "for (int chunk = 0; chunk < 1; ++chunk)",
    ),
    _lovasz(
        "columns for rows",
        LOVASZ,
        "block.place(chunk / block.row_chunks(), chunk % block.row_chunks());",
        "block.place(chunk % block.row_chunks(), chunk / block.row_chunks());",
    ),
    _lovasz(
        "ignored pixels counted",
        LOVASZ,
        "          if (rows.label[r] < 0) continue;\n          const bool own",
        "          const bool own",
    ),
    _lovasz("errors of others", LOVASZ, "bin_of(p, own ? 1 - probability : probability)", "bin_of(p, probability)"),
    _lovasz("own pixels not counted", LOVASZ, "          if (own) atomicAdd(p.own + to, 1);\n", ""),
    _lovasz(
        "all pixels own", LOVASZ, "          if (own) atomicAdd(p.own + to, 1);", "          atomicAdd(p.own + to, 1);"
    ),
    _lovasz(
        "pixels of one block",
        LOVASZ,
        "if (total) atomicAdd(p.totals + i, total);",
        "if (total) atomicAdd(p.totals + i, 1);",
    ),
    _lovasz("all classes occur", LOVASZ, "present += count > 0;", "present += 1;"),
    _lovasz("the tiles above forgotten", LOVASZ, "    rank += tile;\n", ""),
    _lovasz("own pixels above forgotten", LOVASZ, "    seen += tile_own;\n", ""),
    _lovasz(
        "step from the bin itself",
        LOVASZ,
        "(total + (upto - mine) - (upto_own - mine_own))",
        "(total + upto - (upto_own - mine_own))",
    ),
    _lovasz("union without the others", LOVASZ, "/ (total + upto - upto_own);", "/ total;"),
    _lovasz("bin 0 holds all", LOVASZ, "mine = all - upto;", "mine = all;"),
    _lovasz("own pixels of bin 0", LOVASZ, "      upto_own = total;\n", ""),
    _lovasz("steps for means", LOVASZ, "(after - before) / each", "(after - before) / present"),
    _lovasz("one class's share", LOVASZ, "static_cast<double>(mine > 0 ? mine : 1) * present;", "mine > 0 ? mine : 1;"),
    _lovasz("bins from the smallest error", LOVASZ, "bin = bins - 1 - start -", "bin = bins - 2 - start -"),
    _lovasz("classes that do not occur", LOVASZ, "        if (p.totals[k] == 0) continue;\n", ""),
    _lovasz("own errors pull up", LOVASZ, "toward = own ? -weight : weight;", "toward = weight;"),
    _lovasz("mean of all weights", LOVASZ, "mean[r] += w.probability * w.toward;", "mean[r] += w.toward;"),
    _lovasz(
        "ignored pixels in the gradient",
        LOVASZ,
        "        if (rows.label[r] < 0) continue;\n        const LovaszWeight",
        "        const LovaszWeight",
    ),
    _lovasz("gradient for probabilities", LOVASZ, "p.probabilities ? w.toward : w.probability", "w.probability"),
    _lovasz("gradient without the mean", LOVASZ, "(w.toward - mean[r])", "w.toward"),
    _lovasz("the loss of a weight", LOVASZ, "losses += w.error *", "losses += w.probability *"),
    _lovasz("bins that do not fit", LOVASZ, "bytes + count_bytes <= kLovaszShared,", "count_bytes <= kLovaszShared,"),
    _lovasz("sums over one warp", SCAN, "    if (w < warp) value += sum;\n", ""),
]

MUTANTS = _KL + _THRESHOLD + _ENTROPY + _LOVASZ
