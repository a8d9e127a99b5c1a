"""The planted faults of the assignment operators: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

ROUNDS, SUMS, PLAN = "cuda/sinkhorn_rounds.h", "cuda/sinkhorn_sums.h", "cuda/sinkhorn.cu"
FORWARD, BACKWARD, LOSSES = (
    "cuda/mode_losses_forward_kernel.h",
    "cuda/mode_losses_backward_kernel.h",
    "cuda/mode_losses.cu",
)


def _sinkhorn(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("sinkhorn", f"sinkhorn: {name}", file, search, replace, quick)


def _modes(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("mode_losses", f"modes: {name}", file, search, replace, quick)


SYNC = "__syncthreads();\n"
MUTANTS = [
    _sinkhorn("exponent of one float", SUMS, "fmaf(value, rest * 0.693147181f, value)", "value"),
    _sinkhorn("difference rounded", SUMS, "fmaf(lost, s.scale, ", "fmaf(0.0f, s.scale, "),
    _sinkhorn("threshold far too high", SUMS, "kWidest = 60", "kWidest = 600"),
    _sinkhorn("larger exponent not subtracted", SUMS, "exponential(above > 0 ? -above : above)", "exponential(above)"),
    _sinkhorn("old top kept", SUMS, "top = above > 0 ? other_top : top;", ""),
    _sinkhorn("compensated by the whole term", SUMS, "lost = (next - sum) - term;", "lost = next - sum;"),
    _sinkhorn("one row too many", ROUNDS, "const bool inside = row < end;", "const bool inside = row <= end;"),
    _sinkhorn("one class too many", ROUNDS, "if (k >= s.classes) continue;", "if (k > s.classes) continue;"),
    _sinkhorn(
        "kept rows only",
        ROUNDS,
        "for (int step = kSlots; step < steps; ++step) {\n      float e[kOwn];\n      add",
        "for (int step = kSlots; step < kSlots; ++step) {\n      float e[kOwn];\n      add",
    ),
    _sinkhorn(
        "later rows once too few",
        ROUNDS,
        "skip > kSlots ? skip : kSlots; step < steps",
        "skip > kSlots ? skip : kSlots; step + 1 < steps",
    ),
    _sinkhorn("origin of the own row", ROUNDS, "ratio(s, top, origin) : 0.0f", "ratio(s, top, top) : 0.0f"),
    _sinkhorn(
        "row sum of half the lanes",
        ROUNDS,
        "for (int flip = 1; flip < kLanes; flip *= 2) sum += __shfl_xor_sync(kFullWarp, sum, flip);\n    return",
        "for (int flip = 2; flip < kLanes; flip *= 2) sum += __shfl_xor_sync(kFullWarp, sum, flip);\n    return",
    ),
    _sinkhorn(
        "columns of one group only",
        ROUNDS,
        "for (int flip = kLanes; flip < kWarp; flip *= 2) sum +=",
        "for (int flip = kWarp; flip < kWarp; flip *= 2) sum +=",
    ),
    _sinkhorn(
        "largest score of some lanes",
        ROUNDS,
        "  __device__ __forceinline__ float over_row(float largest) const {\n#pragma unroll\n    for (int flip = 1",
        "  __device__ __forceinline__ float over_row(float largest) const {\n#pragma unroll\n    for (int flip = 2",
    ),
    _sinkhorn(
        "no barrier after the sums of warps",
        ROUNDS,
        "values[j];\n        }\n      }\n      " + SYNC,
        "values[j];\n        }\n      }\n",
        True,
    ),
    _sinkhorn(
        "no barrier before the next warps",
        ROUNDS,
        "sums[(w * kTile + t) * 2 + 1]);\n      " + SYNC,
        "sums[(w * kTile + t) * 2 + 1]);\n",
    ),
    _sinkhorn("half of the warps", ROUNDS, "w0 < kSinkhornWarps; w0", "w0 < kWarpsAtOnce; w0"),
    _sinkhorn(
        "first block only",
        ROUNDS,
        "for (int b = part; b < s.blocks; b += parts)",
        "for (int b = part; b < 1; b += parts)",
    ),
    _sinkhorn(
        "parts of a class left out",
        ROUNDS,
        "other < parts * width; other += width",
        "other < 2 * width; other += width",
    ),
    _sinkhorn(
        "no barrier after the parts",
        ROUNDS,
        "sums[2 * t + 1] = mine.sum;\n    " + SYNC,
        "sums[2 * t + 1] = mine.sum;\n",
    ),
    _sinkhorn(
        "no barrier before the largest scaling", ROUNDS, "share(t) / sum : 0.0;\n    " + SYNC, "share(t) / sum : 0.0;\n"
    ),
    _sinkhorn(
        "no barrier after the scalings", ROUNDS, "largest) : 0.0f;\n    }\n    " + SYNC, "largest) : 0.0f;\n    }\n"
    ),
    _sinkhorn(
        "scalings not normalised", ROUNDS, "static_cast<float>(logs[t] / largest)", "static_cast<float>(logs[t])"
    ),
    _sinkhorn(
        "no barrier after the logarithms",
        ROUNDS,
        "- log_sum : kNothing;\n    }\n    " + SYNC,
        "- log_sum : kNothing;\n    }\n",
    ),
    _sinkhorn("share of problem 0", ROUNDS, "problem * s.share_problem_stride", "0 * s.share_problem_stride"),
    _sinkhorn("scores of problem 0", ROUNDS, "problem * s.problem_stride + row", "row"),
    _sinkhorn("spread of one's own block", ROUNDS, "b < s.blocks; b += kWarp", "b < 1; b += kWarp"),
    _sinkhorn("wideness of another problem", ROUNDS, "if (p == problem && lane == 0)", "if (p == from && lane == 0)"),
    _sinkhorn(
        "least score not looked at",
        ROUNDS,
        "lowest = x[j] < lowest ? x[j] : lowest;",
        "lowest = lowest < 1e38f ? lowest : x[j];",
    ),
    _sinkhorn("result of the first rows", ROUNDS, "s.current + row - first_row)", "s.current + row)"),
    _sinkhorn("no class, no guard", ROUNDS, "sum > 0 ? e[j] * v[j] / sum : 0.0f", "e[j] * v[j] / sum"),
    _sinkhorn(
        "log sum of the first tile", ROUNDS, "const int k = k0 + j * kLanes + lane;", "const int k = j * kLanes + lane;"
    ),
    _sinkhorn(
        "a class without a share gets one",
        ROUNDS,
        "r > 0 && log_sum > kNothing ? logarithm(r) - log_sum",
        "log_sum > kNothing ? logarithm(r + 1e-9) - log_sum",
    ),
    _sinkhorn(
        "rows before the current ones are skipped by one",
        ROUNDS,
        "const int skip = (first_row > begin ? first_row - begin : 0) / kGroups;",
        "const int skip = (first_row > begin ? first_row - begin : 0) / kGroups + 1;",
    ),
    _sinkhorn("one buffer", PLAN, "block.narrow_pass(round % 2);", "block.narrow_pass((round - 1) % 2);"),
    _sinkhorn(
        "blocks do not meet",
        PLAN,
        "        block.narrow_pass(round % 2);\n        meet();",
        "        block.narrow_pass(round % 2);",
    ),
    _sinkhorn("no meeting for the wide ones", PLAN, "if (any && !wide) meet();", ""),
    _sinkhorn(
        "one round too few",
        PLAN,
        "round = 1; round < s.iterations; ++round) {\n        block.narrow_scale",
        "round = 2; round < s.iterations; ++round) {\n        block.narrow_scale",
    ),
    _sinkhorn("sums of the wrong round", PLAN, "last = (s.iterations - 1) % 2", "last = s.iterations % 2"),
    _sinkhorn(
        "steps: wide sums of every round are the first",
        PLAN,
        "block.wide_pass(step == 0, step % 2)",
        "block.wide_pass(true, step % 2)",
    ),
    _sinkhorn("steps: one launch too few", PLAN, "step <= p.iterations; ++step", "step < p.iterations; ++step"),
    _modes(
        "last channel left out",
        FORWARD,
        "for (int c = 0; c < width; ++c) {\n      Acc e",
        "for (int c = 0; c + 1 < width; ++c) {\n      Acc e",
    ),
    _modes(
        "no barrier before staging",
        FORWARD,
        "      __syncthreads();  // offsets are there; the step or the distances before are used up\n",
        "",
    ),
    _modes("no barrier after staging", FORWARD, "c0, width, n0);\n      " + SYNC, "c0, width, n0);\n", True),
    _modes("no barrier before the distances", FORWARD, "    __syncthreads();  // what is staged is used up\n", ""),
    _modes("no barrier after the distances", FORWARD, "sums.store(tile);\n    " + SYNC, "sums.store(tile);\n"),
    _modes("no barrier before the results", FORWARD, "if (!one_tile) return;\n  " + SYNC, "if (!one_tile) return;\n"),
    _modes("sums not cleared", FORWARD, "    sums.clear();\n", "    if (n0 == 0) sums.clear();\n"),
    _modes("ties go to the last mode", FORWARD, "m == 0 || distance < best", "m == 0 || distance <= best"),
    _modes("ties go to the last class", FORWARD, "rival < 0 || best < other", "rival < 0 || best <= other"),
    _modes("best of the class before", FORWARD, "m == 0 || distance < best", "(m == 0 && k == 0) || distance < best"),
    _modes(
        "own class is a rival",
        FORWARD,
        "      own_logit = value;\n    } else if",
        "      own_logit = value;\n    }\n    if",
    ),
    _modes("sum not brought to the new maximum", FORWARD, "total * exponential(largest - next)", "total"),
    _modes("square left out of the slope", FORWARD, "if (f.square) slope *= 2 * distance;", ""),
    _modes("margin left out", FORWARD, "mine - other + f.margin", "mine - other"),
    _modes("ignored pixels have a loss", FORWARD, "valid ? (largest - own_logit)", "true ? (largest - own_logit)"),
    _modes("ignored pixels have a slope", FORWARD, "*at = valid ? slope : Acc(0);", "*at = slope;"),
    _modes("ignored pixels have a nearest mode", FORWARD, "if (!valid) column.nearest[c] = 0;", ""),
    _modes("modes beyond the last", FORWARD, "f.modes.count - n0 < modes ? f.modes.count - n0 : modes;", "modes;"),
    _modes("modes of the first tile", FORWARD, "f.modes.at(n0 + n, c0 + c)", "f.modes.at(n, c0 + c)"),
    _modes(
        "one pixel too many", FORWARD, "const bool inside = pixel < f.pixels", "const bool inside = pixel <= f.pixels"
    ),
    _modes("strides of modes", FORWARD, "(n - k * per_class) * mode_stride", "(n - k * per_class) * class_stride"),
    _modes(
        "backward: no barrier before the pixels",
        BACKWARD,
        "    __syncthreads();  // the pixels before are used up\n",
        "",
    ),
    _modes("backward: no barrier after the pixels", BACKWARD, "first, end);\n    " + SYNC, "first, end);\n"),
    _modes(
        "backward: no barrier before the tile", BACKWARD, "      __syncthreads();  // the tile before is used up\n", ""
    ),
    _modes("backward: no barrier after the tile", BACKWARD, "at * edge);\n      " + SYNC, "at * edge);\n"),
    _modes(
        "backward: first tile's modes only",
        BACKWARD,
        "if (first == begin || b.tiles > 1) stage",
        "if (first == begin) stage",
    ),
    _modes("backward: hinge of an inactive pixel", BACKWARD, "own >= 0 && b.triplet[pixel] > 0", "own >= 0"),
    _modes("backward: rival pulls too", BACKWARD, "k == tile.rival[p] ? Acc(-1)", "k == tile.rival[p] ? Acc(1)"),
    _modes("backward: every mode of the class", BACKWARD, "if (b.nearest[at] == n - k * b.modes.per_class) {", "{"),
    _modes("backward: half of the slope", BACKWARD, "value = 2 * (b.weight", "value = (b.weight"),
    _modes(
        "backward: gradient taken as dense",
        BACKWARD,
        "b.grad_triplet[locate(b.triplet_grid, pixel)]",
        "b.grad_triplet[pixel]",
    ),
    _modes(
        "backward: ignored pixels reach the sums",
        BACKWARD,
        "tile.offsets[p] = own < 0 ? -1 :",
        "tile.offsets[p] = !inside ? -1 :",
    ),
    _modes("backward: slope of all tiles", BACKWARD, "if (at == mine) mode_slope", "mode_slope"),
    _modes(
        "backward: slope of the first tile only", BACKWARD, "at < (mine == 0 ? b.tiles : mine + 1)", "at < mine + 1"
    ),
    _modes("backward: sum of the spread left out", BACKWARD, "sum[i] += s;\n", "sum[i] = s;\n"),
    _modes("backward: last steps only", BACKWARD, "total[i][j] += v.at[j]", "total[i][j] = v.at[j]"),
    _modes(
        "backward: pixels of the next run", BACKWARD, "b.pixels - begin < b.run ? b.pixels : begin + b.run", "b.pixels"
    ),
    _modes(
        "backward: strides of the features for the slope",
        BACKWARD,
        "(c0 + c) * b.slope_channel_stride",
        "(c0 + c) * b.channel_stride",
    ),
    _modes("backward: channels beyond the last", BACKWARD, "if (c0 + c >= b.channels) continue;", ""),
    _modes("merge: last run left out", BACKWARD, "run < m.runs; ++run", "run + 1 < m.runs; ++run"),
    _modes("merge: one element too many", BACKWARD, "if (i >= m.size) return;", "if (i > m.size) return;"),
    _modes("plan: too few blocks of pixels", LOSSES, "ceil_div<u32>(p.pixels, kModePixels)", "p.pixels / kModePixels"),
]
