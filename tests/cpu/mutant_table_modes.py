"""The planted faults of mode_losses in csrc, as mutant_table.py has those of the other operators."""

from __future__ import annotations

from planted import Mutant

FORWARD, BACKWARD, SHARED = "cpu/mode_losses_forward.h", "cpu/mode_losses_backward.h", "cpu/mode_losses_modes.h"
TILE, MEMBERS = "cpu/mode_losses_modes.h", "cpu/mode_losses_members.h"


def _forward(name: str, search: str, replace: str, file: str = FORWARD, quick: bool = False) -> Mutant:
    return Mutant("modes_forward", f"modes forward: {name}", file, search, replace, quick)


def _backward(name: str, search: str, replace: str, file: str = BACKWARD, quick: bool = False) -> Mutant:
    return Mutant("modes_backward", f"modes backward: {name}", file, search, replace, quick)


MUTANTS = [
    _forward("product not doubled", "= -2 * u;", "= -u;", quick=True),
    _forward("square of the mode forgotten", "sum += double(u) * u;", "sum += 0;"),
    _forward("centre not subtracted from the pixels", "          q -= centre[c];\n", ""),
    _forward("square of the pixel forgotten", "best = (best + *squared++) + xx;", "best = best + *squared++;"),
    _forward("square of the last run of channels", "work.squared[v] += part[v];", "work.squared[v] = part[v];"),
    _forward("later runs of channels overwrite", "store(before += more,", "store(more,"),
    _forward("larger blocks of rows forgotten", "i * base + std::min(i, larger)", "i * base"),
    _forward(
        "ties go to the last mode",
        "const Mask less = d < best;\n        best",
        "const Mask less = d <= best;\n        best",
    ),
    _forward("nearest mode not kept", "which = less ? Mask{} + static_cast<Whole>(m) : which;", ""),
    _forward(
        "second mode left out",
        "for (int64_t m = 1; m < p.per_class; ++m) {\n        load",
        "for (int64_t m = 1; m < p.per_class - 1; ++m) {\n        load",
    ),
    _forward("near classes not refined", "Acc(1) / 32", "Acc(0)", quick=True),
    _forward("ties of refined modes to the last", "m + j == 0 || d[j] < best", "m + j == 0 || d[j] <= best"),
    _forward("refined mode not kept", "    work.nearest.data()[k * pixels + i] = which;\n", ""),
    _forward("rows of planes not transposed", "      transpose<Acc>(block);\n", ""),
    _forward("own class is its rival", "d = own ? Lanes{} + infinity : d;", ""),
    _forward(
        "ties go to the last rival",
        "const Mask less = d < best;\n      best = less ? d : best;\n      rival",
        "const Mask less = d <= best;\n      best = less ? d : best;\n      rival",
    ),
    _forward("margin forgotten", " + static_cast<Acc>(p.margin)", ""),
    _forward("hinge not clamped", "hinge = hinge < 0 ? Lanes{} : hinge;", ""),
    _forward("largest logit forgotten", "    log += high * inverse;\n", ""),
    _forward("square of the difference", "if (p.square) e *= low + d;", "if (p.square) e *= low - d;"),
    _forward("square without its slope", "        e *= d + d;\n", ""),
    _forward("own class without its one", "(own ? Lanes{} + inverse : Lanes{})", "Lanes{}"),
    _forward(
        "slopes of ignored pixels unwritten",
        "      std::fill_n(static_cast<Acc*>(p.weight) + at * classes, classes, Acc(0));\n",
        "",
    ),
    _forward("third byte misplaced", "<< 16 | four[3", "<< 8 | four[3"),
    _forward("last bytes unwritten", "classes >= 4 && next < classes", "next + 4 <= classes"),
    _forward("bytes of few classes unwritten", "classes < 4 && k < classes", "false"),
    _forward("overlap squared twice", "int64_t j = next; j < channels", "int64_t j = c; j < channels"),
    _forward("quads of other rows", "*quad(i + 8)", "*quad(i + 4)", TILE),
    _forward(
        "last pixel of a work item left out",
        "size = last - first;",
        "size = last - first - (last - first > 1);",
        SHARED,
    ),
    _backward("gradient not doubled", "const Acc scale = 2 * static_cast", "const Acc scale = static_cast", quick=True),
    _backward("hinge where there is none", "> 0\n          ? 2 * static_cast", ">= 0\n          ? 2 * static_cast"),
    _backward("rival not pushed away", "g[rival] -= hinge;", ";"),
    _backward("overlap summed twice", "lane >= step - classes % step", "true"),
    _backward(
        "sum of the slopes halved", "sum += __builtin_shuffle(sum, other);", "sum = __builtin_shuffle(sum, other);"
    ),
    _backward("another mode of the class", "panels + (chosen[j] & 255) * width", "panels"),
    _backward("members of the block before", "*members++ = bits & valid;", "*members++ = bits;", MEMBERS),
    _backward("bytes not transposed", "      transpose_bytes(block[q]);\n", "", MEMBERS),
    _backward("last bytes not read", "next < count; next += kBytes", "next + kBytes <= count; next += kBytes", MEMBERS),
    _backward("eight classes again", "near + j * work.pitch + k0 + 8, 8", "near + j * work.pitch + k0, 8"),
    _backward("pairs end at a pixel", "ctzll(left) : kModeBlock", "ctzll(left) : 0"),
    _backward("odd pixel left out", "if (count % 2) slopes", "if (false) slopes"),
    _backward("pixel's own part forgotten", "sum[j][v] *= work.total[i + j];", "sum[j][v] = Lanes{};"),
    _backward("added instead of subtracted", "sum[j][v] -= u * g", "sum[j][v] += u * g"),
    _backward(
        "members overwrite the sums",
        "store(q += sum[0][v], sums + v * step);",
        "store(sum[0][v], sums + v * step);",
        quick=True,
    ),
    _backward("second row of a pair left out", "          sum[0][v] += sum[1][v];\n", ""),
    _backward("weights of every panel", "if (first == 0) weights", "weights"),
    _backward("last channels unwritten", "1, count, p.slope", "1, count - 1, p.slope"),
    _backward(
        "planes not transposed back",
        "          transpose<Acc>(block);\n          fastuda::store_planes",
        "          fastuda::store_planes",
    ),
    _backward("ignored pixels unwritten", "std::memset(to + c * p.result.channel_stride * size, 0, size);", ";"),
    _backward("partial sums not cleared", "    std::fill_n(sums, size, Acc(0));\n", ""),
    _backward(
        "only the first segment",
        "for (int64_t s = 0; s < segments; ++s)\n          for",
        "for (int64_t s = 0; s < 1; ++s)\n          for",
    ),
    _backward("mode's own part forgotten", "weight * v[c] - total[c]", "-total[c]"),
    _backward(
        "one partial for all segments",
        "static_cast<Acc*>(p.partials) + segment * size",
        "static_cast<Acc*>(p.partials)",
    ),
    _backward("panels of the modes not shifted", "modes.row(r) + first * step, kVectors", "modes.row(r), kVectors"),
    _backward(
        "stride of the hinge's gradient",
        "chunk.place(p.triplet_grads, work.triplet_offset)",
        "chunk.place(p.cross_entropy_grads, work.triplet_offset)",
    ),
]
