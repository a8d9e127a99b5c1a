"""Train the small tasks with every method and record the results.

    python benchmarks/train/run.py --tasks carla_camvid day_dusk --methods sdca spcl --seeds 0 1 \\
        --output benchmarks/results/train_cpu.json

A run gives one row of scores for each stage: source (the source alone), target_statistics (the control), its own
stages, adapted; the method oracle trains the same network and schedule on labelled target images.  One run at a time: a
record holds its time, its number of threads, and the command that repeats it.  Methods with the same warm-up share one
(warm_up.py); its time counts in each of them.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

import records
from warm_up import SHARED, children_seconds, python, share

from fastuda.methods import METHODS

# Every method trains "source" as its warm-up; the upper bound comes last.
RUN = [*(name for name, method in METHODS.items() if method.section), "oracle"]
TASKS = ("streets", "carla_camvid", "day_dusk")


def run(arguments: list[str], threads: int) -> dict:
    """One training run in a process of its own; its result.json."""
    work_dir = Path(arguments[arguments.index("--work-dir") + 1])
    if not (work_dir / "result.json").exists():
        resume = ["--work-dir", str(work_dir), "--resume"] if (work_dir / "checkpoint.pt").exists() else arguments
        python(["-m", "fastuda.train", *resume], threads)
    return json.loads((work_dir / "result.json").read_text())


def record(task: str, method: str, seed: int, work: Path, threads: int) -> dict:
    """The JSON record of a run."""
    shown = ["--task", task, "--method", method, "--seed", str(seed), "--amp"]
    before, earlier = children_seconds(), 0.0
    arguments = [*shown, "--work-dir", str(work / f"{task}-{seed}-{method}")]
    if alike := SHARED.get(method, method if method in SHARED.values() else ""):
        warm = work / f"{task}-{seed}-{alike}-warm_up"
        plain = ["--task", task, "--method", alike, "--seed", str(seed), "--amp", "--work-dir", str(warm)]
        earlier = share(plain, arguments, threads)
    result = run(arguments, threads)
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "rows": result["stages"],
        "seconds": result["seconds"],
        "cpu_seconds": round(children_seconds() - before + earlier, 1),
        "peak_mib": result["peak_mib"],
        "command": " ".join(["python -m fastuda.train", *shown]),
        "threads": threads,
        "machine": machine(),
    }


def machine() -> str:
    """The processor's name and torch's version."""
    import torch

    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        name = next((x.split(":")[1].strip() for x in information.read_text().splitlines() if "model name" in x), name)
    return f"{name}, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--methods", nargs="+", default=RUN, choices=RUN)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="directory of the runs")
    parser.add_argument("--output", type=records.output, required=True, help="JSON file; records of other runs stay")
    options = parser.parse_args()
    for seed in options.seeds:
        for task in options.tasks:
            for method in options.methods:
                keep(options.output, record(task, method, seed, options.work, options.threads))


def keep(path: Path, new: dict) -> None:
    """Put a record into the file in place of an earlier one of the same run."""

    def order(item: dict) -> tuple[int, int, int]:
        return TASKS.index(item["task"]), RUN.index(item["method"]), item["seed"]

    records.keep(path, new, ("task", "method", "seed"), order)


if __name__ == "__main__":
    main()
