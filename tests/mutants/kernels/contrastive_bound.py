"""Planted faults in the Triton kernels of contrastive_bound; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "contrastive_bound.py"

FAULTS = [
    Fault("_scale_statistics", "nothing is normalised", SOURCE, "$scale = $factor * _inverse_root(tl.sum($total))", "$scale = $factor * (tl.sum($total) * 0 + 1)", quick=True),
    Fault("_scale_statistics", "the square of the length", SOURCE, "return tl.where($squared > 0, 1.0 / tl.sqrt(tl.where($squared > 0, $squared, 1.0)), 0.0)", "return tl.where($squared > 0, 1.0 / tl.where($squared > 0, $squared, 1.0), 0.0)"),
    Fault("_scale_statistics", "a length of 0 is one of 1", SOURCE, "$squared, 1.0)), 0.0)", "$squared, 1.0)), 1.0)"),
    Fault("_scale_statistics", "the length of the last block", SOURCE, "$total += x * x", "$total = x * x"),
    Fault("_scale_statistics", "rows of the padded width", SOURCE, "$row_at = $rows + $row.to(tl.int64) * $channels", "$row_at = $rows + $row.to(tl.int64) * width"),
    Fault("_scale_statistics", "no middle part", SOURCE, "middle, mask=i < $width)", "middle.to(tl.float32) * 0, mask=i < $width)"),
    Fault("_scale_statistics", "the middle part over the high one", SOURCE, "$to + $classes * $width, middle", "$to, middle"),
    Fault("_scale_statistics", "the factor is forgotten", SOURCE, "other=0.0).to(tl.float32) * $scale\n", "other=0.0).to(tl.float32) * ($scale / factor)\n"),
    Fault("_scale_statistics", "tau instead of 2 tau^2", SOURCE, "1 / (2 * $temperature**2)", "1 / (2 * $temperature)"),
    Fault("_scale_statistics", "the mean twice", SOURCE, "$spread = $rows if $covariance is None else $covariance.contiguous()", "$spread = $rows"),
    Fault("_bound_forward", "the last pixel is left out", SOURCE, "$inside = $p < $pixels\n    $rows = $features + locate($p, $fd1, $fd2, $fs0, $fs1, $fs2)\n    $first, $second", "$inside = $p < $pixels - 1\n    $rows = $features + locate($p, $fd1, $fd2, $fs0, $fs1, $fs2)\n    $first, $second"),
    Fault("_bound_forward", "one tile too few", SOURCE, '_bound_forward, (cdiv($labels.numel(), $tile["BLOCK_P"]),)', '_bound_forward, (max(1, $labels.numel() // $tile["BLOCK_P"]),)'),
    Fault("_bound_forward", "the last block of channels only", SOURCE, "$first += _product($q, $at, $known", "$first = _product($q, $at, $known"),
    Fault("_bound_forward", "the channels' mask is missing", SOURCE, "read = $inside[:, None] & (a < $channels)[None, :]", "read = $inside[:, None] & (a >= 0)[None, :]"),
    Fault("_bound_forward", "q instead of its square", SOURCE, "_product($q * $q, $at", "_product($q, $at"),
    Fault("_bound_forward", "q is not normalised", SOURCE, "$first = $first * $inverse\n", "$first = $first * 1.0\n"),
    Fault("_bound_forward", "the own logit with the covariance", SOURCE, "$k[None, :] == y[:, None], $first, 0.0)", "$k[None, :] == y[:, None], $first + second, 0.0)"),
    Fault("_bound_forward", "bfloat16 only", SOURCE, "        $total = tl.dot($high, $first, $total)\n    return $total", "        $total = tl.dot($high, $first)\n    return $total"),
    Fault("_bound_forward", "the third parts are lost", SOURCE, "$total = tl.dot($high, $third)", "$total = tl.dot($high, $third) * 0"),
    Fault("_bound_forward", "float16 has one part", SOURCE, "torch.float16: (2, 3)", "torch.float16: (1, 3)"),
    Fault("_bound_backward", "one tile too few", SOURCE, '_bound_backward, (cdiv($labels.numel(), $tile["BLOCK_P"]),)', '_bound_backward, (max(1, $labels.numel() // $tile["BLOCK_P"]),)'),
    Fault("_bound_backward", "the own class does not pull", SOURCE, "$pull = $share - ($k[None, :] == y[:, None]).to(tl.float32)", "$pull = $share"),
    Fault("_bound_backward", "the own class pushes", SOURCE, "$pull = $share - ($k[None, :] == y", "$pull = $share + ($k[None, :] == y"),
    Fault("_bound_backward", "rows of the padded classes", SOURCE, "shares = $posterior + ($p.to(tl.int64) * $classes)", "shares = $posterior + ($p.to(tl.int64) * BLOCK_K)"),
    Fault("_bound_backward", "padded classes are read", SOURCE, "$share = tl.load($shares, mask=$inside[:, None] & (k < $classes)[None, :], other=0.0)", "$share = tl.load($shares, mask=$inside[:, None], other=0.0)"),
    Fault("_bound_backward", "nothing along q is removed", SOURCE, "$total = ($total - $q * $along[:, None]) * $inverse[:, None]", "$total = $total * $inverse[:, None]"),
    Fault("_bound_backward", "half of the second term along q", SOURCE, "2 * tl.sum($second * $share, 1) * $inverse)", "tl.sum($second * $share, 1) * $inverse)"),
    Fault("_bound_backward", "the second term without q", SOURCE, "$part, 3, PRODUCT) * $q * $inverse[:, None]", "$part, 3, PRODUCT) * $inverse[:, None]"),
    Fault("_bound_backward", "the mean for the covariance", SOURCE, "_product($share, $at + $parts * $part,", "_product($share, $at,"),
    Fault("_bound_backward", "statistics of other channels", SOURCE, "$at = $statistics + $k[:, None] * $width + $a[None, :]", "$at = $statistics + $k[:, None] * $width + ($a % 16)[None, :]"),
]  # fmt: skip
