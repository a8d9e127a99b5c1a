"""The papers' ablations on the small tasks: does each part help, and by how much?

    python benchmarks/train/ablations.py --tasks streets carla_camvid --seeds 0 1 \\
        --output benchmarks/results/ablations_cpu.json

Every variant is a run of fastuda.train in a process of its own; the record holds its command.  A variant whose
directory holds a result is not run again; if that result is of other settings, it is an error.  Runs with the same
warm-up start from one checkpoint of it (warm_up.py); their results equal those of the command to the bit.

sisc                MLSL's labels from patches or from the whole image, at one coverage; the labels alone are scored
balance             the share p of each class is labelled, or the same number of pixels whatever their class; one
                    round of DRSL
modes               DRSL with three modes a class, or one
levels              SDCA on features and outputs, or on features alone
moving              SPCL with moving prototypes, or fixed ones
self_training_*     a run's result, or its row before self-training
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import records
import torch
from label_quality import coverage, label_quality
from run import machine, run
from warm_up import SHARED, share

from fastuda.data.build import build_dataset
from fastuda.data.classes import class_set
from fastuda.data.strict import load_yaml
from fastuda.methods import METHODS, find_method
from fastuda.train.checkpoint import write_json
from fastuda.train.config import difference, parse, task_config, to_dict

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _ablations import TASKS, TITLES, summary  # noqa: E402


@dataclass(frozen=True)
class Variant:
    """A run of a method and the row that is compared; ``name`` names its directory.

    warm_up: whether it shares the method's warm-up; False where one of its options affects the warm-up.
    """

    name: str
    method: str
    options: tuple[str, ...] = ()
    row: str = "adapted"
    warm_up: bool = True


@dataclass(frozen=True)
class Place:
    """What all runs share: a task, a seed, a directory and a number of threads."""

    task: str
    seed: int
    work: Path
    threads: int

    def directory(self, name: str) -> Path:
        return self.work / f"{self.task}-{self.seed}-{name}"

    def arguments(self, variant: Variant) -> list[str]:
        return ["--task", self.task, "--method", variant.method, "--seed", str(self.seed), "--amp", *variant.options]


ALIGNED = ("--sdca.self-training.rounds", "0"), ("--spcl.self-training.rounds", "0")
LABELS = ("--mlsl.rounds", "1", "--mlsl.schedule.iterations", "0")
SDCA, SPCL = Variant("sdca", "sdca"), Variant("spcl", "spcl")
VARIANTS = {
    "sisc": (
        Variant("mlsl_patches", "mlsl", LABELS),
        Variant("mlsl_whole", "mlsl", (*LABELS, "--mlsl.patches", "0", "--mlsl.whole-image")),
    ),
    "balance": (
        Variant("drsl_balanced", "drsl", ("--drsl.rounds", "1")),
        Variant("drsl_plain", "drsl", ("--drsl.rounds", "1", "--drsl.no-balanced")),
    ),
    "modes": (Variant("drsl", "drsl"), Variant("drsl_one_mode", "drsl", ("--drsl.modes", "1"), warm_up=False)),
    "levels": (
        Variant("sdca", "sdca", row="aligned"),
        Variant("sdca_features", "sdca", ("--sdca.outputs", "0", *ALIGNED[0])),
    ),
    "moving": (
        Variant("spcl", "spcl", row="aligned"),
        Variant("spcl_fixed", "spcl", ("--spcl.momentum", "1", *ALIGNED[1])),
    ),
    "self_training_sdca": (SDCA, Variant("sdca", "sdca", row="aligned")),
    "self_training_spcl": (SPCL, Variant("spcl", "spcl", row="aligned")),
}


def train(place: Place, variant: Variant) -> dict:
    """The result.json of a variant, run from the method's warm-up unless it is there already."""
    work_dir = place.directory(variant.name)
    arguments = [*place.arguments(variant), "--work-dir", str(work_dir)]
    check_same(work_dir, arguments)
    if variant.warm_up:
        method = SHARED.get(variant.method, variant.method)
        warm = place.directory(f"{method}-warm_up")
        share([*place.arguments(Variant("", method)), "--work-dir", str(warm)], arguments, place.threads)
    return run(arguments, place.threads)


def check_same(work_dir: Path, arguments: list[str]) -> None:
    """Raise ValueError where a directory holds a run of other settings than its command has today."""
    if (work_dir / "config.yaml").exists():
        config = parse(arguments)
        others = {found.section for found in METHODS.values()} - {find_method(config.method).section}
        held, now = load_yaml(work_dir / "config.yaml"), to_dict(config)
        if name := difference(*({k: v for k, v in d.items() if k not in others} for d in (held, now))):
            raise ValueError(f"{work_dir} holds another run than {' '.join(arguments)}, they differ in {name}")


def measured(place: Place, variant: Variant, score: Callable[[Path, dict], dict]) -> dict:
    """A variant's numbers, its command and its time."""
    result = train(place, variant)
    row = next(row for row in result["stages"] if row["name"] == variant.row)
    return {
        **score(place.directory(variant.name), row),
        "command": " ".join(["python -m fastuda.train", *place.arguments(variant)]),
        "row": variant.row,
        "seconds": result["seconds"],
    }


def mean_iou(work_dir: Path, row: dict) -> dict:
    return {"score": row["miou"]}


def labels(work_dir: Path, row: dict) -> dict:
    found = label_quality(work_dir)
    return {"score": found["accuracy"], **found}


def rare(classes: list[str]) -> Callable[[Path, dict], dict]:
    """The mean IoU of some classes; one that neither occurs nor is predicted does not count."""

    def score(work_dir: Path, row: dict) -> dict:
        found = {name: row["iou"][name] for name in classes if row["iou"][name] is not None}
        mean = sum(found.values()) / len(found)
        return {"score": mean, "miou": row["miou"], "iou": found, "coverage": coverage(work_dir)}

    return score


@cache
def rarest(task: str) -> list[str]:
    """The third of a task's classes with the fewest pixels in the validation truth, of those that occur there."""
    data = task_config(task).data
    classes = class_set(data.classes)
    dataset = build_dataset(data.validation, classes)
    truth = (torch.from_numpy(dataset.label(index)).flatten() for index in range(len(dataset)))
    counts = sum(torch.bincount(label, minlength=256)[: classes.num_classes] for label in truth)
    return third({name: int(n) for name, n in zip(classes.names, counts, strict=True)})


def third(counts: dict[str, int]) -> list[str]:
    """The third, rounded, of the names with the smallest counts above 0; at least one."""
    order = sorted((name for name in counts if counts[name]), key=counts.__getitem__)
    return order[: max(1, round(len(order) / 3))]


def record(place: Place, name: str) -> dict:
    """The JSON record of an ablation on a task with a seed."""
    having, without = VARIANTS[name]
    score = labels if name == "sisc" else rare(rarest(place.task)) if name == "balance" else mean_iou
    first = measured(place, having, score)
    if name == "balance":
        # The balanced rule labels more than the share p, so the plain rule is given the share that it came to.
        share = f"{first['coverage']:.4f}"
        without = Variant(without.name, without.method, (*without.options, "--drsl.portion", share))
    second = measured(place, without, score)
    return {
        "ablation": name,
        "task": place.task,
        "seed": place.seed,
        "having": first,
        "without": second,
        "difference": first["score"] - second["score"],
    }


def keep(path: Path, new: dict, threads: int) -> None:
    """Replace an earlier record of the same runs, and compute the signs again."""

    def order(item: dict) -> tuple[int, int, int]:
        return list(TITLES).index(item["ablation"]), list(TASKS).index(item["task"]), item["seed"]

    old = json.loads(path.read_text())["records"] if path.exists() else []
    found = sorted(records.merged(old, new, ("ablation", "task", "seed")), key=order)
    signs = {name: summary(found, name) for name in TITLES if any(r["ablation"] == name for r in found)}
    write_json(path, {"machine": machine(), "threads": threads, "signs": signs, "records": found})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--ablations", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/ablations"), help="directory of the runs")
    parser.add_argument("--output", type=records.output, required=True, help="JSON file; records of other runs stay")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in options.seeds:
        for task in options.tasks:
            place = Place(task, seed, options.work, options.threads)
            for name in options.ablations:
                keep(options.output, record(place, name), options.threads)


if __name__ == "__main__":
    main()
