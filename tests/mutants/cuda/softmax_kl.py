"""Planted faults in the CUDA C++ kernels of softmax_kl; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cuda/softmax_kl.cu"

FAULTS = [
    Fault("softmax_kl", "every pixel counts", SOURCE, "    if ($valid && $p.masked) $valid = $p.mask[place($p.mask_grid)] != 0;\n", "", quick=True),
    Fault("softmax_kl", "rows of all images in a line", SOURCE, "$row = $line - $image * height;", "$row = $line;"),
    Fault("softmax_kl", "one side twice", SOURCE, "const Acc x = logit($side, $k);", "const Acc x = logit(0, $k);"),
    Fault("softmax_kl", "sums of half the lanes", SOURCE, "float kl_sum(float x) {\n#$pragma $unroll\n  for (int $flip = 1;", "float kl_sum(float x) {\n#$pragma $unroll\n  for (int $flip = 2;"),
    Fault("softmax_kl", "largest logit not subtracted", SOURCE, "$a = ($a - $top_[0]) * $p_.scale;", "$a = $a * $p_.scale;"),
    Fault("softmax_kl", "one temperature", SOURCE, "$b = ($b - $top_[1]) * $p_.scale;", "$b = $b - $top_[1];"),
    Fault("softmax_kl", "normaliser of the other", SOURCE, "$total[1] += y;", "$total[1] += x;"),
    Fault("softmax_kl", "normalisers the wrong way round", SOURCE, "logarithm($total[0]) - logarithm($total[1])", "logarithm($total[1]) - logarithm($total[0])"),
    Fault("softmax_kl", "temperature once", SOURCE, "$loss * ($p.temperature * $p.temperature)", "$loss * $p.temperature"),
    Fault("softmax_kl", "losses of pixels that do not count", SOURCE, "$pixel.valid ? $loss", "true ? $loss"),
    Fault("softmax_kl", "every lane writes the loss", SOURCE, " && threadIdx.x % kKlLanes == 0)", ")"),
    Fault("softmax_kl", "gradients beyond the last pixel", SOURCE, "  if ($pixel.pixel >= $p.pixels) return;\n", ""),
    Fault("softmax_kl", "half a gradient", SOURCE, "$first * ($d - $pixel.mean[0]) + $gap : $gap", "$first * ($d - $pixel.mean[0]) : $gap"),
    Fault("softmax_kl", "other gradient half turned", SOURCE, "($pixel.mean[1] - $d) - $gap)", "($pixel.mean[1] - $d) + $gap)"),
    Fault("softmax_kl", "gradient's classes side by side", SOURCE, "$to.data[$at + $k * $to.class_stride]", "$to.data[$at + $k]"),
    Fault("softmax_kl", "a class too many", SOURCE, "for (int $k = $part_; $k < $classes;", "for (int $k = $part_; $k <= $classes;"),
    Fault("softmax_kl", "more classes than are kept", SOURCE, "<= $held * kKlLanes, $backward", "<= $held * kKlLanes + 1, $backward"),
    Fault("softmax_kl", "the last pixels left out", SOURCE, "ceil_div($s.pixels, static_cast<$u32>(kKlPixels))", "1 + ($s.pixels - 1) / 65"),
]  # fmt: skip
