"""The planted faults: one replacement each. ``quick`` ones also run in CI."""

from __future__ import annotations

from planted import Mutant

WALK, MERGE, KERNEL = "cuda/class_moments_walk.h", "cuda/class_moments.cu", "cuda/kernel.h"
PREPARE, FORWARD, BACKWARD = (
    f"cuda/contrastive_bound_{part}.h" for part in ("prepare", "forward_kernel", "backward_kernel")
)


def _moments(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("class_moments", f"moments: {name}", file, search, replace, quick)


def _bound(name: str, file: str, search: str, replace: str, quick: bool = False) -> Mutant:
    return Mutant("contrastive_bound", f"bound: {name}", file, search, replace, quick)


SYNC = "  __syncthreads();\n"
MUTANTS = [
    # class_moments: the walk
    _moments("last pixel left out", WALK, "at = begin; at < end; at += kWarp", "at = begin; at + 1 < end; at += kWarp"),
    _moments(
        "one pixel too many", WALK,
        "pixel < end ? read_class(w.labels, pixel) : -1;\n    const i64 here",
        "pixel <= end ? read_class(w.labels, pixel) : -1;\n    const i64 here",
    ),
    _moments("no barrier after staging", WALK, "      __syncwarp();\n    }\n    const u32 valid",
             "    }\n    const u32 valid", True),
    _moments("no barrier before the next tile", WALK, "if constexpr (kStaged) __syncwarp();", ""),
    _moments("no flush at the end", WALK, "    run.flush();  // short", "    // short"),
    _moments("no flush when the label changes", WALK, "      flush();\n      label = next;",
             "      label = next;", True),
    _moments("no barrier before the warps are added", WALK, SYNC + "  merge_warps", "  merge_warps", True),
    _moments("no barrier after the pivots", WALK, "widen(w.features[from + v]);\n  }\n" + SYNC,
             "widen(w.features[from + v]);\n  }\n"),
    _moments("no barrier before the pivots", WALK, SYNC + "  const int warps = blockDim.x / kWarp;\n  for",
             "  const int warps = blockDim.x / kWarp;\n  for"),
    _moments("no barrier after the first pixels are cleared", WALK, "= kNone;\n" + SYNC, "= kNone;\n"),
    _moments("counts not cleared", WALK, "tables.counts[k] = 0;", ";"),
    _moments("sums not cleared", WALK, "part * tables.part_step + v * tables.step] = 0;",
             "part * tables.part_step + v * tables.step];"),
    _moments("square of x instead of x - pivot", WALK, "square[v] += d * d;", "square[v] += widen(x[u].at[v]) * d;"),
    _moments("sum of the square", WALK, "sum[v] += d;", "sum[v] += d * d;"),
    _moments("wrong ballot", WALK, "mine == label) >> first & todo", "mine == label) & todo"),
    _moments("one row instead of several", WALK, "rows += __popc(same);", "rows += 1;"),
    _moments("ignored pixels not masked", WALK, "__ballot_sync(kFullWarp, mine >= 0)",
             "__ballot_sync(kFullWarp, mine >= -1)"),
    _moments("one channel too many staged", WALK, "lane + c < w.channels)", "lane + c <= w.channels)"),
    _moments("wrong pixel of the tile", WALK, "(lane * pitch + first + u)", "(lane * pitch + u)"),
    _moments("the first warp left out", WALK, "for (int warp = 0; warp < warps; ++warp) {",
             "for (int warp = 1; warp < warps; ++warp) {"),
    _moments("channels in the wrong order", WALK, "c % V * kWarp + c / V", "c"),
    _moments("a run of labels across warps has no first pixel", WALK, "(lane == 0 || mine != before)",
             "(mine != before)"),
    _moments("channels beyond the last", WALK, "if (channel >= w.channels || n == 0) continue;",
             "if (n == 0) continue;"),
    _moments("first pixel written without an atomic", WALK,
             "atomicMin(tables.firsts + mine, static_cast<int>(pixel));",
             "tables.firsts[mine] = static_cast<int>(pixel);"),
    _moments("another warp's tile", WALK, "stage = shared<T>(end + warp * tile);", "stage = shared<T>(end);"),
    _moments("address of another lane", WALK, "__shfl_sync(kFullWarp, here, first + u)",
             "__shfl_sync(kFullWarp, here, u)"),
    # class_moments: labels and numbers
    _moments("64-bit labels cut to 32", KERNEL, "labels.longs[at];", "static_cast<int>(labels.longs[at]);", True),
    _moments("uint8 labels read as int32", KERNEL, "labels.size == 1 ? labels.bytes[at]",
             "labels.size == 1 ? labels.ints[at]"),
    _moments("ignore_index not ignored", KERNEL, " && label != labels.ignore_index", ""),
    _moments("class K is a class", KERNEL, "label < labels.classes", "label <= labels.classes"),
    _moments("negative labels are classes", KERNEL, "label >= 0 && ", ""),
    _moments("bf16 shifted wrongly", KERNEL, "static_cast<u32>(x.bits) << 16", "static_cast<u32>(x.bits) << 15"),
    _moments("rows of an image in the wrong order", KERNEL, "(row - image * grid.height) * grid.row_stride",
             "row * grid.row_stride"),
    # class_moments: the merge and the plan
    _moments("last chunk left out", MERGE, "chunk = y; chunk < m.chunks;", "chunk = y; chunk < m.chunks - 1;"),
    _moments("no barrier in the tree", MERGE, "    }\n    __syncthreads();\n    if (y < step / 2)",
             "    }\n    if (y < step / 2)"),
    _moments("pivots not brought together: squares", MERGE, "d * (2 * other_sum + other_n * d)", "d * (other_n * d)"),
    _moments("pivots not brought together: sum", MERGE, "sum += other_sum + other_n * d;", "sum += other_sum;", True),
    _moments("pivot 0", MERGE, "if (n == 0) pivot = other_pivot;", ""),
    _moments("half the tree", MERGE, "step = kMergeLanes; step > 1;", "step = kMergeLanes; step > 2;"),
    _moments("mean without its pivot", MERGE, "mine.pivot + shift;", "shift;"),
    _moments("last channels left out", MERGE, "ceil_div(p.channels, kWarp * V)", "p.channels / (kWarp * V)"),
    _moments("alignment of rows not looked at", KERNEL, " && fits(at.grid.row_stride)", ""),
    _moments("alignment of the first element not looked at", KERNEL,
             "reinterpret_cast<unsigned long long>(at.buffer.data) % (4 * sizeof(T)) == 0", "true"),
    # contrastive_bound: statistics
    _bound("no barrier in the tree of norms", PREPARE, "sums[t + step];\n    __syncthreads();", "sums[t + step];"),
    _bound("no barrier before the tree", PREPARE, "  sums[t] = value;\n  __syncthreads();", "  sums[t] = value;"),
    _bound("no barrier after the tree", PREPARE, "sums[0];\n  __syncthreads();", "sums[0];"),
    _bound("covariance scaled as the mean", PREPARE, "scale[1] = inverse_norm<Acc>(p.covariance,",
           "scale[1] = inverse_norm<Acc>(p.mean,"),
    _bound("covariance twice too large", PREPARE, "s / (2 * p.temperature * p.temperature)",
           "s / (p.temperature * p.temperature)", True),
    _bound("float64 statistics read as float32", PREPARE, "wide ? doubles[i]", "wide ? floats[i]"),
    _bound("statistics taken as dense", PREPARE, "+ c * channel_stride", "+ c"),
    _bound("length 0 divides", PREPARE, "squares > 0 ? ", "squares >= 0 ? "),
    # contrastive_bound: forward
    _bound("no barrier before staging", FORWARD,
           "      __syncthreads();  // offsets are there; the step before is used up\n", "", True),
    _bound("no barrier after staging", FORWARD, "(in, tile, c0, width, k0);\n      __syncthreads();",
           "(in, tile, c0, width, k0);"),
    _bound("one pixel too many", FORWARD, "first + p < in.pixels ?", "first + p <= in.pixels ?"),
    _bound("one channel too many", FORWARD, "if (c >= width) continue;", "if (c > width) continue;"),
    _bound("own class of the wrong tile", FORWARD, "if (k0 + k == label)", "if (k == label)"),
    _bound("own logit with covariance", FORWARD, "own = first;", "own = first + two[k] * inverse * inverse;"),
    _bound("normalised once only", FORWARD, "first + two[k] * inverse * inverse;", "first + two[k] * inverse;"),
    _bound("sum not brought to the new maximum", FORWARD, "    total *= exponential(largest - next);\n", ""),
    _bound("padding counts as classes", FORWARD, "if (k0 + k < classes) total +=", "total +="),
    _bound("ignored pixels have a loss", FORWARD, "label[i] < 0 ? Acc(0) : ", "", True),
    _bound("pixels beyond the last are written", FORWARD, "if (pixel >= in.pixels) continue;\n    // The", "// The"),
    _bound("norm of the last channel", FORWARD, "squares[i] += square[i];", "squares[i] = square[i];"),
    _bound("wrong pixel", FORWARD, "c * kPitch + threadIdx.x + i * kThreads", "c * kPitch + threadIdx.x * kOwn + i"),
    _bound("sums not cleared", FORWARD, "    sums.clear();\n", "    if (k0 == 0) sums.clear();\n"),
    _bound("softmax not divided", FORWARD, "exponential(sums.one[i][k] - largest) * share",
           "exponential(sums.one[i][k] - largest)"),
    _bound("wrong class of the tile", FORWARD, "* in.padded + k0 + i % classes", "* in.padded + i % classes"),
    # contrastive_bound: backward
    _bound("no barrier before the arrays", BACKWARD, "        __syncthreads();  // the arrays are free\n", "", True),
    _bound("no barrier after the arrays", BACKWARD, "c0, k0, count);\n        __syncthreads();", "c0, k0, count);"),
    _bound("no barrier before the norms", BACKWARD, "    __syncthreads();  // the class arrays are used up\n", ""),
    _bound("no barrier after the norms", BACKWARD, "= at[part][i];\n    __syncthreads();", "= at[part][i];"),
    _bound("own class of the wrong step", BACKWARD, "own == k0 + k ?", "own == k ?"),
    _bound("weights of the last step", BACKWARD, "c0 == 0 || classes > b.step", "c0 == 0"),
    _bound("channels beyond the last", BACKWARD, "inside ? b.in.means[from] : Acc(0)", "b.in.means[from]"),
    _bound("half of the covariance", BACKWARD, "(slopes.one[i][j] + 2 * inverse", "(slopes.one[i][j] + inverse"),
    _bound("the part along q stays", BACKWARD, " - q[j] * along)", ")", True),
    _bound("norm left out of the part along q", BACKWARD, "sum[1] + 2 * inverse * sum[2]", "sum[1] + 2 * sum[2]"),
    _bound("pixels beyond the last", BACKWARD, "if (offset < 0) continue;", ""),
    _bound("channels written beyond the last", BACKWARD, "if (c + j < b.in.channels) b.slope", "b.slope"),
    _bound("last channel only", BACKWARD, "at[1][i] += q[j]", "at[1][i] = q[j]"),
    _bound("strides of the features for the gradient", BACKWARD, "(c + j) * b.slope_channel_stride",
           "(c + j) * b.in.channel_stride"),
    _bound("posterior of the first step", BACKWARD, "classes + k0 + k]", "classes + k]"),
    _bound("gradient taken as dense", BACKWARD, "b.grad[locate(b.grad_grid, pixel)]", "b.grad[pixel]"),
    _bound("incoming gradient left out", BACKWARD, "tile.upstream[p] * inverse", "inverse"),
    _bound("bf16 cut off instead of rounded", KERNEL, "bits + 0x7fffu + (bits >> 16 & 1u)", "bits"),
    _bound("alignment of rows not looked at", KERNEL, " && fits(at.grid.row_stride)", ""),
    _bound("alignment of the first element not looked at", KERNEL,
           "reinterpret_cast<unsigned long long>(at.buffer.data) % (4 * sizeof(T)) == 0", "true"),
]  # fmt: skip
