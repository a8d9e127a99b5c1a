"""Planted faults in the CUDA C++ kernels of select_triplets; see tests/mutants/planted.py."""

# ruff: noqa: E501  a row is a line of the source

from mutants.planted import Fault

RADIX_SORT = "cuda/radix_sort.h"
BLOCK_SCAN = "cuda/block_scan.h"
RANDOM_DRAWS = "cuda/random_draws.h"
SOURCE = "cuda/select_triplets.cu"

FAULTS = [
    Fault("select_triplets", "counts not cleared", RADIX_SORT, "  $counts[threadIdx.x] = 0;\n", ""),
    Fault("select_triplets", "alike rows counted once", BLOCK_SCAN, "atomicAdd($counts + $at, __popc($alike));", "atomicAdd($counts + $at, 1);"),
    Fault("select_triplets", "tiles beyond the first 32 start again", RADIX_SORT, "$s.table[$at] = $before + $upto - $mine;", "$s.table[$at] = $upto - $mine;"),
    Fault("select_triplets", "votes of the lanes with a zero", RADIX_SORT, "$among &= $one ? $votes : ~$votes;", "$among &= $votes;"),
    Fault("select_triplets", "no barrier before the counts grow", RADIX_SORT, "    __syncwarp();\n    if ($inside && $rank == 0)", "    if ($inside && $rank == 0)", quick=True),
    Fault("select_triplets", "the bucket after", RADIX_SORT, "$keys[$middle] < $bucket) $low", "$keys[$middle] <= $bucket) $low"),
    Fault("select_triplets", "the same digit in every pass", RADIX_SORT, "$rows, $tiles, pass * $bits, $bits,", "$rows, $tiles, 0, $bits,"),
    Fault("select_triplets", "a bit of the keys too few", RADIX_SORT, "$buckets >> $all) ++$all", "$buckets >> ($all + 1)) ++$all"),
    Fault("select_triplets", "warps before left out", BLOCK_SCAN, "    if (w < $warp) $value += $sum;\n", ""),
    Fault("select_triplets", "no barrier between two scans", BLOCK_SCAN, "  __syncthreads();  // $the $sums $of $the $scan $before $have $been $read\n", ""),
    Fault("select_triplets", "one lane too few", BLOCK_SCAN, "if ($lane >= $step) $value", "if ($lane > $step) $value"),
    Fault("select_triplets", "seeds exchanged", "random_bits.h", "mix_bits($counter ^ $first) + ($second +", "mix_bits($counter ^ $second) + ($first +"),
    Fault("select_triplets", "one stream", "random_bits.h", "($second + $stream * 0x9E3779B9u)", "($second)"),
    Fault("select_triplets", "another shift", "random_bits.h", "(x ^ (x >> 15)) * 0x735A2D97u", "(x ^ (x >> 16)) * 0x735A2D97u"),
    Fault("select_triplets", "seed not strided", RANDOM_DRAWS, "$seed.at[$seed.stride]", "$seed.at[1]"),
    Fault("select_triplets", "modes beyond the last", SOURCE, "$m >= 0 && $m < $modes;", "$m >= 0;"),
    Fault("select_triplets", "classes beyond the last", SOURCE, "$k >= 0 && $k < $classes &&", "$k >= 0 &&"),
    Fault("select_triplets", "class begins with the mode", SOURCE, "$class_bucket = $bucket - $bucket % $modes", "$class_bucket = $bucket"),
]  # fmt: skip
