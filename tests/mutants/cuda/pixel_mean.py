"""Planted faults in the CUDA C++ kernels of pixel_mean; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

SOURCE = "cuda/pixel_mean.cu"

FAULTS = [
    Fault("pixel_mean", "every pixel counts", SOURCE, "    if (class_at($p.labels, $p.at($p.labels.grid, $pixel)) < 0) continue;\n", ""),
    Fault("pixel_mean", "a pixel too many", SOURCE, "$pixel < $end; $pixel += kMeanThreads", "$pixel <= $end; $pixel += kMeanThreads"),
    Fault("pixel_mean", "the first pixel left out", SOURCE, "$pixel = $begin + threadIdx.x;", "$pixel = $begin + threadIdx.x + 1;"),
    Fault("pixel_mean", "one stretch for all", SOURCE, "$begin = blockIdx.x * $p.block_pixels;", "$begin = 0 * $p.block_pixels;"),
    Fault("pixel_mean", "the last stretch as long as the others", SOURCE, "$p.pixels - $begin < $p.block_pixels ? $p.pixels : $begin + $p.block_pixels", "$begin + $p.block_pixels"),
    Fault("pixel_mean", "half the threads", SOURCE, "$step = kMeanThreads / 2; $step > 0", "$step = kMeanThreads / 4; $step > 0"),
    Fault("pixel_mean", "the last two sums apart", SOURCE, "$step > 0; $step /= 2", "$step > 1; $step /= 2"),
    Fault("pixel_mean", "no barrier before the tree", SOURCE, "  $sums[threadIdx.x] = $own;\n  __syncthreads();\n", "  $sums[threadIdx.x] = $own;\n"),
    Fault("pixel_mean", "the last block left out", SOURCE, "t < $r.blocks ? LossSums", "t < $r.blocks - 1 ? LossSums"),
    Fault("pixel_mean", "always a mean", SOURCE, "$r.mean ? static_cast<double>($divisor) : 1.0", "static_cast<double>($divisor)"),
    Fault("pixel_mean", "a sum counts one pixel at least", SOURCE, "$r.mean && $total.count < 1 ? 1", "$total.count < 1 ? 1"),
    Fault("pixel_mean", "a mean of nothing", SOURCE, "$r.mean && $total.count < 1 ? 1 : $total.count", "$total.count"),
    Fault("pixel_mean", "the other loss not divided", SOURCE, "$total.second / $by", "$total.second"),
    Fault("pixel_mean", "everything in a line", SOURCE, "const bool $flat = $p.flat($p.first.grid)", "const bool $flat = true || $p.flat($p.first.grid)"),
    Fault("pixel_mean", "labels in a line", SOURCE, "$p.flat($p.first.grid) && $p.flat($p.labels.grid)", "$p.flat($p.first.grid)"),
    Fault("pixel_mean", "the other loss in a line", SOURCE, " && (!$p.second.buffer.data || $p.flat($p.second.grid))", ""),
    Fault("pixel_mean", "images in a line", SOURCE, "(static_cast<$i64>($g.height) * $g.width >= $pixels ||", "(true ||"),
    Fault("pixel_mean", "more blocks than threads", SOURCE, "kMostMeanBlocks = kMeanThreads;", "kMostMeanBlocks = 2 * kMeanThreads;"),
]  # fmt: skip
