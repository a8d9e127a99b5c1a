"""Planted faults in the C++ kernels of prototype_rectify; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/prototype_rectify.cpp"
DENSE_LABELS = "cpu/dense_labels.h"

FAULTS = [
    Fault("prototype_rectify", "no temperature", SOURCE, "$score * $p.scale", "$score"),
    Fault("prototype_rectify", "the temperature upside down", SOURCE, "static_cast<Acc>(1 / $temperature)", "static_cast<Acc>($temperature)"),
    Fault("prototype_rectify", "probabilities instead of logarithms", SOURCE, "+ log_of($share)", "+ $share"),
    Fault("prototype_rectify", "subnormal probabilities", SOURCE, "x * 0x1p64f", "x * 0x1p0f"),
    Fault("prototype_rectify", "no probability is a small one", SOURCE, "return x > 0 ? $log : x - INFINITY;", "return $log;"),
    Fault("prototype_rectify", "NaN beside better classes", SOURCE, "$bad |= $key != $key;", ""),
    Fault("prototype_rectify", "the first class where there is none", SOURCE, "$label = Mask{} + kIgnored, $bad", "$label = Mask{}, $bad"),
    Fault("prototype_rectify", "few nodes for both where one has", SOURCE, " && Nodes<Acc>::serve($p.soft_along);", ";"),
    Fault("prototype_rectify", "soft labels that are not finite", SOURCE, " && $soft.finite())", ")"),
    Fault("prototype_rectify", "float64 soft labels misread", DENSE_LABELS, "$convert.template operator()<double>()", "$convert.template operator()<float>()"),
]  # fmt: skip
