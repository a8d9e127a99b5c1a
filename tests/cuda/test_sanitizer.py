"""The kernels with plain pointers under AddressSanitizer and UBSan, without the emulation's own checks."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import emulated
import needed
import pytest

HERE = Path(__file__).resolve().parent
FLAGS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-DFASTUDA_EMULATION_RAW", "-g1")
# Names of cases: each layout, partial tiles, tables in shared and in global memory, several tiles.
CASES = {
    "class_moments": ["float32, uint8, nchw", "bfloat16, uint8, rows", "odd_start", "four channels a lane, float16",
                      "300 classes", "shape (3, 5, 127, 1), rows", "shape (1, 1, 1, 1)"],
    "class_moments_full": ["float32, uint8, nchw", "70 channels, rows", "196 channels, nchw, bfloat16", "many panels",
                           "float16, uint8, channels_last", "odd_start", "groups of 4"],
    "contrastive_bound": ["float32, channels_last, covariance, normalised", "bfloat16, wide_rows, covariance",
                          "50 classes, 70 channels", "65 channels, nchw", "129 pixels", "odd_rows", "strided"],
    "contrastive_bound_full": ["float32, channels_last, normalised", "float16, rows, normalised",
                               "bfloat16, wide_rows, normalised", "193 channels, normalised True", "129 pixels",
                               "groups of 64 pixels, nchw", "strided"],
    "sinkhorn": ["float16, shares float64, strided", "513 rows", "40 classes, transposed", "8 rows kept, blocks meet",
                 "rows not kept, 33 classes", "257 classes", "steps, one problem wide"],
    "mode_losses": ["float16, uint8, sliced", "double modes, nchw", "65 channels, rows", "129 pixels",
                    "tiles, rows, bfloat16"],
    "select_triplets": ["0 and 7 rows", "33 and 257 rows", "2049 source rows", "thousands of buckets", "strided"],
    "triplet_consistency_loss": ["both odd, 13 channels", "both uneven, 13 channels", "source padded", "129 channels",
                                 "bfloat16, 8 channels, padded and padded", "one source row, odd, float16", "full runs",
                                 "0 source rows", "skewed", "partners that are no rows"],
    "class_balanced_sample": ["uint8, gaps", "int64, transposed", "no valid pixel", "5000 wanted", "1025 pixels",
                              "41 classes", "7 images", "a tie in different tiles", "short blocks"],
    "softmax_kl": ["float16, inside", "bfloat16, rows", "21 classes, symmetric False", "65 pixels",
                   "one mask for all", "channels_last and turned"],
    "class_thresholds": ["inside, float32, int32", "expanded, bfloat16, int32", "23 classes, any", "2049 pixels",
                         "0 pixels", "many blocks"],
    "upsample_cross_entropy": ["float16, inside_nan", "bfloat16, transposed",
                               "fewer pixels than nodes, align_corners True",
                               "more columns in a cell than threads, align_corners False",
                               "one row, align_corners True", "parts of the rows, align_corners False",
                               "many nodes and few columns, align_corners True",
                               "weights float32 and float64, smoothing 0.2", "9 classes",
                               "shape (2, 4, 3, 3) to (0, 6)"],
    "lovasz_softmax": ["float16, inside_nan", "several tiles, align_corners False", "as many bins as fit", "257 bins",
                       "one bin more", "few blocks", "9 classes", "many nodes and few columns, align_corners False",
                       "exact, 2049 pixels", "exact, groups of one class", "exact, float16, channels_last"],
    "confusion_matrix": ["uint8, int64, row of columns, inside", "1025 pixels", "shift 1, uint8", "19 classes",
                         "157 classes", "many tiles of a block"],
    "pixel_mean": ["float32, uint8, 2 losses", "float64, int64, 1 losses", "inside, 0", "257 pixels", "0 pixels",
                   "rows, 0", "more stretches than blocks"],
    "aggregate_patches": ["corners, align True, full (5, 9)", "float16, class_slice", "97 classes", "several rounds",
                          "counts do not fit"],
}  # fmt: skip

pytestmark = pytest.mark.slow

PROGRAM = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import emulated, all_cases
libraries = {{name: emulated.load(path) for name, path in {built!r}.items()}}
if sys.argv[1] == "cases":
    for operator, names in {names!r}.items():
        for name in names:
            all_cases.CASES[operator][name](libraries[operator])
else:  # features that end one element before their last pixel does
    def short(tensor, channels, array=emulated.array):
        result = array(tensor, channels)
        result.bytes -= 4 * channels
        return result
    emulated.array = short
    library = libraries["class_moments"]
    emulated.class_moments(library, torch.zeros(64, 8), torch.zeros(64, dtype=torch.uint8), 3)
print("done")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    needed.tool(emulated.have_compiler(), "g++")
    runtime = subprocess.run(["g++", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    needed.tool(os.path.isabs(runtime), "g++'s AddressSanitizer")
    folder = tmp_path_factory.mktemp("sanitized")

    def build(name: str) -> str:
        return str(emulated.build(name, folder / f"{name}.so", flags=FLAGS))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        built = dict(zip(CASES, pool.map(build, CASES), strict=True))
    paths = [str(p) for p in (HERE, HERE.parent, emulated.ROOT)]
    program = PROGRAM.format(paths=paths, built=built, names=CASES)
    options = {"LD_PRELOAD": os.path.realpath(runtime), "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "1"}

    def call(what: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", program, what]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ | options)

    return call


def test_kernels_touch_nothing_else(run):
    done = run("cases")
    assert done.returncode == 0 and done.stdout == "done\n", (done.stdout + done.stderr)[-3000:]


def test_a_planted_access_is_found(run):
    done = run("planted")
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[-3000:]
