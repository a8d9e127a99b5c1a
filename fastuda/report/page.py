"""The page of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastuda.data.classes import ClassSet
from fastuda.metrics.table import percent
from fastuda.report.charts import COLOURS, charts, line_chart
from fastuda.report.html import Html, join, section, table, tag
from fastuda.report.pictures import WRONG, Pictures, image
from fastuda.report.run import RunFiles
from fastuda.report.style import STYLE
from fastuda.train.checkpoint import write_atomically

RATES = {
    "images_per_s": "images per second",
    "data_share": "share of the time spent waiting for data",
    "peak_mib": "peak memory so far, MiB",
    "learning_rate": "learning rate",
    "skipped_steps": "steps left out since the last line (gradients not finite)",
}
MOST_LABELS = 200  # files that are read, evenly spread: a page takes seconds, not minutes
SCORES = ("miou", "accuracy", "mean_accuracy")


def run_page(run: RunFiles, pictures: Pictures) -> str:
    """The whole page of a run, a string of HTML that is XML as well and loads nothing."""
    marks = run.stage_ends[:-1] if len(run.stage_ends) > 1 else []
    about = f"{run.config.get('method', '?')} on {run.config.get('task', '?')}"
    return document(
        f"{run.name}: {about}",
        tag("h1", f"{about}, seed {run.config.get('seed', '?')}"),
        summary(run),
        section("Stages", *stages(run)),
        section("Scores", charts(score_charts(run, marks))),
        section("Losses", charts(loss_charts(run, marks))),
        section("Classes", *class_table(run)),
        section("Confusion matrix", *confusion(pictures.confusion or run.confusion, run.classes)),
        section("Pseudo labels", *pseudo_labels(run)),
        section("Images", *gallery(pictures, run.classes)),
        section("Speed and memory", charts(rate_charts(run, marks))),
        section("How it was run", facts(run.facts)),
        section("Configuration", settings(run.config)),
    )


def document(title: str, *content: object) -> str:
    """A whole page with this content."""
    view = tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    head = tag("head", tag("meta", charset="utf-8"), view, tag("title", title), tag("style", Html(STYLE)))
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', *content)), lang='en')}\n"


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all; OSError names a path that cannot be written."""
    write_atomically(path, lambda file: file.write(page.encode()))


def summary(run: RunFiles) -> Html:
    """The few numbers that one asks for first."""
    numbers = []
    scored = run.stages
    if scored:
        numbers.append((percent(scored[-1]["miou"]), f"mIoU, {scored[-1]['name']}"))
    if len(scored) > 1:
        gained = 100 * (scored[-1]["miou"] - scored[0]["miou"])
        numbers.append((f"{gained:+.1f}", f"points since {scored[0]['name']}"))
    if run.result is not None:
        numbers.append((duration(run.result["seconds"]), "of training"))
        numbers.append((f"{run.result['peak_mib']:.0f} MiB", "peak memory"))
    state = "finished" if run.result is not None else "not finished"
    if run.result is None and (lines := run.of("train")):
        state += f"; last seen in stage {lines[-1]['stage']} at iteration {lines[-1]['iteration']}"
    items = [tag("li", tag("b", value), what) for value, what in numbers]
    no_scores = "" if scored else " It has no scores: either none was computed yet, or no validation labels are given."
    return join([tag("ul", *items, class_="numbers") if items else "", tag("p", f"This run is {state}.{no_scores}")])


def duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def stages(run: RunFiles) -> list[Html]:
    """A row for each evaluation: mIoU, what it gained, accuracies and the means over groups of classes."""
    if not run.stages:
        return []
    groups = list(dict.fromkeys(name for row in run.stages for name in row.get("subsets", {})))
    rows, before = [], None
    for row in run.stages:
        gained = "" if before is None else f"{100 * (row['miou'] - before):+.1f}"
        before = row["miou"]
        cells = [percent(row["miou"]), gained, percent(row.get("accuracy")), percent(row.get("mean_accuracy"))]
        rows.append([row["name"], *cells, *(percent(row.get("subsets", {}).get(name)) for name in groups)])
    header = ["after", "mIoU, %", "gained", "pixel accuracy, %", "mean class accuracy, %", *(f"{g}, %" for g in groups)]
    return [table(header, rows)]


def class_table(run: RunFiles) -> list[Html]:
    """IoU of each class after each evaluation, the best of a row bold."""
    if not run.stages:
        return []
    names = dict.fromkeys(name for row in run.stages for name in row["iou"])
    rows = [[name, *best_bold([row["iou"].get(name) for row in run.stages])] for name in names]
    rows.append(["mean", *best_bold([row["miou"] for row in run.stages])])
    return [table(["IoU, %", *(row["name"] for row in run.stages)], rows)]


def best_bold(values: Sequence[float | None]) -> list[Html]:
    """Cells of scores; the largest is bold where there are several."""
    shown = [percent(value) for value in values]
    numbers = [float(cell) for cell in shown if cell != "-"]
    best = f"{max(numbers):.1f}" if len(numbers) > 1 else None
    return [tag("td", cell, class_="best") if cell == best else tag("td", cell) for cell in shown]


def score_charts(run: RunFiles, marks: Sequence[tuple[int, str]]) -> list[Html]:
    """The course of mIoU and of the groups' means, and of whatever else was logged at evaluations."""
    found = run.curves("evaluation")
    means = {name: found.pop(name) for name in SCORES if name in found}
    classes = {key.removeprefix("iou: "): found.pop(key) for key in list(found) if key.startswith("iou: ")}
    drawn = [line_chart("mIoU and accuracies", means, marks, dots=True)]
    size = -(-len(classes) // max(1, -(-len(classes) // len(COLOURS))))  # equal groups, one colour a class
    for start in range(0, len(classes), max(1, size)):
        part = dict(list(classes.items())[start : start + size])
        drawn.append(line_chart(f"IoU of classes {start + 1} to {start + len(part)}", part, marks, dots=True))
    return drawn + [line_chart(name, {name: points}, marks, dots=True) for name, points in found.items()]


def loss_charts(run: RunFiles, marks: Sequence[tuple[int, str]]) -> list[Html]:
    found = run.curves("train")
    return [line_chart(name, {name: points}, marks) for name, points in found.items() if name.startswith("loss")]


def rate_charts(run: RunFiles, marks: Sequence[tuple[int, str]]) -> list[Html]:
    """Rates of training, and every other number that its lines hold."""
    found = run.curves("train")
    others = [name for name in found if not name.startswith("loss") and name not in RATES]
    shown = [name for name in RATES if name in found and (name != "skipped_steps" or any(y for _, y in found[name]))]
    return [line_chart(RATES.get(name, name), {name: found[name]}, marks) for name in [*shown, *others]]


def confusion(matrix: Sequence[Sequence[int]] | None, classes: ClassSet) -> list[Html]:
    """Where each class's pixels went, in per cent of the class, the darker the more."""
    if matrix is None or len(matrix) != classes.num_classes:
        return []
    rows = []
    for name, counts in zip(classes.names, matrix, strict=True):
        total = sum(counts)
        rows.append(
            [name, *(_share(count, total, place, len(rows)) for place, count in enumerate(counts)), f"{total:,}"]
        )
    header = ["truth \\ prediction", *classes.names, "none", "pixels"]
    note = tag("p", "Per cent of each true class's pixels; a row adds up to 100. The diagonal is what is right.")
    return [note, table(header, rows, class_="confusion")]


def _share(count: int, total: int, column: int, row: int) -> Html:
    if not total:
        return tag("td", "")
    share = count / total
    light = round(96 - 46 * share)
    hue = 140 if column == row else 10
    return tag("td", f"{100 * share:.0f}" if count else "", style=f"background: hsl({hue}, 70%, {light}%)")


def pseudo_labels(run: RunFiles) -> list[Html]:
    """Coverage and class shares of the pseudo labels: as logged, and of the files of the last round."""
    content = [charts([line_chart(name, {name: points}) for name, points in run.curves("pseudo_labels").items()])]
    if run.pseudo_labels:
        counts = np.zeros(256, np.int64)
        read = run.pseudo_labels[:: -(-len(run.pseudo_labels) // MOST_LABELS)]
        for path in read:
            with Image.open(path) as file:
                counts += np.bincount(np.asarray(file).ravel(), minlength=256)[:256]
        labelled, names = counts[: run.classes.num_classes], run.classes.names
        covered = labelled.sum() / max(counts.sum(), 1)
        content.append(tag("p", f"The last round labels {covered:.1%} of the pixels of {len(read)} images."))
        shares = labelled / max(labelled.sum(), 1)
        rows = [[name, f"{share:.1%}"] for name, share in zip(names, shares, strict=True)]
        content.append(table(["class", "share of the labelled pixels"], rows))
    return content


def gallery(pictures: Pictures, classes: ClassSet) -> list[Html]:
    content = [tag("p", pictures.note)] if pictures.note else []
    if not pictures.shown:
        return content
    content.append(legend(classes))
    for shown in pictures.shown:
        panels = [image(title, pixels) for title, pixels in shown.panels]
        content += [tag("p", shown.caption), tag("div", *panels, class_="panels")]
    return content


def legend(classes: ClassSet) -> Html:
    """Names of the classes beside their colours, and of the colours of an error map."""
    colours = [*zip(classes.names, classes.palette.tolist(), strict=True), ("wrong", WRONG), ("no label", (0, 0, 0))]
    items = [
        tag("li", tag("i", Html(""), style=f"background: rgb({', '.join(map(str, rgb))})"), name)
        for name, rgb in colours
    ]
    return tag("ul", *items, class_="legend")


def facts(found: Mapping[str, Any]) -> Html:
    rows = [[name, value] for name, value in found.items() if name not in ("stage", "iteration", "step")]
    return table(["", ""], rows, class_="facts") if rows else Html("")


def settings(config: Mapping[str, Any]) -> Html:
    """Every setting under its dotted name, folded."""
    rows = [[name, value] for name, value in flat(config).items()]
    return tag("details", tag("summary", f"{len(rows)} settings"), table(["setting", "value"], rows, class_="facts"))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested mappings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
