"""The trainer runs every method from the warm-up to its last row: two steps of each stage, on the CPU."""

from __future__ import annotations

import json
from unittest import mock

import pytest
import yaml
from fake_card import train as cut
from rich.console import Console

from fastuda.methods import METHODS
from fastuda.train.config import parse
from fastuda.train.loop import train

OPTIONS = ["--device", "cpu", *cut.SMALL[2:], "--log-every", "1", "--checkpoint-every", "100"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_trained(method, tmp_path):
    work_dir = tmp_path / "run"
    with mock.patch.object(cut, "STEPS", 2):
        config = cut.shortened(parse(["--method", method, "--work-dir", str(work_dir), *OPTIONS]))
    result = train(config, Console(quiet=True))
    assert result.stages and all(0 <= row["miou"] <= 1 for row in result.stages)
    lines = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    steps = {(line["stage"], line["iteration"]) for line in lines if line["event"] == "train"}
    assert ("warm_up", 2) in steps and (len({stage for stage, _ in steps}) > 1) == (method not in ("source", "oracle"))
    assert yaml.safe_load((work_dir / "config.yaml").read_text())["method"] == method
