"""The C++ operators' own tests under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/cpu/sanitize.py                 builds csrc/cpu into a temporary folder and runs the tests below
    python tests/cpu/sanitize.py --plant NAME    proof: a planted "read" beyond the labels or "overflow" is reported

Exit status 0: every test passed and nothing was reported. Any report ends the process at once, with its own text.
The library is built for one instruction set (--isa, else the best here): its loops are the same for all of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(p) for p in (HERE.parent, ROOT) if str(p) not in sys.path]

from cpu import build  # noqa: E402
from mutants.planted import Fault, mutate  # noqa: E402

SANITIZE = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
# File of csrc/cpu -> its tests: small shapes with every layout, dtype and edge; not what times, compiles, counts
# frequencies or starts processes.
TESTS = {
    "class_moments": {
        "class_moments": "layouts_and_dtypes or ugly_shapes or no_valid or out_of_range or ignored_features or missing "
        "or (classes_and_channels and 19)",
        "class_moments_full": "every_block or every_length or layouts_and_dtypes or ignored_features",
    },
    "contrastive_bound": {
        "contrastive_bound_cpu": "(tile_edges and sliced) or (every_block_of_classes and last) or half_precision "
        "or lower_triangle or (tile_edges and channel_slice)",
    },
    "sinkhorn": {
        "sinkhorn": "(formula and not 67584) or stated_rounds or share or any_spread or wider or layout "
        "or current_rows or of_a_batch or float32_is_left or not_finite or nan_filled",
    },
    "mode_losses": {"mode_losses": "tile_edges or (every_block and 23) or half_precision or strides"},
    "select_triplets": {"select_triplets": "partners and not likely or reproducible or misread"},
    "class_balanced_sample": {
        "class_balanced_sample": "shares or more_than or per_class and not likely or never_drawn or layouts or exact "
        "or misread",
    },
    "triplet_consistency_loss": {
        "triplet_consistency_loss": "layouts or wild_rows or outside or of_the_definition and not float64",
    },
    "upsample_cross_entropy": {
        "upsample_cross_entropy": "(layouts and label_dtype0) or ugly_sizes or edges or strides or ignored_scores",
    },
    "lovasz_softmax": {"lovasz_softmax": "(layouts and label_dtype0) or ugly_sizes or edges or ties or ignored_scores"},
    "pseudo_labels": {
        "pseudo_labels": "every_size or (layouts and dtype0) or number_of_classes or ugly or nan or images",
    },
    "confidence_histogram": {"confidence_histogram": "every_size or number_of_bins or uniform or nan"},
    "prototype_rectify": {"prototype_rectify": "(every_size and other0) or dtypes_and_layouts or without or nan"},
    "aggregate_patches": {"aggregate_patches": "wherever or any_size or many_patches or nan or images"},
    "class_thresholds": {
        "class_thresholds": "layouts or every_length or infinities or does_not_count or many_pixels or numbers_of",
    },
    "confusion_matrix": {"confusion_matrix": "layouts or every_length or out_of_range or numbers_of or dtypes"},
    "pixel_mean": {"pixel_mean": "exact_sums or every_length or layouts or exactly_zero"},
    "softmax_kl": {
        "softmax_kl": "both_gradients or (every_number and (17 or 2)) or do_not_count or any_strides or any_size",
    },
}
LABEL = "read(i, static_cast<Wide>(from[i]));"
# What replaces that line of pixels.h, and the report that it must cause.
PLANTED = {
    "read": ("read(i, static_cast<Wide>(from[i + 1]));", "heap-buffer-overflow"),
    "overflow": ("read(i, static_cast<Wide>(from[i])), out[i] += none * 1000000000;", "signed integer overflow"),
}

PROGRAM = """
import sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
import fastuda.ops
for library in {libraries!r}:
    torch.ops.load_library(library)
if {planted!r}:
    for size in (64, 67):
        torch.ops.fastuda.class_moments(torch.zeros(size, 8), torch.zeros(size, dtype=torch.int32), 5, 255)
    sys.exit(0)
from cpu import checks
for operator in checks.CASES:
    if checks.held(operator) and (failed := checks.first_failed(operator)):
        sys.exit(f"{{operator}}: {{failed}}")
torch.use_deterministic_algorithms(False)
import pytest
for name, some in {tests!r}.items():
    # Capturing file descriptors as well would swallow a report.
    options = ["-q", "-x", "-p", "no:cacheprovider", "--capture=sys", "--import-mode=importlib", "-m", "", "-k", some]
    if status := pytest.main([*options, name]):
        sys.exit(status)
"""


def runtime() -> str | None:
    """What must be loaded before Python: g++'s libasan, and libstdc++, in which it looks for what throws.

    None where libasan is not installed.
    """
    if not build.have_compiler():
        return None
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    return " ".join(map(os.path.realpath, found)) if os.path.isabs(found[0]) else None


def run(operators: tuple[str, ...], isa: str, plant: str | None) -> int:
    """Builds, then runs the tests in a process a processor: 0 if all passed, or if a planted fault is reported."""
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "csrc"
        if plant:
            fault = Fault("class_moments", plant, "cpu/pixels.h", LABEL, PLANTED[plant][0])
            mutate(fault, ROOT / "csrc", Path(folder))
        else:
            shutil.copytree(ROOT / "csrc", sources)
        build.one_instruction_set(sources, isa, fewer_dtypes=bool(plant))
        processors = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(processors) as pool:
            targets = [Path(folder) / f"{name}.so" for name in operators]
            built = pool.map(lambda name, to: str(build.build(name, to, sources, SANITIZE)), operators, targets)
            libraries = dict(zip(operators, built, strict=True))
            shares = [share for first in range(processors) if (share := operators[first::processors])]
            done = list(pool.map(lambda share: child({name: libraries[name] for name in share}, bool(plant)), shares))
    if not plant:
        for process in done:
            print(process.stdout, process.stderr, sep="", flush=True)
        return max(abs(process.returncode) for process in done)
    (process,) = done
    reported = process.returncode != 0 and PLANTED[plant][1] in process.stderr
    print(f"planted {plant}: {'reported' if reported else 'NOT reported: ' + process.stderr[-2000:]}")
    return 0 if reported else 1


def child(libraries: dict[str, str], plant: bool) -> subprocess.CompletedProcess:
    """A process of its own that runs the tests of the operators that some libraries hold."""
    program = PROGRAM.format(
        paths=[str(HERE.parent), str(ROOT)],
        libraries=list(libraries.values()),
        planted=plant,
        tests={
            str(ROOT / f"tests/ops/test_{name}.py"): some
            for operator in libraries
            for name, some in TESTS[operator].items()
        },
    )
    options = {
        "LD_PRELOAD": runtime(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
        "FASTUDA_BACKEND": "reference",
        "FASTUDA_ALLOW_UNBUILT": "",
    }
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env=os.environ | options, cwd=ROOT, capture_output=True, text=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", choices=("portable", "avx2", "avx512"), default=build.instruction_set())
    parser.add_argument("--plant", choices=tuple(PLANTED), help="expect this fault to be reported")
    parser.add_argument("operators", nargs="*", default=tuple(TESTS), help="files of csrc/cpu")
    options = parser.parse_args()
    if runtime() is None:
        print("g++ has no AddressSanitizer here", file=sys.stderr)
        return 2
    return run(("class_moments",) if options.plant else tuple(options.operators), options.isa, options.plant)


if __name__ == "__main__":
    sys.exit(main())
