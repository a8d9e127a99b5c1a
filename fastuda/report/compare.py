"""Several runs side by side: scores, curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastuda.metrics.table import percent
from fastuda.report.charts import charts, line_chart
from fastuda.report.html import Html, section, table, tag
from fastuda.report.page import best_bold, document, duration, flat
from fastuda.report.run import RunFiles

MOST_LOSSES = 24  # quantities that are drawn; runs of different methods share few


def comparison_page(runs: Sequence[RunFiles]) -> str:
    """The page of several runs, a string of HTML that loads nothing. Raises ValueError for fewer than two."""
    if len(runs) < 2:
        raise ValueError("a comparison needs at least two runs")
    names = unique_names(runs)
    return document(
        f"Comparison of {len(runs)} runs",
        tag("h1", f"Comparison of {len(runs)} runs"),
        section("Runs", overview(runs, names)),
        section("Scores", *last_scores(runs, names)),
        section("Curves", charts(curves(runs, names))),
        section("Settings that differ", *differences(runs, names)),
    )


def unique_names(runs: Sequence[RunFiles]) -> list[str]:
    """The directories' names; with as many directories above as make them differ."""
    for depth in range(1, max(len(run.directory.resolve().parts) for run in runs) + 1):
        names = ["/".join(run.directory.resolve().parts[-depth:]) for run in runs]
        if len(set(names)) == len(names):
            break
    return names


def overview(runs: Sequence[RunFiles], names: Sequence[str]) -> Html:
    """A row a run: what it is, how it ended, what it took."""
    rows = []
    for run, name in zip(runs, names, strict=True):
        scored, result = run.stages, run.result
        cells = [run.config.get(key, "") for key in ("method", "task", "seed")]
        cells.append(percent(scored[-1]["miou"]) if scored else "-")
        cells.append(scored[-1]["name"] if scored else "-")
        cells += [duration(result["seconds"]), f"{result['peak_mib']:.0f}"] if result else ["not finished", "-"]
        rows.append([name, *cells])
    return table(["run", "method", "task", "seed", "mIoU, %", "after", "time", "peak MiB"], rows)


def last_scores(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Html]:
    """IoU of each class after each run's last evaluation, the best of a row bold; classes as the runs name them."""
    last = [run.stages[-1] if run.stages else {"iou": {}, "miou": None} for run in runs]
    classes = dict.fromkeys(name for row in last for name in row["iou"])
    if not classes:
        return []
    rows = [[name, *best_bold([row["iou"].get(name) for row in last])] for name in classes]
    rows.append(["mean", *best_bold([row["miou"] for row in last])])
    return [table(["IoU, %", *names], rows)]


def curves(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Html]:
    """One chart a quantity, with a line a run."""
    found = [(event, run.curves(event)) for event in ("evaluation", "train") for run in runs]
    scored = [lines for event, lines in found if event == "evaluation"]
    trained = [lines for event, lines in found if event == "train"]

    def drawn(every: list[dict[str, Any]], quantity: str, dots: bool) -> Html:
        lines = {name: own[quantity] for name, own in zip(names, every, strict=True) if quantity in own}
        return line_chart(quantity, lines, dots=dots)

    losses = dict.fromkeys(name for own in trained for name in own if name.startswith("loss"))
    return [
        drawn(scored, "miou", dots=True),
        *(drawn(trained, name, dots=False) for name in list(losses)[:MOST_LOSSES]),
    ]


def differences(runs: Sequence[RunFiles], names: Sequence[str]) -> list[Html]:
    """A row for each setting that is not the same in all runs."""
    settings = [flat(run.config) for run in runs]
    keys = dict.fromkeys(key for own in settings for key in own if key not in ("work_dir", "resume"))
    rows = [
        [key, *(own.get(key, "–") for own in settings)]
        for key in keys
        if len({repr(own.get(key)) for own in settings}) > 1
    ]
    if not rows:
        return [tag("p", "The runs have the same settings.")]
    return [table(["setting", *names], rows, class_="facts")]
