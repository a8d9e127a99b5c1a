"""What a run's directory holds, be it finished, under way or copied from elsewhere; no network, no data are needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fastuda.data.classes import ClassSet, class_set
from fastuda.data.strict import load_yaml
from fastuda.report.charts import Points

NOT_CURVES = {"iteration", "stage", "step"}


@dataclass(frozen=True)
class RunFiles:
    """The contents of config.yaml, log.jsonl and result.json.

    events: what log.jsonl holds, in order, without the lines that a resumed run has written again.  result: None for
    a run that has not finished.
    """

    directory: Path
    config: Mapping[str, Any]
    events: list[dict[str, Any]]
    result: Mapping[str, Any] | None

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    @cached_property
    def classes(self) -> ClassSet:
        return class_set(self.config["data"]["classes"])

    def of(self, event: str) -> list[dict[str, Any]]:
        return [values for values in self.events if values["event"] == event]

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Where and how the run was last started: what the latest line "start" of its log says."""
        starts = self.of("start")
        return {key: value for key, value in (starts[-1] if starts else {}).items() if key != "event"}

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """{name, miou, iou, ...} of each evaluation after a stage: of the result, or so far."""
        rows = self.of("evaluation") if self.result is None else self.result["stages"]
        return list({row["name"]: row for row in rows if {"name", "miou", "iou"} <= row.keys()}.values())

    @property
    def confusion(self) -> list[list[int]] | None:
        """Pixels (K, K + 1) by true and predicted class, of the latest evaluation; None where it was not logged."""
        return next((row["confusion"] for row in reversed(self.of("evaluation")) if row.get("confusion")), None)

    @cached_property
    def stage_ends(self) -> list[tuple[int, str]]:
        """(step, name) of the last logged step of each stage; steps count on from stage to stage."""
        ends: dict[str, int] = {}
        for row in self.of("train"):
            ends[str(row["stage"])] = row["step"]
        return [(step, name) for name, step in ends.items()]

    def curves(self, event: str) -> dict[str, Points]:
        """{quantity: [(step, value)]} of all numbers that lines of one event hold; those of a mapping by its keys."""
        found: dict[str, list[tuple[float, float]]] = {}
        for row in self.of(event):
            for key, value in _numbers(row).items():
                found.setdefault(key, []).append((row["step"], value))
        return found

    @cached_property
    def pictures(self) -> list[Path]:
        """The comparisons that the run saved at its end: photo, prediction and truth side by side."""
        return sorted((self.directory / "predictions").glob("*.png"))

    @cached_property
    def pseudo_labels(self) -> list[Path]:
        return sorted((self.directory / "pseudo_labels").glob("*.png"))


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for key, value in row.items():
        if key in NOT_CURVES:
            continue
        if isinstance(value, Mapping):
            found |= {f"{key}: {name}": number for name, number in _numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = float(value)
    return found


def read_run(directory: Path) -> RunFiles:
    """Read a run's directory. Raises ValueError, naming the file, where it holds no run or a damaged one."""
    config_file = directory / "config.yaml"
    if not config_file.is_file():
        raise ValueError(f"{directory} holds no run: there is no config.yaml in it")
    config = load_yaml(config_file)
    if not isinstance(config.get("data"), Mapping) or "classes" not in config["data"]:
        raise ValueError(f"{config_file} is not the configuration of a run: it names no classes")
    result_file, result = directory / "result.json", None
    if result_file.exists():
        result = _json(result_file, result_file.read_text(encoding="utf-8"), result_file.name)
        if not isinstance(result.get("stages"), list) or not {"seconds", "peak_mib"} <= result.keys():
            raise ValueError(f"{result_file} is not the result of a run: it lists no stages, seconds and peak_mib")
    return RunFiles(directory, config, _events(directory / "log.jsonl"), result)


def _json(path: Path, content: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {what} is no JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: {what} is no JSON object")
    return value


def _events(path: Path) -> list[dict[str, Any]]:
    """The log's lines, each with a "step" that counts on from stage to stage; of repeated ones the last.

    A run that was killed is resumed at its last checkpoint and logs the steps since then once more.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    kept: dict[tuple[str, str], list[tuple[int, dict[str, Any]]]] = {}
    for number, line in enumerate(lines[:-1], 1):  # the last one has no end: empty, or still being written
        if not line.strip():
            continue
        row = _json(path, line, f"line {number}")
        if "event" not in row:
            raise ValueError(f"{path} is damaged: line {number} names no event")
        if row["event"] == "train" and not {"stage", "iteration"} <= row.keys():
            raise ValueError(f"{path} is damaged: line {number} names no stage and iteration")
        rows = kept.setdefault((str(row["event"]), str(row.get("stage", row.get("name")))), [])
        repeatable = row["event"] != "start" and ("iteration" in row or "name" in row)
        while repeatable and rows and rows[-1][1].get("iteration", 0) >= row.get("iteration", 0):
            rows.pop()
        rows.append((number, row))
    return _with_steps(
        [row for _, row in sorted((entry for rows in kept.values() for entry in rows), key=_line_number)]
    )


def _line_number(entry: tuple[int, dict[str, Any]]) -> int:
    return entry[0]


def _with_steps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    before, stage, latest = 0, None, 0
    for row in rows:
        if row["event"] == "train":
            if row["stage"] != stage:
                stage, before = row["stage"], latest
            latest = before + row["iteration"]
        row["step"] = latest
    return rows
