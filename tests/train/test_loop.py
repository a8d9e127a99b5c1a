"""One tiny run through every stage, and the pieces of the loop that it does not show."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from fastuda.methods.protocol import Stage, poly
from fastuda.train.config import parse
from fastuda.train.loop import Run, train
from fastuda.train.optimisers import Optimisers, draw_seed
from fastuda.train.precision import choose_precision
from fastuda.train.restore import restore
from fastuda.train.scoring import evaluate
from fastuda.train.signals import Signals


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_task):
    directory = tmp_path_factory.mktemp("finished")
    task = directory / "tiny.yaml"
    task.write_text(tiny_task)
    config = parse(["--task", str(task), "--work-dir", str(directory / "run"), "--amp", "--tensorboard"])
    return train(config, Console(quiet=True)), directory / "run"


def test_result_has_what_the_readme_promises(finished):
    result, work_dir = finished
    written = json.loads((work_dir / "result.json").read_text())
    assert set(written) == {"method", "preset", "task", "seed", "seconds", "peak_mib", "stages"}
    assert [row["name"] for row in written["stages"]] == ["source", "target_statistics", "aligned", "adapted"]
    assert written["method"] == "sdca" and written["seconds"] > 0 and written["peak_mib"] > 50
    for row in written["stages"]:
        assert len(row["iou"]) == 11
        present = [value for value in row["iou"].values() if value is not None]
        assert row["miou"] == pytest.approx(np.mean(present), abs=1e-6)


def test_work_dir_holds_config_log_pictures_and_events(finished):
    _, work_dir = finished
    assert yaml.safe_load((work_dir / "config.yaml").read_text())["sdca"]["temperature"] == 100.0
    lines = [json.loads(line) for line in (work_dir / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "train"]
    assert [(line["stage"], line["iteration"]) for line in steps[:5]] == [
        *(("warm_up", i) for i in range(1, 5)), ("adapt", 1)
    ]  # fmt: skip
    assert {"loss", "images_per_s", "data_share", "peak_mib", "learning_rate"} <= set(steps[0])
    assert all(math.isfinite(line["loss"]) and 0 <= line["data_share"] <= 1 for line in steps)
    (picture,) = (work_dir / "predictions").iterdir()
    assert Image.open(picture).size == (3 * 64, 32)
    assert len(list((work_dir / "pseudo_labels").iterdir())) == 6
    assert list((work_dir / "tensorboard").iterdir())


def test_a_restored_run_scores_what_it_scored(finished):
    result, work_dir = finished
    restored = restore(work_dir)
    inputs = restored.inputs
    found = restored.method, inputs.validation_stream(), inputs.classes, restored.device, restored.precision
    assert evaluate(*found).row()["miou"] == result.stages[-1]["miou"]
    # One window of the whole image is the whole image; smaller ones see other borders, and are close.
    assert evaluate(*found, window=(512, 512)).row()["miou"] == result.stages[-1]["miou"]
    windowed = evaluate(*found, window=(16, 32)).row()
    assert windowed["miou"] != result.stages[-1]["miou"] and abs(windowed["accuracy"] - evaluate(*found).accuracy) < 0.2


def test_the_command_evaluates_in_windows(finished, capsys):
    from fastuda.cli.evaluate import main

    main([str(finished[1]), "--window", "16", "24"])
    assert "mean" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(finished[1]), "--window", "0", "24"])
    assert "window must be at least one pixel" in capsys.readouterr().err


def test_poly_schedule():
    factor = poly(100)
    assert factor(0) == 1.0 and factor(50) == pytest.approx(0.5**0.9) and factor(100) == 0.0
    ramped = poly(100, warm_up=9)
    assert ramped(0) == pytest.approx(0.1) and ramped(9) == factor(9)


def test_accumulated_parts_add_up_and_parts_without_gradient_add_nothing():
    weight = torch.nn.Parameter(torch.ones(3))
    stage = Stage("s", 1, lambda: {"network": torch.optim.SGD([weight], lr=1.0)}, step=lambda *_: iter(()))
    optimisers = Optimisers(stage, choose_precision(torch.device("cpu"), False), {})
    x = torch.tensor([1.0, 2.0, 3.0])
    for _ in range(2):
        optimisers.backward({"network": {"a": (weight * x).sum(), "b": weight.sum()}}, 0.5)
    optimisers.backward({"network": {"constant": torch.zeros(())}}, 0.5)
    torch.testing.assert_close(weight.grad, x + 1)
    optimisers.set_learning_rate(0)
    assert optimisers.step() == 0
    torch.testing.assert_close(weight.detach(), -x)


def test_what_a_preparation_draws_follows_from_its_position(tiny, tmp_path):
    drawn = []
    stage = Stage("distil", 0, dict, lambda source, target: iter(()), prepare=lambda _: drawn.append(torch.rand(4)))
    with Signals() as signals:
        config = parse(["--task", str(tiny), "--work-dir", str(tmp_path / "run")])
        run = Run(config, tmp_path / "run", Console(quiet=True), signals)
        for before, number in ((1, 2), (7, 2), (7, 3)):
            torch.manual_seed(before)
            run.position.stage = number
            run.prepare(stage)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_draw_seeds_differ_by_every_part_of_the_position():
    seeds = {draw_seed(a, b, c) for a in range(5) for b in range(5) for c in range(5)}
    assert len(seeds) == 125 and all(0 <= seed < 2**63 for seed in seeds)


def test_precision_is_fp32_without_amp():
    assert choose_precision(torch.device("cpu"), False).dtype is None
    chosen = choose_precision(torch.device("cpu"), True)
    assert chosen.dtype in (torch.bfloat16, None) and "bf16" in chosen.reason
