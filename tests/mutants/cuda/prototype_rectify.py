"""Planted faults in the CUDA C++ kernels of prototype_rectify; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cuda/prototype_rectify.cu"
DENSE_STRIP = "cuda/dense_strip.h"

FAULTS = [
    Fault("prototype_rectify", "temperature turned", SOURCE, "static_cast<Acc>(1 / $p.temperature)", "static_cast<Acc>($p.temperature)"),
    Fault("prototype_rectify", "scores not scaled", SOURCE, "$key[$r] = x * $p.scale;", "$key[$r] = x;"),
    Fault("prototype_rectify", "shares below 0", SOURCE, "logarithm(x < 0 ? Acc(0) : x)", "logarithm(x)"),
    Fault("prototype_rectify", "shares below 0 as 1", SOURCE, "x < 0 ? Acc(0) : x", "x < 0 ? Acc(1) : x"),
    Fault("prototype_rectify", "no logarithm", SOURCE, "$key[$r] + logarithm(x < 0 ? Acc(0) : x)", "$key[$r] + x"),
    Fault("prototype_rectify", "the largest share", SOURCE, "const Acc $sum = $key[$r] + $logarithm", "const Acc $sum = $logarithm"),
    Fault("prototype_rectify", "any class where none has a share", SOURCE, "$best[$r] > $nothing ? $label[$r] : 255", "$best[$r] >= $nothing ? $label[$r] : 255"),
    Fault("prototype_rectify", "another no label", SOURCE, "$label[$r] : 255", "$label[$r] : 254"),
    Fault("prototype_rectify", "rows of the strip below", SOURCE, "    if ($r >= $rows) break;\n", ""),
    Fault("prototype_rectify", "the last class left out", SOURCE, "$k < $p.u.scores.classes; ++$k", "$k < $p.u.scores.classes - ($p.u.scores.classes > 1); ++$k"),
    Fault("prototype_rectify", "shares of the first image", SOURCE, "$image * $p.soft.scores.image_stride", "0"),
    Fault("prototype_rectify", "shares at the scores' size", SOURCE, "$soft.set($p.soft, $image", "$soft.set({$p.soft.scores, $p.u.down, $p.u.along}, $image"),
    Fault("prototype_rectify", "threads beyond the last strip", DENSE_STRIP, "return of < $images;", "return true;"),
    Fault("prototype_rectify", "halves read as bfloat16", DENSE_STRIP, "if ($s.type == 1) return static_cast<Acc>(read_wide($s.halves, $at));", "if ($s.type == 1) return static_cast<Acc>(read_wide($s.bfloats, $at));"),
    Fault("prototype_rectify", "the highest of equals", DENSE_STRIP, "x > $most || x != x;", "!(x < $most);"),
    Fault("prototype_rectify", "NaN is no largest", DENSE_STRIP, "x > $most || x != x;", "x > $most;"),
    Fault("prototype_rectify", "rows left out", DENSE_STRIP, "$lower[$r] == $lower[$r - 1] + 1) $top", "$lower[$r] > $lower[$r - 1]) $top"),
    Fault("prototype_rectify", "label of a row above", SOURCE, "      $label[$r] = k;\n", "      $label[$r / 2] = k;\n"),
]  # fmt: skip
