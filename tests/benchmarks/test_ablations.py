"""The ablations: sharing a warm-up, the labels' scores, signs and README's table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import _ablations
import ablations
import label_quality
import numpy as np
import pytest
import run
import torch
import warm_up
import yaml
from PIL import Image
from rich.console import Console

from fastuda.data.classes import class_set
from fastuda.train.checkpoint import load_checkpoint, save_checkpoint
from fastuda.train.config import parse, task_config, to_dict
from fastuda.train.loop import train

STREETS = {"kind": "streets", "split": "train", "count": 5, "size": [32, 64]}
SCHEDULE = {"iterations": 3, "learning_rate": 0.01, "batch": 2}
TINY = {
    "data": {
        "classes": "common11",
        "source": STREETS | {"look": "rendered"},
        "target": STREETS | {"look": "camera", "labelled": False},
        "validation": STREETS | {"look": "camera", "split": "val", "count": 2},
    },
    "model": {"name": "unet", "width": 0.25, "norm": "per_domain"},
    "optimiser": {"name": "adamw", "weight_decay": 0.01, "classifier_factor": 1.0},
    "views": {
        name: {"crop": [32, 48], "scale": [0.9, 1.1], "flip": 0.5} for name in ("source", "target", "self_training")
    },
    "warm_up": {"schedule": SCHEDULE},
    "cpsl": {"schedule": SCHEDULE, "bank": 64, "samples": 16, "distillation": SCHEDULE, "distillations": 1},
    "drsl": {"schedule": SCHEDULE, "rounds": 1, "channels": 8},
    "mlsl": {"schedule": SCHEDULE, "patches": 3, "patch": [16, 32], "whole_image": True, "head_width": 8},
    "predictions": 1,
}


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def arguments(task, work_dir, method, *options):
    return ["--task", task, "--method", method, "--work-dir", str(work_dir), *options]


def quietly(config):
    return train(config, Console(quiet=True))


def equal(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[name]) for name, value in one.items())
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


@pytest.mark.slow
@pytest.mark.parametrize(("of", "method"), [("drsl", "drsl"), *((b, a) for a, b in warm_up.SHARED.items())])
def test_a_handed_over_warm_up_changes_no_bit(tiny, tmp_path, of, method):
    options = ("--drsl.no-balanced", "--drsl.portion", "0.4")
    warm_up.warm_up(arguments(tiny, tmp_path / "warm", of))
    shared = arguments(tiny, tmp_path / "shared", method, *options)
    warm_up.hand_over(tmp_path / "warm", shared)
    quietly(parse(["--work-dir", str(tmp_path / "shared"), "--resume"]))
    quietly(parse(arguments(tiny, tmp_path / "alone", method, *options)))
    one, other = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("shared", "alone"))
    assert one["position"]["rows"] == other["position"]["rows"] and len(one["position"]["rows"]) >= 3
    assert one["config"]["drsl"] == other["config"]["drsl"] and not one["config"]["drsl"]["balanced"]
    assert one["method"].keys() == other["method"].keys()
    for name, value in one["method"].items():
        assert equal(value, other["method"][name]), name
    when = (tmp_path / "warm" / "checkpoint.pt").stat().st_mtime_ns
    warm_up.warm_up(arguments(tiny, tmp_path / "warm", of))
    assert (tmp_path / "warm" / "checkpoint.pt").stat().st_mtime_ns == when
    begun = load_checkpoint(tmp_path / "warm" / "checkpoint.pt")["position"]
    assert begun["stage"] == 1 and [row["name"] for row in begun["rows"]] == ["source"]


@pytest.mark.slow
def test_another_warm_up_is_refused(tiny, tmp_path):
    warm, new = tmp_path / "warm", tmp_path / "new"
    warm.mkdir()
    state = {"config": to_dict(parse(arguments(tiny, warm, "drsl"))), "position": {"stage": 1}, "method": {}}
    save_checkpoint(warm / "checkpoint.pt", state)
    for options, field in (
        (("--seed", "1"), "seed"),
        (("--warm-up.lovasz", "0.5"), r"warm_up\.lovasz"),
        (("--model.width", "0.5"), r"model\.width"),
    ):
        with pytest.raises(ValueError, match=f"differ in {field}"):
            warm_up.hand_over(warm, arguments(tiny, new, "drsl", *options))
    with pytest.raises(ValueError, match="warm-up of drsl is not that of mlsl"):
        warm_up.hand_over(warm, arguments(tiny, new, "mlsl"))
    save_checkpoint(warm / "checkpoint.pt", state | {"position": {"stage": 2}})
    with pytest.raises(ValueError, match="end of a warm-up"):
        warm_up.hand_over(warm, arguments(tiny, new, "drsl"))
    assert not new.exists()


@pytest.mark.parametrize("task", run.TASKS)
def test_methods_that_share_a_warm_up_are_trained_alike(task):
    for method, of in warm_up.SHARED.items():
        one, other = (to_dict(task_config(task, name)) for name in (method, of))
        for field in ("model", "optimiser", "views", "warm_up"):
            assert one[field] == other[field], (method, field)


@pytest.mark.parametrize("name", ablations.VARIANTS)
def test_variants_differ_in_what_is_ablated_alone(name, tmp_path):
    place = ablations.Place("streets", 0, tmp_path, 1)
    having, without = (parse(place.arguments(variant)) for variant in ablations.VARIANTS[name])
    own = having.method
    assert replace(having, **{own: None}) == replace(without, **{own: None})
    changed = {k for k, v in vars(getattr(having, own)).items() if getattr(getattr(without, own), k) != v}
    wanted = {"sisc": {"patches"}, "balance": {"balanced"}, "modes": {"modes"}, "levels": {"outputs", "self_training"}}
    wanted |= {"moving": {"momentum", "self_training"}, "self_training_sdca": set(), "self_training_spcl": set()}
    assert changed == wanted[name]
    for variant in ablations.VARIANTS[name]:
        before_warm_up = {"modes"} & {o.split(".")[-1] for o in variant.options}
        assert variant.warm_up == (not before_warm_up)


def test_the_best_labels_are_those_of_the_largest_quotients():
    labels = torch.tensor([0, 1, 2, 1, 255, 0], dtype=torch.uint8)
    quotients = torch.tensor([0.5, 2.0, 1.0, 1.0, 0.0, 0.2])
    assert label_quality.best(labels, quotients, 0.5).tolist() == [255, 1, 2, 1, 255, 255]
    assert label_quality.best(labels, quotients, 0.34).tolist() == [255, 1, 2, 255, 255, 255]
    assert (label_quality.best(labels, quotients, 0.1) == 255).all()


def test_scores_of_labels_count_every_class_of_the_truth():
    classes = class_set("common11")
    labels = torch.tensor([0, 0, 1, 255, 255, 1, 0, 0], dtype=torch.uint8)
    truth = torch.tensor([0, 0, 0, 2, 1, 1, 255, 0], dtype=torch.uint8)
    found = label_quality.scores(labels, truth, classes)
    assert found["coverage"] == 6 / 8 and found["accuracy"] == pytest.approx(4 / 5)
    assert found["miou"] == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


@pytest.mark.slow
def test_label_quality_reads_the_truth_of_the_same_images(tiny, tmp_path):
    run = tmp_path / "run"
    quietly(parse(arguments(tiny, run, "mlsl", "--mlsl.rounds", "1", "--mlsl.schedule.iterations", "0")))
    found = label_quality.label_quality(run)
    pixels = 5 * 32 * 64
    assert found["coverage"] == int(0.2 * pixels) / pixels and 0 <= found["accuracy"] <= 1
    opened = label_quality.restore(run)
    target = label_quality.target_with_truth(opened.inputs.config, opened.inputs.classes)
    assert not opened.inputs.datasets["target"].labelled
    for index in range(5):
        image, truth = target.load(index)
        assert np.array_equal(image, opened.inputs.datasets["target"].image(index)) and truth.shape == (32, 64)
    # The run's own labels select by the same quotients: what it kept is at least the share.
    assert label_quality.coverage(run) >= 0.2 - 1 / 1024
    (run / "labels.json").write_text('{"kept": true}')
    assert label_quality.label_quality(run) == {"kept": True}


def test_coverage_is_the_share_of_labelled_pixels(tmp_path):
    with pytest.raises(ValueError, match="no pseudo labels"):
        label_quality.coverage(tmp_path)
    (tmp_path / "pseudo_labels").mkdir()
    for number, ignored in enumerate((0, 3)):
        label = np.zeros((2, 4), np.uint8)
        label.flat[:ignored] = 255
        Image.fromarray(label).save(tmp_path / "pseudo_labels" / f"{number}.png")
    assert label_quality.coverage(tmp_path) == (1 + 5 / 8) / 2


def test_the_rarest_third_occurs():
    assert ablations.third({"a": 5, "b": 0, "c": 2, "d": 9, "e": 1}) == ["e"]
    assert ablations.third({name: n + 1 for n, name in enumerate("abcdefghijk")}) == list("abcd")
    score = ablations.rare(["a", "b", "c"])
    with pytest.raises(ValueError, match="no pseudo labels"):
        score(Path("nowhere"), {"miou": 0.5, "iou": {"a": 0.2, "b": None, "c": 0.4, "d": 0.9}})


def plant(place, name, rows, labelled=None):
    """A finished run: its result and, if asked for, a pseudo label of which a share is labelled."""
    directory = place.directory(name)
    (directory / "pseudo_labels").mkdir(parents=True)
    stages = [{"name": row, "miou": miou, "iou": {"a": miou / 2, "b": 0.9}} for row, miou in rows.items()]
    (directory / "result.json").write_text(json.dumps({"stages": stages, "seconds": 60.0}))
    if labelled is not None:
        label = np.full((10, 10), 255, np.uint8)
        label.flat[: round(100 * labelled)] = 1
        Image.fromarray(label).save(directory / "pseudo_labels" / "0.png")


def test_records_of_finished_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "rarest", lambda task: ["a"])
    place = ablations.Place("streets", 3, tmp_path, 1)
    plant(place, "sdca", {"source": 0.2, "aligned": 0.5, "adapted": 0.4})
    plant(place, "sdca_features", {"source": 0.2, "adapted": 0.45})
    levels, rounds = (ablations.record(place, name) for name in ("levels", "self_training_sdca"))
    assert levels["difference"] == pytest.approx(0.05) and rounds["difference"] == pytest.approx(-0.1)
    command = "python -m fastuda.train --task streets --method sdca --seed 3 --amp"
    assert levels["having"]["command"] == command
    assert levels["without"]["command"] == f"{command} --sdca.outputs 0 --sdca.self-training.rounds 0"

    plant(place, "drsl_balanced", {"adapted": 0.4}, 0.27)
    plant(place, "drsl_plain", {"adapted": 0.44}, 0.27)
    balance = ablations.record(place, "balance")
    assert balance["difference"] == pytest.approx(-0.02)
    assert balance["having"]["coverage"] == pytest.approx(0.27) and balance["having"]["iou"] == {"a": 0.2}
    assert balance["without"]["command"].endswith("--drsl.rounds 1 --drsl.no-balanced --drsl.portion 0.2700")


def test_a_result_of_other_settings_is_refused(tmp_path):
    place = ablations.Place("streets", 3, tmp_path, 1)
    plant(place, "sdca", {"adapted": 0.4})
    for changes, message in (
        ({"warm_up": {"lovasz": 0.5}}, r"warm_up\.lovasz"),
        ({"sdca": {"outputs": 0.5}}, r"sdca\.outputs"),
        ({"spcl": {"momentum": 0.5}, "work_dir": "elsewhere"}, None),
    ):
        held = to_dict(parse(place.arguments(ablations.SDCA)))
        for section, value in changes.items():
            held[section] = held[section] | value if isinstance(value, dict) else value
        (place.directory("sdca") / "config.yaml").write_text(yaml.safe_dump(held))
        if message:
            with pytest.raises(ValueError, match=f"differ in {message}"):
                ablations.train(place, ablations.SDCA)
        else:
            assert ablations.train(place, ablations.SDCA)["stages"][0]["miou"] == 0.4


def planted(ablation, task, seed, difference):
    return {"ablation": ablation, "task": task, "seed": seed, "difference": difference}


def test_signs_average_tasks_not_runs(tmp_path):
    path = tmp_path / "found.json"
    for seed, difference in enumerate((0.01, 0.01, 0.01)):
        ablations.keep(path, planted("modes", "streets", seed, difference), 1)
    ablations.keep(path, planted("modes", "carla_camvid", 0, -0.03), 1)
    ablations.keep(path, planted("moving", "streets", 0, 0.5), 1)
    ablations.keep(path, planted("moving", "streets", 0, 0.0), 1)
    content = json.loads(path.read_text())
    assert len(content["records"]) == 5 and set(content["signs"]) == {"modes", "moving"}
    signs = content["signs"]["modes"]
    assert signs["tasks"] == {"streets": 1.0, "carla_camvid": -3.0} and signs["mean"] == -1.0
    assert (signs["sign"], signs["runs_above"], signs["runs"], signs["seeds"]) == ("-", 3, 4, [0, 1, 2])
    assert content["signs"]["moving"]["sign"] == "0"


def test_the_table_tolerates_what_was_not_run(tmp_path, monkeypatch):
    assert list(_ablations.TITLES) == list(ablations.VARIANTS)
    monkeypatch.setattr(_ablations, "RECORDS", tmp_path / "ablations_cpu.json")
    rows = _ablations.part().splitlines()[2 : 2 + len(_ablations.TITLES)]
    assert all(row.count(_ablations.MISSING) == 2 for row in rows)
    ablations.keep(_ablations.RECORDS, planted("levels", "streets", 0, 0.0123), 1)
    text = _ablations.part()
    (row,) = (line for line in text.splitlines() if line.startswith("| SDCA: features and outputs"))
    assert row.endswith(f"| +1.2 | {_ablations.MISSING} | +1.2 | 1 of 1 runs |")
    assert text.count(_ablations.MISSING) == 2 * (len(_ablations.TITLES) - 1) + 1
    assert "ablations_cpu.json" in text
