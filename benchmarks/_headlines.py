"""The generated part of README: three measured figures, of training, of the operators and of memory."""

from __future__ import annotations

from statistics import mean, median

import _forecasts
import _results

RECORDS = _results.RESULTS / "train_cpu.json"
METHOD, TASK = "sdca", "streets"


def training() -> str:
    """mIoU of the default method and task before and after adaptation, and of the oracle; the mean of the seeds."""
    records = [record for record in _results.read(RECORDS) if record["task"] == TASK]
    adapted_runs = [record for record in records if record["method"] == METHOD]
    oracle = [record for record in records if record["method"] == "oracle"]
    if not adapted_runs or not oracle:
        return "Adaptation: not measured yet."
    before, after = (_mean_score(adapted_runs, name) for name in ("source", "adapted"))
    most = _mean_score(oracle, "oracle")
    return (
        f"**{before:.1f} → {after:.1f} % mIoU** on the target by `--method {METHOD}` on `{TASK}`, the mean of "
        f"{len(adapted_runs)} seeds; trained on the target's own labels: {most:.1f} %."
    )


def _mean_score(records: list[dict], name: str) -> float:
    return mean(100 * row["miou"] for record in records for row in record["rows"] if row["name"] == name)


def operators() -> str:
    """How many times longer the field's usual formulation takes than our CPU kernels, over all committed cases."""
    times: dict[tuple, dict[str, float]] = {}
    for row in _results.load(_results.RESULTS):
        if row["device_type"] == "cpu" and row["threads"] == 1 and not _results.is_uncommitted(row["commit"]):
            case = (row["operator"], row["case"], row["direction"])
            times.setdefault(case, {})[row["provider"]] = row["ms"]
    ratios = {case: ms["usual"] / ms["cpu"] for case, ms in times.items() if {"usual", "cpu"} <= ms.keys()}
    if not ratios:
        return "Operators: not measured yet."
    names = sorted({operator for operator, _, _ in ratios})
    shown = f"`{names[0]}`" if len(names) == 1 else f"{len(names)} operators"
    return (
        f"**{median(ratios.values()):.0f}x faster** than the field's usual PyTorch code on one CPU thread: the median "
        f"of {len(ratios)} cases of {shown} ({min(ratios.values()):.1f}x to {max(ratios.values()):.1f}x)."
    )


def memory() -> str:
    """Peak memory of one SDCA step at the paper's sizes, beside that with statistics as they are usually written."""
    found = {
        record["form"]: record["peak_mib"] / 1024
        for record in _results.read(_forecasts.STEPS)
        if record["method"] == "sdca" and _forecasts.precision(record) == "fp32" and record.get("covariance") == "diag"
    }
    if not {"ours", "usual"} <= found.keys():
        return "Memory: not measured yet."
    return (
        f"**{found['ours']:.1f} instead of {found['usual']:.1f} GiB** of peak memory for one SDCA step in fp32 with "
        "ResNet-101 at 1280x720 and 1024x512 (CPU), against the statistics as they are usually written."
    )


def part() -> str:
    """A list of the three."""
    lines = [f"- {line}" for line in (training(), operators(), memory())]
    return "\n".join([*lines, "- On a GPU: not measured yet."])
