"""The planted faults of the kernels of pixel_mean: one replacement each. ``quick``: also in CI."""

from __future__ import annotations

from planted import Mutant

# (name, text of cuda/pixel_mean.cu, what stands there instead)
_ROWS = (
    ("every pixel counts", "    if (class_at(p.labels, p.at(p.labels.grid, pixel)) < 0) continue;\n", ""),
    ("a pixel too many", "pixel < end; pixel += kMeanThreads", "pixel <= end; pixel += kMeanThreads"),
    ("the first pixel left out", "pixel = begin + threadIdx.x;", "pixel = begin + threadIdx.x + 1;"),
    ("one stretch for all", "begin = blockIdx.x * p.block_pixels;", "begin = 0 * p.block_pixels;"),
    (
        "the last stretch as long as the others",
        "p.pixels - begin < p.block_pixels ? p.pixels : begin + p.block_pixels",
        "begin + p.block_pixels",
    ),
    ("one loss twice", "p.second[p.at(p.second_grid, pixel)]", "p.first[p.at(p.first_grid, pixel)]"),
    ("the other loss as the first lies", "p.at(p.second_grid, pixel)", "p.at(p.first_grid, pixel)"),
    ("labels as the loss lies", "p.at(p.labels.grid, pixel)) < 0", "p.at(p.first_grid, pixel)) < 0"),
    ("the loss as labels lie", "p.first[p.at(p.first_grid, pixel)]", "p.first[p.at(p.labels.grid, pixel)]"),
    ("pixels count twice", "second, 1});", "second, 2});"),
    ("half the threads", "step = kMeanThreads / 2; step > 0", "step = kMeanThreads / 4; step > 0"),
    ("the last two sums apart", "step > 0; step /= 2", "step > 1; step /= 2"),
    ("no barrier before the tree", "  sums[threadIdx.x] = own;\n  __syncthreads();\n", "  sums[threadIdx.x] = own;\n"),
    (
        "no barrier in the tree",
        "      sums[threadIdx.x] = total;\n    }\n    __syncthreads();\n",
        "      sums[threadIdx.x] = total;\n    }\n",
    ),
    ("all blocks in one place", "p.sums[blockIdx.x] = total", "p.sums[0] = total"),
    ("the last block left out", "t < r.blocks ? LossSums", "t < r.blocks - 1 ? LossSums"),
    ("always a mean", "r.mean ? static_cast<double>(divisor) : 1.0", "static_cast<double>(divisor)"),
    ("never a mean", "r.mean ? static_cast<double>(divisor) : 1.0", "1.0"),
    ("a sum counts one pixel at least", "r.mean && total.count < 1 ? 1", "total.count < 1 ? 1"),
    ("a mean of nothing", "r.mean && total.count < 1 ? 1 : total.count", "total.count"),
    ("the other loss not divided", "total.second / by", "total.second"),
    ("the other result is the first", "static_cast<T>(total.second / by)", "static_cast<T>(total.first / by)"),
    (
        "everything in a line",
        "const bool flat = p.flat(p.first.grid)",
        "const bool flat = true || p.flat(p.first.grid)",
    ),
    ("labels in a line", "p.flat(p.first.grid) && p.flat(p.labels.grid)", "p.flat(p.first.grid)"),
    ("the other loss in a line", " && (!p.second.buffer.data || p.flat(p.second.grid))", ""),
    ("images in a line", "(static_cast<i64>(g.height) * g.width >= pixels ||", "(true ||"),
    ("more blocks than threads", "kMostMeanBlocks = kMeanThreads;", "kMostMeanBlocks = 2 * kMeanThreads;"),
)
QUICK = ("every pixel counts", "no barrier in the tree", "a mean of nothing")
MUTANTS = tuple(
    Mutant("pixel_mean", f"pixel mean: {name}", "cuda/pixel_mean.cu", search, replace, name in QUICK)
    for name, search, replace in _ROWS
)
