"""Planted faults in the Triton kernels of softmax_kl; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "softmax_kl.py"

FAULTS = [
    Fault("_divergences", "the mask is not read", SOURCE, "        $counted = $counted & (tl.load(mask + locate($i, $md1, $md2, $ms0, $ms1, $ms2), mask=$counted, other=0) != 0)\n", "        $counted = $counted & (tl.load(mask + locate($i, $md1, $md2, $ms0, $ms1, $ms2), mask=$counted, other=0) >= 0)\n"),
    Fault("_divergences", "strides of the logits for the mask", SOURCE, "tl.load(mask + locate($i, $md1, $md2, $ms0, $ms1, $ms2)", "tl.load(mask + locate($i, ad1, ad2, as0, as1, as2)"),
    Fault("_divergences", "the temperature is left out", SOURCE, "    return (x - tl.max(x, 1)[:, None]) * $scale\n", "    return x - tl.max(x, 1)[:, None]\n"),
    Fault("_divergences", "classes beyond the last one", SOURCE, 'x = tl.where((k < $classes)[None, :], x, float("-$inf"))', "x = tl.where((k < $classes)[None, :], x, 0.0)"),
    Fault("_divergences", "pixels that do not count are read", SOURCE, "mask=$counted[:, None] & (k < $classes)[None, :], other=0.0)", "mask=(k < $classes)[None, :] & (k >= 0)[None, :], other=0.0)"),
    Fault("_divergences", "the difference the other way", SOURCE, "$d = tl.where((k < $classes)[None, :], x - y, 0.0)", "$d = tl.where((k < $classes)[None, :], y - x, 0.0)", quick=True),
    Fault("_divergences", "the mean is not divided", SOURCE, "        $mean = tl.sum(x * $d, 1) / $x_total\n        $gap", "        $mean = tl.sum(x * $d, 1)\n        $gap"),
    Fault("_divergences", "the gap of equal normalisers", SOURCE, "- y / $y_total[:, None]", "- y / x_total[:, None]"),
    Fault("_divergences", "one sign", SOURCE, "$gap = x / $x_total[:, None] - y", "$gap = x / $x_total[:, None] + y"),
    Fault("_divergences", "nearly equal means are subtracted", SOURCE, "$value = tl.sum($gap * ($d - $mean[:, None]), 1)", "$value = tl.sum($gap * $d, 1) + $mean - $mean * 1.0001"),
    Fault("_divergence_slopes", "the mask is not read", SOURCE, "        $counted = $counted & (tl.load(mask + locate($i, $md1, $md2, $ms0, $ms1, $ms2), mask=$counted, other=0) != 0)\n", "        $counted = $counted & (tl.load(mask + locate($i, $md1, $md2, $ms0, $ms1, $ms2), mask=$counted, other=0) >= 0)\n"),
    Fault("_divergence_slopes", "strides of the logits for the mask", SOURCE, "tl.load(mask + locate($i, $md1, $md2, $ms0, $ms1, $ms2)", "tl.load(mask + locate($i, ad1, ad2, as0, as1, as2)"),
    Fault("_divergence_slopes", "the other's classes are as far apart", SOURCE, "y = _read(other, locate($i, $bd1, $bd2, $bs0, $bs1, $bs2), $k, $bc,", "y = _read(other, locate($i, $bd1, $bd2, $bs0, $bs1, $bs2), $k, ac,"),
    Fault("_divergence_slopes", "the temperature is left out", SOURCE, "    return (x - tl.max(x, 1)[:, None]) * $scale\n", "    return x - tl.max(x, 1)[:, None]\n"),
    Fault("_divergence_slopes", "classes beyond the last one", SOURCE, 'x = tl.where((k < $classes)[None, :], x, float("-$inf"))', "x = tl.where((k < $classes)[None, :], x, 0.0)"),
    Fault("_divergence_slopes", "pixels that do not count are read", SOURCE, "mask=$counted[:, None] & (k < $classes)[None, :], other=0.0)", "mask=(k < $classes)[None, :] & (k >= 0)[None, :], other=0.0)"),
    Fault("_divergence_slopes", "the difference the other way", SOURCE, "$d = tl.where((k < $classes)[None, :], x - y, 0.0)", "$d = tl.where((k < $classes)[None, :], y - x, 0.0)"),
    Fault("_divergence_slopes", "no temperature", SOURCE, "mask=$counted, other=0.0) * $temperature", "mask=$counted, other=0.0)"),
    Fault("_divergence_slopes", "gradients of pixels that do not count", SOURCE, "$weight = tl.load($grad + locate($i, $gd1, $gd2, $gs0, $gs1, $gs2), mask=$counted, other=0.0)", "$weight = tl.load($grad + locate($i, $gd1, $gd2, $gs0, $gs1, $gs2), mask=$i < pixels, other=0.0)"),
    Fault("_divergence_slopes", "gradients side by side", SOURCE, "$weight = tl.load($grad + locate($i, $gd1, $gd2, $gs0, $gs1, $gs2)", "$weight = tl.load($grad + $i"),
]  # fmt: skip
