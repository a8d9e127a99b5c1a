"""Planted faults in the C++ kernels of class_balanced_sample; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cpu/class_balanced_sample.cpp"
RANDOM_BITS = "random_bits.h"

FAULTS = [
    Fault("class_balanced_sample", "32 bits instead of 31", SOURCE, "$stream) >> 1;", "$stream);"),
    Fault("class_balanced_sample", "another mixer", RANDOM_BITS, "0x735A2D97u", "0x735A2D99u"),
    Fault("class_balanced_sample", "one pixel of a class too few", SOURCE, "return $keys[$n - 1] + 1", "return $keys[$n - 1]"),
    Fault("class_balanced_sample", "a pixel drawn twice", SOURCE, "$labels_.classes && !chosen($i))", "$labels_.classes)"),
    Fault("class_balanced_sample", "ignored pixels in the top-up", SOURCE, "$label_[$i] < $labels_.classes && !chosen($i)", "!chosen($i)"),
    Fault("class_balanced_sample", "every image like the first", SOURCE, "uint32_t>($image * $labels.pixels)", "uint32_t>(0 * $labels.pixels)"),
    Fault("class_balanced_sample", "quotas rounded up", SOURCE, "$quota[$k] = $count * $drawing.sizes()[$k] /", "$quota[$k] = ($count * $drawing.sizes()[$k] + total - 1) /"),
    Fault("class_balanced_sample", "the top-up at the end", SOURCE, "$next != $more.end() && *$next < $pixel", "false"),
    Fault("class_balanced_sample", "one pixel a class too many", SOURCE, "$wanted[$k] >= $sizes_[$k]\n", "$wanted[$k] + 1 >= $sizes_[$k]\n"),
]  # fmt: skip
