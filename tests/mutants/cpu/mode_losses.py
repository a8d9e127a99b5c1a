"""Planted faults in the C++ kernels of mode_losses; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

FORWARD = "cpu/mode_losses_forward.h"
MODES = "cpu/mode_losses_modes.h"
BACKWARD = "cpu/mode_losses_backward.h"
MEMBERS = "cpu/mode_losses_members.h"

FAULTS = [
    Fault("modes_forward", "product not doubled", FORWARD, "= -2 * u;", "= -u;"),
    Fault("modes_forward", "square of the mode forgotten", FORWARD, "$sum += double($u) * $u;", "$sum += 0;"),
    Fault("modes_forward", "centre not subtracted from the pixels", FORWARD, "          $q -= $centre[$c];\n", ""),
    Fault("modes_forward", "square of the pixel forgotten", FORWARD, "best = (best + *$squared++) + $xx;", "best = best + *$squared++;"),
    Fault("modes_forward", "larger blocks of rows forgotten", "cpu/products.h", "$i * $base + std::min($i, $larger)", "$i * $base"),
    Fault("modes_forward", "near classes not refined", FORWARD, "Acc(1) / 32", "Acc(0)"),
    Fault("modes_forward", "ties of refined modes to the last", FORWARD, "$m + $j == 0 || $d[$j] < $best", "$m + $j == 0 || $d[$j] <= $best"),
    Fault("modes_forward", "refined mode not kept", FORWARD, "    $work.nearest.data()[$k * $pixels + $i] = $which;\n", ""),
    Fault("modes_forward", "quads of other rows", MODES, "*quad($i + 8)", "*quad($i + 4)"),
    Fault("modes_forward", "last pixel of a work item left out", "cpu/tile.h", "$size = $last - $first;", "$size = $last - $first - ($last - $first > 1);"),
    Fault("modes_backward", "gradient not doubled", BACKWARD, "const Acc $scale = 2 * $static_cast", "const Acc $scale = $static_cast"),
    Fault("modes_backward", "hinge where there is none", BACKWARD, "> 0\n          ? 2 * $static_cast", ">= 0\n          ? 2 * $static_cast"),
    Fault("modes_backward", "another mode of the class", BACKWARD, "$panels + ($chosen[$j] & 255) * $width", "$panels"),
    Fault("modes_backward", "members of the block before", MEMBERS, "*$members++ = $bits & $valid;", "*$members++ = $bits;"),
    Fault("modes_backward", "bytes not transposed", MEMBERS, "      transpose_bytes($block[$q]);\n", ""),
    Fault("modes_backward", "last bytes not read", MEMBERS, "next < $count; next += kBytes", "next + kBytes <= $count; next += kBytes"),
    Fault("modes_backward", "eight classes again", BACKWARD, "$near + $j * $work.pitch + $k0 + 8, 8", "$near + $j * $work.pitch + $k0, 8"),
    Fault("modes_backward", "pairs end at a pixel", BACKWARD, "ctzll($left) : kModeBlock", "ctzll($left) : 0"),
    Fault("modes_backward", "last channels unwritten", BACKWARD, "1, $count, $p.slope", "1, $count - 1, $p.slope"),
    Fault("modes_backward", "panels of the modes not shifted", BACKWARD, "$modes.row($r) + $first * $step, kVectors", "$modes.row($r), kVectors"),
]  # fmt: skip
