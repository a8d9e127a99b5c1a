"""The planted faults of the triplets' and samplers' kernels: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

SORT, SCAN, RANDOM = "cuda/radix_sort.h", "cuda/block_scan.h", "cuda/random_draws.h"
SELECT, ROWS, LOSS = (
    "cuda/select_triplets.cu",
    "cuda/triplet_consistency_loss_rows.h",
    "cuda/triplet_consistency_loss.cu",
)
DRAW, LIST, SAMPLE = (
    "cuda/class_balanced_sample_draw.h",
    "cuda/class_balanced_sample.cu",
    "cuda/class_balanced_sample.cu",
)


def _select(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("select_triplets", f"select: {name}", file, search, replace, quick)


def _loss(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("triplet_consistency_loss", f"triplet loss: {name}", file, search, replace, quick)


def _draw(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("class_balanced_sample", f"class draw: {name}", file, search, replace, quick)


SYNC = "__syncthreads();\n"

_SELECT = [
    # the sort
    _select("counts not cleared", SORT, "  counts[threadIdx.x] = 0;\n", ""),
    _select(
        "no barrier after the counts are cleared",
        SORT,
        f"counts[threadIdx.x] = 0;\n  {SYNC}",
        "counts[threadIdx.x] = 0;\n",
    ),
    _select(
        "no barrier before the counts are kept",
        SORT,
        f"s.digit(key));\n  }}\n  {SYNC}",
        "s.digit(key));\n  }\n",
    ),
    _select(
        "one row too many counted",
        SORT,
        "at < size ? static_cast<Key>(keys[at])",
        "at <= size ? static_cast<Key>(keys[at])",
    ),
    _select("alike rows counted once", SCAN, "atomicAdd(counts + at, __popc(alike));", "atomicAdd(counts + at, 1);"),
    _select(
        "tiles beyond the first 32 start again",
        SORT,
        "s.table[at] = before + upto - mine;",
        "s.table[at] = upto - mine;",
    ),
    _select("counts up to the tile", SORT, "s.table[at] = before + upto - mine;", "s.table[at] = before + upto;"),
    _select("total of the last tiles only", SORT, "before += __shfl_sync(", "before = __shfl_sync("),
    _select("votes of the lanes with a zero", SORT, "among &= one ? votes : ~votes;", "among &= votes;"),
    _select("a bit too few compared", SORT, "bit < bits; ++bit", "bit < bits - 1; ++bit"),
    _select(
        "ranks one too high",
        SORT,
        "rank = __popc(alike & ((1u << lane) - 1));",
        "rank = __popc(alike & ((2u << lane) - 1));",
    ),
    _select(
        "no barrier before the counts grow",
        SORT,
        "    __syncwarp();\n    if (inside && rank == 0)",
        "    if (inside && rank == 0)",
        True,
    ),
    _select(
        "no barrier after the counts grow",
        SORT,
        "before + __popc(alike);\n    __syncwarp();",
        "before + __popc(alike);",
    ),
    _select("rows of this step only", SORT, "mine[digit] = before + __popc(alike);", "mine[digit] = __popc(alike);"),
    _select("one row instead of several", SORT, "mine[digit] = before + __popc(alike);", "mine[digit] = before + 1;"),
    _select("all warps at one place", SORT, "    start += count;\n", ""),
    _select("all tiles at one place", SORT, "  if (used) place += s.table", "  if (false) place += s.table"),
    _select(
        "no barrier before the rows are written",
        SORT,
        f"  {SYNC}  for (int i = t; i < here;",
        "  for (int i = t; i < here;",
    ),
    _select("rows of an earlier pass forgotten", SORT, "s.first ? at : static_cast<u32>(s.rows_in[base + at])", "at"),
    _select("keys not handed on", SORT, "    s.keys_out[to] = key;\n", ""),
    _select("digits from the tile's beginning", SORT, "places[t] = place - start;", "places[t] = place;"),
    _select("the bucket after", SORT, "keys[middle] < bucket) low", "keys[middle] <= bucket) low"),
    _select("the last bucket has no end", SORT, "if (bucket > buckets) return;", "if (bucket >= buckets) return;"),
    _select("the same digit in every pass", SORT, "rows, tiles, pass * bits, bits,", "rows, tiles, 0, bits,"),
    _select("a bit of the keys too few", SORT, "buckets >> all) ++all", "buckets >> (all + 1)) ++all"),
    _select("tiles rounded down", SORT, "ceil_div<i64>(rows, kRadixTile)", "(rows / kRadixTile)"),
    # running sums
    _select("warps before left out", SCAN, "    if (w < warp) value += sum;\n", ""),
    _select(
        "no barrier between two scans", SCAN, "  __syncthreads();  // the sums of the scan before have been read\n", ""
    ),
    _select("no barrier after the warps' sums", SCAN, f"sums[warp] = value;\n  {SYNC}", "sums[warp] = value;\n"),
    _select("one lane too few", SCAN, "if (lane >= step) value", "if (lane > step) value"),
    # random numbers
    _select(
        "seeds exchanged", RANDOM, "mix_bits(counter ^ first) + (second +", "mix_bits(counter ^ second) + (first +"
    ),
    _select("one stream", RANDOM, "(second + stream * 0x9E3779B9u)", "(second)"),
    _select("another shift", RANDOM, "(x ^ (x >> 15)) * 0x735A2D97u", "(x ^ (x >> 16)) * 0x735A2D97u"),
    _select("seed not strided", RANDOM, "seed.at[seed.stride]", "seed.at[1]"),
    # the draw
    _select("modes beyond the last", SELECT, "m >= 0 && m < modes;", "m >= 0;"),
    _select("modes before the first", SELECT, "m >= 0 && m < modes;", "m < modes;"),
    _select("classes beyond the last", SELECT, "k >= 0 && k < classes &&", "k >= 0 &&"),
    _select("classes before the first", SELECT, "k >= 0 && k < classes &&", "k < classes &&"),
    _select("modes not strided", SELECT, "mode[i * mode_stride]", "mode[i]"),
    _select("class begins with the mode", SELECT, "class_bucket = bucket - bucket % modes", "class_bucket = bucket"),
    _select("first row of the own class", SELECT, "other < class_first ?", "other <= class_first ?"),
    _select("negatives of the own class", SELECT, "other < class_first ? other : other + class_rows", "other"),
    _select("positives not needed", SELECT, "if (own > 0 && others > 0)", "if (others > 0)"),
    _select("negatives not needed", SELECT, "if (own > 0 && others > 0)", "if (own > 0)", True),
    _select("one number for both", SELECT, "random.of(i, 1)", "random.of(i, 0)"),
    _select("one target row too many", SELECT, "if (i >= d.target.rows) return;", "if (i > d.target.rows) return;"),
]

_LOSS = [
    # channels of a lane
    _loss("quads overlap", ROWS, "(quads ? kTripletQuad : 1)),", "(1)),"),
    _loss("channels side by side", ROWS, "step(quads ? 1 : kWarp)", "step(1)"),
    _loss(
        "quads beyond the last channel read",
        ROWS,
        "if (lane.first >= lane.end) return x;",
        "if (lane.first > lane.end) return x;",
    ),
    _loss(
        "channels beyond the last read", ROWS, "if (c < lane.end) x.at[j] = widen", "if (c <= lane.end) x.at[j] = widen"
    ),
    _loss(
        "quads beyond the last channel written",
        ROWS,
        "if (lane.first < lane.end) store_pack",
        "if (lane.first <= lane.end) store_pack",
    ),
    _loss(
        "channels beyond the last written",
        ROWS,
        "if (c < lane.end) to[c * rows.channel]",
        "if (c <= lane.end) to[c * rows.channel]",
    ),
    _loss("channels not strided", ROWS, "from[c * rows.channel]", "from[c]"),
    _loss("slope's channels not strided", ROWS, "to[c * rows.channel]", "to[c]"),
    _loss("rows without gaps", ROWS, "from = rows.at + row * rows.row;", "from = rows.at + row * lane.end;"),
    # the loss
    _loss("partners before the first row", ROWS, "n >= 0 && n < sources;", "n < sources;"),
    _loss("partners beyond the last row", ROWS, "p < sources &&", "p <= sources &&"),
    _loss("no margin", ROWS, "near - far + f.margin", "near - far"),
    _loss("NaN lost", ROWS, "loss < 0 ? Acc(0) : loss;", "loss > 0 ? loss : Acc(0);"),
    _loss("positive and negative compared", ROWS, "b = z.at[j] - x.at[j];", "b = z.at[j] - y.at[j];"),
    _loss(
        "last tile left out", ROWS, "tile * kTripletTile < f.t.channels;", "(tile + 1) * kTripletTile <= f.t.channels;"
    ),
    _loss("half a warp summed", ROWS, "flip > 0; flip /= 2", "flip > 1; flip /= 2"),
    _loss("rows without partners", ROWS, "f.valid[i * f.valid_stride] && f.t.sources > 0", "f.t.sources > 0"),
    _loss("no source rows", ROWS, "f.valid[i * f.valid_stride] && f.t.sources > 0", "f.valid[i * f.valid_stride]"),
    _loss("valid not strided", ROWS, "f.valid[i * f.valid_stride]", "f.valid[i]"),
    # backward
    _loss("rows without a loss", ROWS, "return loss[i * loss_stride] > 0 && t.", "return t."),
    _loss("half the slope", ROWS, "const Acc g = 2 * b.grad", "const Acc g = b.grad"),
    _loss("slope of the other sign", ROWS, "(z.at[j] - y.at[j]) * g", "(y.at[j] - z.at[j]) * g"),
    _loss(
        "negative partners among the positive ones",
        ROWS,
        "b.keys[b.t.rows + i] = static_cast<u32>(active ? n",
        "b.keys[b.t.rows + i] = static_cast<u32>(active ? p",
    ),
    _loss(
        "rows never go on from an earlier run", ROWS, "begin > 0 && b.keys[begin - 1] == b.keys[begin]", "false", True
    ),
    _loss("rows always go on from an earlier run", ROWS, "          r.before = false;\n", ""),
    _loss("rows never go on", ROWS, "r.finish(end < b.draws && b.keys[end] == r.key);", "r.finish(false);"),
    _loss("rows always go on", ROWS, "r.finish(end < b.draws && b.keys[end] == r.key);", "r.finish(true);"),
    _loss("sum of the rows before", ROWS, "    sum = Pack<Acc, 4>{};\n", ""),
    _loss(
        "the first source row",
        ROWS,
        "source = load_row(b.t.source, key, lane);",
        "source = load_row(b.t.source, 0, lane);",
    ),
    _loss("negative draws as positive", ROWS, "      if (draw >= rows) my_g = -my_g;\n", ""),
    _loss("first negative draw", ROWS, "draw < rows ? draw : draw - rows;", "draw <= rows ? draw : draw - rows;"),
    _loss("draws of other lanes", ROWS, "__shfl_sync(kFullWarp, my_g, i + j);", "__shfl_sync(kFullWarp, my_g, i);"),
    _loss("one place for two sums", ROWS, "store_row(to, 2 * run + !before,", "store_row(to, 2 * run,"),
    _loss("row ends within its run", ROWS, "if (!before && !after) return", "if (!after) return"),
    _loss("first run left out", ROWS, "part(2 * static_cast<i64>(first) + 1);", "part(2 * static_cast<i64>(first));"),
    _loss("last run left out", ROWS, "run <= last; ++run", "run < last; ++run"),
    _loss("a list ends with the next run", ROWS, "last = (end - 1) / kTripletRun;", "last = end / kTripletRun;"),
    _loss("rows without draws", ROWS, "if (begin < end && first == last) return;", "if (first == last) return;"),
    _loss("the last run only", ROWS, "sum.at[j] += x.at[j];", "sum.at[j] = x.at[j];"),
    # the host's side
    _loss("rows apart by any number in quads", LOSS, "(rows <= 1 || s.row % 4 == 0) &&", ""),
    _loss("any number of channels in quads", LOSS, "channels % 4 == 0 && ", ""),
    _loss("rows in quads from anywhere", LOSS, "% (4 * sizeof(T)) == 0;", "% sizeof(T) == 0;"),
    _loss("channels apart in quads", LOSS, "return s.channel == 1 && ", "return "),
    _loss(
        "one tile of the runs",
        LOSS,
        "triplet_grid(p.runs() * b.tiles, kTripletWarps)",
        "triplet_grid(p.runs(), kTripletWarps)",
    ),
    _loss(
        "one tile of the source rows", LOSS, "static_cast<i64>(p.sources) * b.tiles;", "static_cast<i64>(p.sources);"
    ),
    _loss(
        "a broken run left out",
        LOSS,
        "ceil_div<i64>(2 * static_cast<i64>(rows), kTripletRun)",
        "2 * static_cast<i64>(rows) / kTripletRun",
    ),
    _loss("unsorted draws", LOSS, "b.keys = sort.sorted_keys();", ""),
]

_DRAW = [
    # which pixels
    _draw("a bit left out", DRAW, "31 - kDigitBits * (pass + 1)", "30 - kDigitBits * (pass + 1)"),
    _draw("labels below 0", DRAW, "label >= 0 && label < labels.classes", "label < labels.classes"),
    _draw("labels beyond the last", DRAW, "label >= 0 && label < labels.classes", "label >= 0"),
    _draw("ignored pixels", DRAW, "label < labels.classes && label != labels.ignore_index;", "label < labels.classes;"),
    _draw("labels not strided", DRAW, "pixel * labels.grid.column_stride;", "pixel;"),
    _draw("every image the first", DRAW, "random.of(image * d.pixels + pixel, stream)", "random.of(pixel, stream)"),
    _draw("32 random bits", DRAW, "pixel, stream) >> 1;", "pixel, stream);"),
    _draw("keys without the pixel", DRAW, "static_cast<u64>(bits) << 32 | pixel;", "static_cast<u64>(bits) << 32;"),
    _draw(
        "bounds of the first image",
        DRAW,
        "d.first.bound[static_cast<i64>(image) * d.classes + label];",
        "d.first.bound[label];",
    ),
    _draw(
        "more missing than there are",
        DRAW,
        "(d.wanted < valid ? static_cast<int>(d.wanted) : valid) - chosen;",
        "static_cast<int>(d.wanted) - chosen;",
    ),
    _draw("settled classes counted", DRAW, "    if (found && s.left[at] == 0) return;\n", ""),
    _draw(
        "chosen pixels again",
        DRAW,
        "    if (kSecond && chosen_first(d, random, image, pixel, label)) return;\n",
        "",
        True,
    ),
    _draw(
        "one stream",
        DRAW,
        "bits = draw_bits(d, random, image, pixel, kSecond);",
        "bits = draw_bits(d, random, image, pixel, 0);",
    ),
    _draw("other digits counted", DRAW, "if (!found || bits >> shift == s.prefix[at]) bucket", "bucket"),
    _draw("counts not cleared", DRAW, "    d.counts[i] = 0;\n", ""),
    _draw("images not cleared", DRAW, "    if (i < d.images) d.valid[i] = d.chosen[i] = 0;\n", ""),
    # counting
    _draw("no barrier after a block's counts are cleared", DRAW, f"own[i] = 0;\n    {SYNC}", "own[i] = 0;\n"),
    _draw(
        "no barrier before a block's counts are added", DRAW, f"  if (in_shared) {{\n    {SYNC}", "  if (in_shared) {\n"
    ),
    _draw("one of each count", DRAW, "atomicAdd(all + i, count);", "atomicAdd(all + i, 1);"),
    _draw("one class in shared memory", DRAW, "own + (c.bucket * kDigits + digit)", "own + digit"),
    _draw("one class in global memory", DRAW, "all + (static_cast<i64>(c.bucket) * kDigits + digit)", "all + digit"),
    _draw(
        "a block's last pixel left out",
        DRAW,
        "pixel < end; pixel += kDrawThreads",
        "pixel + 1 < end; pixel += kDrawThreads",
    ),
    _draw(
        "valid pixels of one lane",
        DRAW,
        "threadIdx.x % kWarp == kWarp - 1 && valid",
        "threadIdx.x % kWarp == 0 && valid",
    ),
    # digits
    _draw(
        "more than a class has",
        DRAW,
        "return quota < size ? static_cast<int>(quota) : size;",
        "return static_cast<int>(quota);",
    ),
    _draw(
        "shares of the wanted", DRAW, "quota * size / (valid > 1 ? valid : 1)", "quota * size / (quota > 1 ? quota : 1)"
    ),
    _draw("counts not cleared again", DRAW, "    counts[i] = 0;\n", ""),
    _draw("written before all have read", DRAW, "  __syncwarp();  // before one lane writes what all have read\n", ""),
    _draw("every lane adds what is chosen", DRAW, "d.by_share && lane == 0 && left)", "d.by_share && left)"),
    _draw("nothing where all are wanted", DRAW, "left ? ~u64(0) : 0;", "0;"),
    _draw(
        "two lanes have the digit",
        DRAW,
        "before >= left || left > upto) return;",
        "before > left || left > upto) return;",
    ),
    _draw("the digit after", DRAW, "if (left - before <= mine[i])", "if (left - before < mine[i])"),
    _draw("digits before left out", DRAW, "      before += mine[i];\n", ""),
    _draw("8 bits in the last pass", DRAW, "prefix << draw_pass_bits(pass) |", "prefix << kDigitBits |"),
    _draw("every digit whole", DRAW, "const bool whole = left - before == count;", "const bool whole = true;"),
    _draw("as many left as before", DRAW, "whole ? 0 : left - before;", "whole ? 0 : left;"),
    _draw(
        "bound below the digit",
        DRAW,
        "static_cast<u64>(prefix + 1) << (shift + 32)",
        "static_cast<u64>(prefix) << (shift + 32)",
    ),
    # equal bits
    _draw("ties left alone", DRAW, "  if (left == 0) return;\n  const int buckets", "  return;\n  const int buckets"),
    _draw("both of a tile", DRAW, "tied && upto == left)", "tied && upto >= left)"),
    _draw("tiles before forgotten", DRAW, "    before += all;\n", ""),
    _draw("the tied pixel itself left out", DRAW, "draw_key(bits, pixel) + 1;", "draw_key(bits, pixel);"),
    # lists
    _draw("lists of classes", LIST, "return d.by_share ? 0 : label;", "return label;"),
    _draw("a top-up per class", LIST, "  if (!d.by_share) return -1;\n", ""),
    _draw("counts of a chunk not cleared", LIST, "s.table[entry(list)] = 0;", ";"),
    _draw("no barrier after a chunk's counts are cleared", LIST, "    __syncwarp();\n", ""),
    _draw("one pixel too many", LIST, "pixel < end ? list_of", "pixel <= end ? list_of"),
    _draw("places one too high", LIST, "(1u << lane) - 1)", "(2u << lane) - 1)"),
    _draw("one pixel instead of several", LIST, "next += __popc(same);", "next += 1;"),
    _draw(
        "counts of the last list not kept",
        LIST,
        "  if (lane == 0 && current >= 0) s.table[entry(current)] = next;\n",
        "",
    ),
    _draw("count of another lane", LIST, "        next = __shfl_sync(kFullWarp, next, 0);\n", ""),
    _draw(
        "every list the first image's",
        LIST,
        "s.result[(first_list + list) * s.draw.wanted",
        "s.result[list * s.draw.wanted",
    ),
    _draw(
        "chunks beyond the first 256 start again",
        LIST,
        "s.table[at] = before + upto - mine;",
        "s.table[at] = upto - mine;",
    ),
    _draw(
        "end of a list as it was",
        LIST,
        "i < s.draw.wanted; i += kDrawThreads",
        "i + 1 < s.draw.wanted; i += kDrawThreads",
    ),
    _draw("end of a list too early", LIST, "i64 i = before + static_cast", "i64 i = before + 1 + static_cast"),
    # the host's side
    _draw("any number of classes in shared memory", DRAW, "d.classes <= kSharedClasses);", "true);"),
    _draw("no top-up", LIST, "step == kDrawSteps && !by_share ?", "step == kDrawSteps ?"),
    _draw("blocks do not meet", LIST, "    grid_sync();\n", ""),
    _draw("the first lists alone", LIST, "s.lists; i += gridDim.x)", "s.lists; i += 1 << 30)"),
    _draw(
        "a broken chunk left out",
        SAMPLE,
        "ceil_div(static_cast<i64>(pixels), static_cast<i64>(kListChunk))",
        "pixels / static_cast<i64>(kListChunk)",
    ),
    _draw(
        "a broken block left out",
        DRAW,
        "d.images * ceil_div(d.pixels, block_pixels)",
        "d.images * std::max(1u, d.pixels / block_pixels)",
    ),
]

MUTANTS = _SELECT + _LOSS + _DRAW
