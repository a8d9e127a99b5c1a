"""The generated part of docs on the papers' ablations, from benchmarks/results/ablations_cpu.json."""

from __future__ import annotations

import json

import _results

RECORDS = _results.RESULTS / "ablations_cpu.json"
TASKS = {"streets": "`streets`", "carla_camvid": "T1 `carla_camvid`"}
TITLES = {
    "sisc": ("MLSL: labels from independent patches, not one look", "accuracy of the labels, same coverage"),
    "balance": ("labels by CBST's p_c / k_c, not by plain confidence (DRSL, one round)", "mIoU of the rarest third"),
    "modes": ("DRSL: three modes a class, not one", "mIoU"),
    "levels": ("SDCA: features and outputs, not features alone", "mIoU before self-training"),
    "moving": ("SPCL: moving prototypes, not fixed ones", "mIoU before self-training"),
    "self_training_sdca": ("SDCA: self-training after the alignment, not the alignment alone", "mIoU"),
    "self_training_spcl": ("SPCL: self-training after the contrast, not the contrast alone", "mIoU"),
}
MISSING = "not run yet"


def summary(records: list[dict], name: str) -> dict:
    """An ablation's mean difference on each task in points, their mean, its sign, and the number of runs that gain."""
    runs = [record for record in records if record["ablation"] == name]
    tasks = {task: [100 * r["difference"] for r in runs if r["task"] == task] for task in TASKS}
    means = {task: sum(found) / len(found) for task, found in tasks.items() if found}
    mean = sum(means.values()) / len(means)
    return {
        "tasks": {task: round(value, 3) for task, value in means.items()},
        "mean": round(mean, 3),
        "sign": "+" if mean > 0 else "-" if mean < 0 else "0",
        "runs": len(runs),
        "runs_above": sum(r["difference"] > 0 for r in runs),
        "seeds": sorted({r["seed"] for r in runs}),
    }


def part() -> str:
    """A table: by how many points a paper's proposal gains over what it is compared with."""
    content = json.loads(RECORDS.read_text()) if RECORDS.exists() else {"signs": {}}
    rows = []
    for name, (title, measure) in TITLES.items():
        found = content["signs"].get(name)
        if found is None:
            cells = [MISSING] * len(TASKS) + ["", ""]
        else:
            cells = [f"{found['tasks'][task]:+.1f}" if task in found["tasks"] else MISSING for task in TASKS]
            cells += [f"{found['mean']:+.1f}", f"{found['runs_above']} of {found['runs']} runs"]
        rows.append([title, measure, *cells])
    note = "Points that the first gains over the second, a task's mean over its seeds; below 0 it loses here."
    if "machine" in content:
        note += f" Measured on {content['machine']}; commands and seeds in `benchmarks/results/{RECORDS.name}`."
    header = ["what is compared", "measured by", *TASKS.values(), "mean", "better in"]
    return f"{_results.table(header, rows)}\n\n{note}"
