"""Do several processes learn what one does?  ``python benchmarks/train/ranks.py [--ranks 2] [--methods sdca ...]``.

Each method runs a few iterations of every stage on the embedded default task, once in one process and once under
torchrun with the same global batch.  Printed are the largest relative difference of a logged loss and the difference of
mIoU after each stage.  Ends with status 1 where a loss differs by more than ``--bound``.

The default takes small steps of plain SGD, so that results differ by rounding alone, and by the decisions that rounding
changes.  ``--own-steps`` takes the task's optimiser: AdamW divides a first gradient by its own magnitude, which turns
rounding into steps of full length, and confidences may cross a threshold.  The bound is then no smaller than the
difference of two runs that sum in different orders.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import records
import yaml

from fastuda.methods import METHODS

BOUND, BOUND_OWN_STEPS = 1e-5, 0.2
# Rounding also changes decisions: on which side of a threshold a confidence lies, which mode or partner is nearest.
BOUNDS = {name: 1e-4 for name, method in METHODS.items() if method.section} | {"drsl+": 1e-2}


def small_task(iterations: int, own_steps: bool = True) -> dict:
    """The embedded default task with few images and iterations, and small steps on request."""
    import fastuda

    task = yaml.safe_load((Path(fastuda.__file__).parent / "configs/tasks/streets.yaml").read_text())

    def shorten(node: dict) -> None:
        for key, value in node.items():
            if key in ("schedule", "distillation") and isinstance(value, dict):
                value |= {"iterations": iterations, "ramp": 0, "batch": 6}  # 2 and 3 divide it
                value |= {} if own_steps else {"learning_rate": 1e-4}
            elif isinstance(value, dict):
                shorten(value)

    shorten(task)
    if not own_steps:
        task["optimiser"] = {"name": "sgd", "momentum": 0.0}
    for name, count in (("source", 24), ("target", 24), ("validation", 8)):
        task["data"][name] |= {"count": count, "size": [48, 96]}
    task["mlsl"] |= {"rounds": 1, "patches": 2, "patch": [32, 48]}
    task["drsl"]["rounds"] = 1
    return task | {"log_every": 1, "predictions": 1}


def run(ranks: int, work_dir: Path, task: Path, *arguments: str) -> None:
    """One run with one thread in each process; CalledProcessError where it fails."""
    launch = ["-m", "fastuda.train"]
    if ranks > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *launch]
    command = [sys.executable, *launch, "--task", str(task), "--work-dir", str(work_dir), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=environment)


def losses(work_dir: Path) -> dict[tuple[str, int, str], float]:
    """(stage, iteration, loss) → value, of log.jsonl."""
    lines = map(json.loads, (work_dir / "log.jsonl").read_text().splitlines())
    return {
        (line["stage"], line["iteration"], name): line[name]
        for line in lines
        if line["event"] == "train"
        for name in line
        if name.startswith("loss")
    }


def difference(one: Path, several: Path) -> tuple[float, str]:
    """The largest relative difference of a loss, and that loss's name."""
    expected, found = losses(one), losses(several)
    if expected.keys() != found.keys():
        raise ValueError(f"{several} logged other losses than {one}")
    differ = {key: abs(found[key] - value) / max(abs(value), 1e-6) for key, value in expected.items()}
    worst = max(differ, key=differ.get)
    return differ[worst], " ".join(map(str, worst))


def scores(work_dir: Path) -> list[float]:
    return [row["miou"] for row in json.loads((work_dir / "result.json").read_text())["stages"]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--iterations", type=int, default=8, help="of every stage")
    parser.add_argument("--own-steps", action="store_true", help="the task's own optimiser and learning rates")
    parser.add_argument("--bound", type=float, help="default: BOUND or BOUNDS, with --own-steps BOUND_OWN_STEPS")
    parser.add_argument("--output", type=records.output, help="put the records into this JSON list")
    options = parser.parse_args()
    within = True
    for method in options.methods:
        with tempfile.TemporaryDirectory() as directory:
            task, one, several = (Path(directory) / name for name in ("task.yaml", "one", "several"))
            task.write_text(yaml.safe_dump(small_task(options.iterations, options.own_steps)))
            for ranks, work_dir in ((1, one), (options.ranks, several)):
                run(ranks, work_dir, task, "--method", method)
            worst, where = difference(one, several)
            apart = [round(100 * (b - a), 3) for a, b in zip(scores(one), scores(several), strict=True)]
        within &= worst <= (options.bound or (BOUND_OWN_STEPS if options.own_steps else BOUNDS.get(method, BOUND)))
        record = {"method": method, "ranks": options.ranks, "iterations": options.iterations,
                  "own_steps": options.own_steps, "loss": worst,
                  "where": where, "miou_points": apart}  # fmt: skip
        if options.output:
            records.keep(options.output, record, ("method", "ranks", "own_steps"))
        print(f"{method:7} losses within {worst:.1e} ({where}), mIoU points {apart}", flush=True)
    return int(not within)


if __name__ == "__main__":
    sys.exit(main())
