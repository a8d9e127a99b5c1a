"""Directories of runs as training leaves them: made by hand, and one of a real run."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))  # the tests here import each other's helpers by name

from report_runs import CLASSES, TINY, line, scores, trained  # noqa: E402

from fastuda.train.config import parse  # noqa: E402
from fastuda.train.loop import train  # noqa: E402


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run's directory with two stages and hostile names; ``log`` replaces its log, ``finished`` its result."""

    def make(name: str = "run", log: str | None = None, finished: bool = True, **config: object) -> Path:
        directory = tmp_path / name
        (directory / "predictions").mkdir(parents=True)
        settings = {
            "method": "sdca",
            "task": "<img src='x' onerror='alert(1)'>",
            "seed": 3,
            "data": {"classes": CLASSES},
        }
        (directory / "config.yaml").write_text(yaml.safe_dump(settings | config, sort_keys=False))
        rows = [scores("source", 0.25, None), scores("adapted", 0.5, 0.75)]
        events = line("start", stage=0, iteration=0, host="a<b>c", torch="2.13.0", command="python -m fastuda.train")
        events += trained("warm_up", 10, 2.0) + trained("warm_up", 20, 1.0) + line("evaluation", **rows[0])
        events += trained("adapt", 10, 0.5) + line("evaluation", **rows[1])
        (directory / "log.jsonl").write_text(events if log is None else log)
        if finished:
            result = {"method": "sdca", "seconds": 125.0, "peak_mib": 512.5, "stages": rows}
            (directory / "result.json").write_text(json.dumps(result))
        photo, truth = np.full((4, 6, 3), 90, np.uint8), np.zeros((4, 6, 3), np.uint8)
        truth[:, :4] = (128, 64, 128)  # a third of the image is not labelled
        prediction = np.full((4, 6, 3), (128, 64, 128), np.uint8)
        prediction[:1, :4] = (0, 0, 142)
        comparison = np.concatenate([photo, prediction, truth], axis=1)
        Image.fromarray(comparison).save(directory / "predictions" / "00000.png")
        return directory

    return make


@pytest.fixture(scope="session")
def real_run(tmp_path_factory) -> Path:
    """The directory of a short run on seven validation images."""
    directory = tmp_path_factory.mktemp("report")
    (directory / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    arguments = ["--task", str(directory / "tiny.yaml"), "--work-dir", str(directory / "run")]
    train(parse(arguments), Console(quiet=True))
    return directory / "run"
