"""A run whose data lie elsewhere now: resumed and evaluated with ``--data.root OLD=NEW``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from fastuda.cli import evaluate
from fastuda.train.config import parse
from fastuda.train.loop import train
from fastuda.train.restore import restore


def losses(work_dir):
    lines = map(json.loads, (work_dir / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["event"] == "train"]


def test_resume_and_evaluate(tiny, tmp_path, capsys):
    old, new, rng = tmp_path / "old", tmp_path / "new", np.random.default_rng(0)
    for name, shape in (("images", (32, 64, 3)), ("labels", (32, 64))):
        (old / "set" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 255 if name == "images" else 11, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(old / "set" / name / f"{number}.png")
    part = {"kind": "folder", "root": str(old / "set"), "size": [32, 64]}
    task = yaml.safe_load(tiny.read_text())
    task["data"] = {
        "source": part,
        "target": {**part, "labelled": False},
        "validation": part,
        "classes": "cityscapes19",
    }
    task["warm_up"]["schedule"] |= {"iterations": 4}
    tiny.write_text(yaml.safe_dump(task))
    work_dir = tmp_path / "run"
    arguments = ["--task", str(tiny), "--method", "source", "--checkpoint-every", "2", "--work-dir", str(work_dir)]
    train(parse(arguments), Console(quiet=True))
    expected = losses(work_dir)

    old.rename(new)
    resume = ["--work-dir", str(work_dir), "--resume"]
    with pytest.raises(ValueError, match=r"old/set does not exist \(--data.root OLD=NEW"):
        train(parse(resume), Console(quiet=True))
    move = ["--data.root", f"{tmp_path / 'nothing'}=/x", "--data.root", f"{old}={new}"]
    config = parse([*resume, *move])
    assert config.data.root == tuple(move[1::2]) and config.data.source.root == str(old / "set")
    train(config, Console(quiet=True))
    assert losses(work_dir)[: len(expected)] == expected

    evaluate.main([str(work_dir), *move])
    assert "checkpoint" in capsys.readouterr().out
    restored = restore(work_dir, [f"{old}={new}"])
    assert len(restored.inputs.datasets["validation"]) == 4
    with pytest.raises(SystemExit):
        evaluate.main([str(work_dir), "--data.root", "nonsense"])
    assert "root must be written OLD=NEW" in capsys.readouterr().err
