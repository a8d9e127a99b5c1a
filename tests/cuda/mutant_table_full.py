"""The planted faults of the kernels for full covariances: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

TILE, SORT, PANELS, MOMENTS = (
    f"cuda/{name}"
    for name in ("outer_tile.h", "class_moments_full_sort.h", "class_moments_full_kernels.h", "class_moments_full.cu")
)
MATRIX, BOUND = "cuda/contrastive_bound_full_kernels.h", "cuda/contrastive_bound_full.cu"
FORWARD, BACKWARD = "cuda/contrastive_bound_forward_kernel.h", "cuda/contrastive_bound_backward_kernel.h"


def _moments(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("class_moments_full", f"full moments: {name}", file, search, replace, quick)


def _bound(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("contrastive_bound_full", f"full bound: {name}", file, search, replace, quick)


MUTANTS = [
    # the product of two operands
    _moments("no barrier after a step", TILE, "b.store(next + operand);\n      }\n      __syncthreads();",
             "b.store(next + operand);\n      }", True),
    _moments("one buffer for all steps", TILE, "buffers + ((step + 1) & 1) * 2 * operand", "buffers"),
    _moments("the step before", TILE, "buffers + (step & 1) * 2 * operand;",
             "buffers + ((step + 1) & 1) * 2 * operand;"),
    _moments("last row of a step left out", TILE, "row < depth; ++row", "row < depth - 1; ++row"),
    _moments("threads of a row and of a column exchanged", TILE, "at(y(), quad)", "at(x(), quad)"),
    _moments("the last sum only", TILE, "sum[i][j] += down[i]", "sum[i][j] = down[i]"),
    _moments("sums of a wide square side by side", TILE, "i / kTileQuad * (kTileSide * kTileQuad) + side * kTileQuad",
             "i / kTileQuad * kTileQuad + side * kTileQuad"),
    # the sort
    _moments("last pixel left out", SORT, "at = begin; at < end; at += kWarp", "at = begin; at + 1 < end; at += kWarp"),
    _moments("one pixel too many", SORT, "pixel < end ? read_class", "pixel <= end ? read_class"),
    _moments("counts not cleared", SORT, "row[k] = 0;", ";"),
    _moments("no barrier after the counts are cleared", SORT, "row[k] = 0;\n    __syncwarp();", "row[k] = 0;"),
    _moments("counts of the last class not kept", SORT, "  if (lane == 0 && current >= 0) row[current] = next;\n}", "}",
             True),
    _moments("counts not kept when the label changes", SORT, "if (current >= 0) row[current] = next;\n          next",
             "next"),
    _moments("all pixels at one place", SORT, " + __popc(same & ((1u << lane) - 1))", ""),
    _moments("places one too high", SORT, "(1u << lane) - 1)", "(2u << lane) - 1)"),
    _moments("one pixel instead of several", SORT, "next += __popc(same);", "next += 1;"),
    _moments("ignored pixels not masked", SORT, "__ballot_sync(kFullWarp, mine >= 0)",
             "__ballot_sync(kFullWarp, mine >= -1)"),
    _moments("count of another lane", SORT, "next = __shfl_sync(kFullWarp, next, 0);", ""),
    _moments("begin of the classes left out", SORT, "s.order[s.starts[label] + next", "s.order[next"),
    _moments("no barrier before the sum of the counts", SORT, "  sums[t] = value;\n  __syncthreads();\n  for",
             "  sums[t] = value;\n  for"),
    _moments("no barrier between reading and adding counts", SORT, ": 0;\n    __syncthreads();\n    value",
             ": 0;\n    value"),
    _moments("half the sum of the counts", SORT, "step = 1; step < kSortThreads;",
             "step = 1; step < kSortThreads / 2;"),
    _moments("chunks beyond the first 256 start again", SORT, "s.table[at] = before + upto - mine;",
             "s.table[at] = upto - mine;"),
    _moments("counts up to the chunk", SORT, "s.table[at] = before + upto - mine;", "s.table[at] = before + upto;"),
    _moments("classes beyond the first 256 start again", SORT, "to[k] = before + upto - mine;", "to[k] = upto - mine;"),
    _moments("a broken panel left out", SORT, " + (total % s.panel_rows != 0)", ""),
    _moments("end of the last class left out", SORT, "to[classes] = before;", ";"),
    # panels
    _moments("pixels beyond the panel", PANELS, "offset = next < rows ?", "offset = next <= rows ?", True),
    _moments("pixels of the next step", PANELS, "const int next = (at + 1) * Tile::depth + row;",
             "const int next = (at + 2) * Tile::depth + row;"),
    _moments("channels beyond the last", PANELS, "channel + j * step < f.channels ? channel + j * step : channel;",
             "channel + j * step;"),
    _moments("rows beyond the panel", PANELS, "value.at[j] = live ? widen(x.at[j])",
             "value.at[j] = true ? widen(x.at[j])"),
    _moments("pivot not subtracted", PANELS, "widen(x.at[j]) - static_cast<Acc>(pivots[inside + j * step])",
             "widen(x.at[j])"),
    _moments("no barrier after the pivots", PANELS, "  __syncthreads();  // the pivots are there\n", ""),
    _moments("pivots of the rows for the columns", PANELS, "square.column * Tile::width, 1);",
             "square.column * Tile::width, 0);"),
    _moments("pivot rows of other classes", PANELS, "all < kPivotRows ? all : kPivotRows;", "kPivotRows;"),
    _moments("pivot not divided", PANELS, "rows ? sum / static_cast<Acc>(rows) : Acc(0)", "sum"),
    _moments("columns are rows", PANELS, "square.column * Tile::width, 1);", "square.row * Tile::width, 1);"),
    _moments("no barrier before the sums are added", PANELS, "= sum[j];\n    __syncthreads();", "= sum[j];"),
    _moments("last of the sums left out", PANELS, "from < Tile::depth; ++from", "from < Tile::depth - 1; ++from"),
    _moments("the class after", PANELS, "if (f.panels[middle] <= panel)", "if (f.panels[middle] < panel)"),
    _moments("every panel the first of its class", PANELS, " + (panel - f.panels[k]) * f.panel_rows", ""),
    _moments("panels run into the next class", PANELS, "left < f.panel_rows ? left : f.panel_rows;", "f.panel_rows;"),
    _moments("squares on the diagonal numbered as the others", PANELS, "if (number < squares) return {number, number};",
             "if (number < squares - 1) return {number, number};"),
    _moments("rounding of the sum", PANELS, "return value + lost;", "return lost;"),
    # means and merge
    _moments("mean without its pivot", PANELS, "f.mean[at] = f.pivots[at] + (count", "f.mean[at] = (count"),
    _moments("first panel left out of the mean", PANELS, "f.panels[k + 1]; ++panel) sum.add(f.sums",
             "f.panels[k + 1] - 1; ++panel) sum.add(f.sums"),
    _moments("not brought to the mean", PANELS,
             "sum.total() - static_cast<Acc>(totals[row]) * static_cast<Acc>(totals[column]) * each;",
             "sum.total();"),
    _moments("no barrier before the other triangle", PANELS, "square.column) return;\n  __syncthreads();",
             "square.column) return;", True),
    _moments("other triangle not turned", PANELS, "turned[x * (kMergeSide + 1) + y];",
             "turned[y * (kMergeSide + 1) + x];"),
    _moments("other triangle left out", PANELS, "  if (square.row == square.column) return;\n", "  return;\n"),
    _moments("squares beyond the last channel", PANELS, "if (row >= f.channels || column >= f.channels) continue;",
             "if (column >= f.channels) continue;"),
    _moments("another place of the group", PANELS, "* f.group + place) * width + row0 + y)",
             "* f.group) * width + row0 + y)"),
    # the plan
    _moments("too few panels", MOMENTS, "ceil_div<i64>(p.pixels, plan.panel_rows)) + p.classes;",
             "ceil_div<i64>(p.pixels, plan.panel_rows));"),
    _moments("every group the first", MOMENTS, "    f.first = first;\n", ""),
    _moments("a square between two groups left out", MOMENTS, "first += plan.group)", "first += plan.group + 1)"),
    _moments("squares rounded down", MOMENTS, "ceil_div(p.channels, plan.width);", "p.channels / plan.width;"),
    # contrastive_bound: gathering and scales
    _bound("no barrier before the turned tile", MATRIX, "Acc(0);\n  }\n  __syncthreads();\n  for (int i = threadIdx.y",
           "Acc(0);\n  }\n  for (int i = threadIdx.y", True),
    _bound("tile not turned", MATRIX, "tile[i * pitch + x];", "tile[x * pitch + i];"),
    _bound("pixels beyond the last gathered", MATRIX, "pixel < g.end && c0 + c", "pixel <= g.end && c0 + c"),
    _bound("channels beyond the last gathered", MATRIX, "c0 + c < g.channels;", "c0 + c <= g.channels;"),
    _bound("every group the first one's pixels", MATRIX, "pixel = g.begin + pixel0 + p;", "pixel = pixel0 + p;"),
    _bound("norm of the first row only", MATRIX, "row < s.channels; row += s.parts", "row < 1; row += s.parts"),
    _bound("last part of the norm left out", MATRIX, "part < s.parts; ++part", "part < s.parts - 1; ++part"),
    _bound("norm not taken", MATRIX, "s.parts ? inverse_length(squares) : Acc(1)", "Acc(1)"),
    _bound("twice the quadratic term", MATRIX, "/ (2 * s.temperature * s.temperature)",
           "/ (s.temperature * s.temperature)", True),
    _bound("columns taken as dense", MATRIX, "from + c * m.column_stride", "from + c"),
    _bound("rows taken as dense", MATRIX, "channel * m.row_stride;", "channel * p.channels;"),
    _bound("float64 covariance read as float32", MATRIX, "wide ? static_cast<Acc>(doubles[offset])",
           "wide ? static_cast<Acc>(floats[offset])"),
    # contrastive_bound: the products
    _bound("weights of the first class", MATRIX, "* p.classes + k] * scale", "* p.classes] * scale"),
    _bound("scale of the first class", MATRIX, "scale = p.scales[k];", "scale = p.scales[0];"),
    _bound("no weights", MATRIX, "kWeights ? value.at[j] * weight[j] : value.at[j]", "value.at[j]"),
    _bound("weights beyond the last pixel", MATRIX, "weight[j] = pixel + j < p.pixels ?",
           "weight[j] = pixel + j <= p.pixels ?"),
    _bound("channels of the class before", MATRIX, "      if (live) pack.at[j]", "      pack.at[j]"),
    _bound("matrix of the first class", MATRIX, "(k + beyond) * m.class_stride", "beyond * m.class_stride"),
    _bound("one matrix for all classes", MATRIX, "(k + beyond) * m.class_stride", "k * m.class_stride"),
    _bound("columns beyond the matrix", MATRIX, "value[j] = c < p.channels ?", "value[j] = c <= p.channels ?"),
    _bound("lower triangle once", MATRIX, "channel >= twice ? Acc(2) : Acc(1)", "Acc(1)"),
    _bound("diagonal square twice", MATRIX, "a.twice = c0 + Tile::width;", "a.twice = c0;"),
    _bound("upper triangle as well", MATRIX, "a.column0 = a.first = b.first = c0;", "a.column0 = c0;"),
    _bound("last channels left out", MATRIX, "ceil_div(p.channels - c0, Tile::depth)",
           "(p.channels - c0) / Tile::depth"),
    _bound("no barrier before the parts are added", MATRIX, "= part[j];\n  __syncthreads();", "= part[j];", True),
    _bound("last part left out", MATRIX, "from < kTileSide; ++from", "from < kTileSide - 1; ++from"),
    _bound("pixels beyond the last written", MATRIX, "t >= Tile::width || pixel0 + t >= p.pixels", "t >= Tile::width"),
    _bound("scale left out", MATRIX, "p.scales[k] * sum;", "sum;"),
    _bound("sums not cleared between squares", MATRIX,
           "    Tile tile;\n    tile.clear();\n    tile.multiply(ceil_div(p.channels - c0",
           "    Tile tile;\n    if (c0 == 0) tile.clear();\n    tile.multiply(ceil_div(p.channels - c0"),
    _bound("slope of the first class only", MATRIX, "tile.multiply(steps * p.classes,", "tile.multiply(steps,"),
    _bound("slope at the first channels", MATRIX, "p.to + ((c0 + Tile::at(Tile::y(), i)) * p.pitch",
           "p.to + (Tile::at(Tile::y(), i) * p.pitch"),
    # contrastive_bound: what the other kernels do with it
    _bound("quadratic term of the first tile of classes", FORWARD, "f.quadratic[pixel * classes + k0 + k]",
           "f.quadratic[pixel * classes + k]"),
    _bound("quadratic term not read", FORWARD, "if (f.quadratic && pixel < in.pixels) {", "if (false) {"),
    _bound("slope of another group's pixels", BACKWARD, "(first - b.begin) + y * kQuad", "first + y * kQuad"),
    _bound("pixels of the first group", BACKWARD, "first = b.begin + blockIdx.x * kTile;",
           "first = blockIdx.x * kTile;"),
    _bound("slope not added", BACKWARD, "slopes.two[i][j] += given[j].at[i];", ";"),
    _bound("slope of the neighbour", BACKWARD, "given[j].at[i];", "given[i].at[j];"),
    _bound("half of the slope", BACKWARD, "+ 2 * inverse * slopes.two[i][j] - q", "+ inverse * slopes.two[i][j] - q"),
    # contrastive_bound: the plan
    _bound("posterior of the first group read", BOUND, "global<const Acc>(posterior) + begin * p.classes;",
           "global<const Acc>(posterior);"),
    _bound("posterior of the first group written", BOUND, "to + static_cast<i64>(begin) * p.classes;", "to;"),
    _bound("channels of scratch rounded down", BOUND, "rows = ceil_div(p.channels, width) * width;",
           "rows = std::max(1, p.channels / width) * width;"),
    _bound("last pixels left out", BOUND, "squares = ceil_div(pixels, plan.width);",
           "squares = std::max(1, pixels / plan.width);"),
]  # fmt: skip
