"""Train the small tasks with and without target labels and commit what came out.

    python benchmarks/train/run.py --tasks carla_camvid day_dusk --seeds 0 1 --output benchmarks/results/train_cpu.json

Each task is run twice a seed: adaptation (whose stages give the rows source, target_statistics, aligned and adapted)
and the oracle, the same network and schedule of supervised training on labelled target images.  One process at a time:
what is written says how long each run took, on how many threads, and with which command it is repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

TASKS = ("streets", "carla_camvid", "day_dusk")


def commands(task: str, seed: int, work: Path) -> dict[str, list[str]]:
    """Name -> arguments of ``python -m fastuda.train`` for the two runs of a task and seed."""
    return {
        method: ["--task", task, "--method", method, "--seed", str(seed), "--amp"]
        + ["--work-dir", str(work / f"{task}-{method}-{seed}")]
        for method in ("sdca", "oracle")
    }


def run(arguments: list[str], threads: int) -> dict:
    """One training run in a process of its own; its result.json."""
    work_dir = Path(arguments[arguments.index("--work-dir") + 1])
    if not (work_dir / "result.json").exists():
        resume = ["--work-dir", str(work_dir), "--resume"] if (work_dir / "checkpoint.pt").exists() else arguments
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        subprocess.run([sys.executable, "-m", "fastuda.train", *resume], check=True, env=environment)
    return json.loads((work_dir / "result.json").read_text())


def record(task: str, seed: int, work: Path, threads: int) -> dict:
    """The JSON record of a task and seed."""
    results = {name: run(arguments, threads) for name, arguments in commands(task, seed, work).items()}
    shown = {name: arguments[: arguments.index("--work-dir")] for name, arguments in commands(task, seed, work).items()}
    return {
        "task": task,
        "seed": seed,
        "rows": [row for result in results.values() for row in result["stages"]],
        "seconds": {name: result["seconds"] for name, result in results.items()},
        "peak_mib": {name: result["peak_mib"] for name, result in results.items()},
        "commands": {name: " ".join(["python -m fastuda.train", *arguments]) for name, arguments in shown.items()},
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
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="directory of the runs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; records of other tasks and seeds stay")
    options = parser.parse_args()
    records = json.loads(options.output.read_text()) if options.output.exists() else []
    for seed in options.seeds:
        for task in options.tasks:
            new = record(task, seed, options.work, options.threads)
            records = [r for r in records if (r["task"], r["seed"]) != (task, seed)] + [new]
            records.sort(key=lambda r: (TASKS.index(r["task"]), r["seed"]))
            options.output.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
