"""The generated part of docs that compares the methods: what each gains, and what it costs in time and memory."""

from __future__ import annotations

from statistics import mean

import _forecasts
import _results

RECORDS = _results.RESULTS / "train_cpu.json"
TASKS = {"streets": "`streets`", "carla_camvid": "T1", "day_dusk": "T3"}
TIMED = "carla_camvid"  # all methods ran it on one thread, and their processor time was recorded


def gains(records: list[dict], first: str = "target_statistics") -> dict[str, dict[str, float]]:
    """{method: {task: points of mIoU that ``adapted`` has above the row ``first``, the mean of the seeds}}."""
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        scores = {row["name"]: 100 * row["miou"] for row in record["rows"]}
        if "adapted" in scores and first in scores:
            seeds = found.setdefault(record["method"], {}).setdefault(record["task"], [])
            seeds.append(scores["adapted"] - scores[first])
    return {method: {task: mean(seeds) for task, seeds in tasks.items()} for method, tasks in found.items()}


def minutes(records: list[dict], task: str) -> dict[str, float]:
    """{method: minutes of processor time of one run, the mean of the seeds}; runs on several threads are left out."""
    found: dict[str, list[float]] = {}
    for record in records:
        if record["task"] == task and record["threads"] == 1 and record.get("cpu_seconds"):
            found.setdefault(record["method"], []).append(record["cpu_seconds"] / 60)
    return {method: mean(seeds) for method, seeds in found.items()}


def part() -> str:
    """A table, a line a method: points gained on each task, minutes of a run, memory on CPU and GPU."""
    records = _results.read(RECORDS)
    if not records:
        return "Not measured yet."
    points, time = gains(records), minutes(records, TIMED)
    peak = {
        record["method"]: record["peak_mib"]
        for record in _results.read(_forecasts.STEPS)
        if record["form"] == "ours" and _forecasts.precision(record) == "bf16"
    }
    cards = {
        record["method"]: record["card_mib"] / 1024
        for record in _results.read(_forecasts.FORECASTS)
        if record["form"] == "ours" and record["settings"] == "memory 8g"
    }
    rows = []
    for method, tasks in points.items():
        cells = [f"{tasks[task]:+.1f}" if task in tasks else "–" for task in TASKS]
        cells.append(f"{time[method]:.0f}" if method in time else "–")
        cells.append(f"{peak[method]}" if method in peak else "–")
        cells.append(f"{cards[method]:.1f}" if method in cards else "–")
        rows.append([f"`{method}`", *cells])
    header = ["method", *(f"gain on {name}" for name in TASKS.values())]
    header += ["minutes on T1", "MiB of a step, CPU", "GiB with `--memory 8g`"]
    note = (
        "*Gain*: points of mIoU above the source-only network with the target's batch-norm statistics, the mean of the "
        "seeds. *Minutes*: processor time of a whole run with its warm-up on one thread. *MiB*: peak of one step of "
        "the main stage on the CPU, ResNet-101, bf16, one image of each domain. *GiB*: forecast of what a GPU needs, "
        "not measured yet."
    )
    return f"{_results.table(header, rows)}\n\n{note}"
