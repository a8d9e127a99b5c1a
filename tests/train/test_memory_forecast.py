"""python -m fastuda.memory: forecasts of every method's real steps, the remedies, the outputs and the refusals."""

from __future__ import annotations

import builtins
import errno
import json
import os
import re
import sys
from dataclasses import replace

import gpu
import pytest
import torch

from fastuda.cli import memory
from fastuda.methods import METHODS, build_method
from fastuda.train.config import Config
from fastuda.train.memory.bundle import batches
from fastuda.train.memory.forecast import GIB, card_bytes, forecast, needed, remedies, verdict
from fastuda.train.memory.measure import advice, measure, out_of_memory
from fastuda.train.memory.walk import image_size, view_size, walked_stages

SMALL = [
    "--model.name", "deeplab_resnet18", "--model.width", "0.125", "--data.source.size", "96", "160",
    "--data.target.size", "64", "128", "--data.validation.size", "64", "128", "--cpsl.bank", "600",
    "--spcl.adversarial.depth", "3", "--mlsl.head-width", "8", "--mlsl.patches", "3", "--mlsl.patch", "64", "64",
    "--drsl.channels", "8",
    "--views.source.crop", "0", "0", "--views.target.crop", "0", "0", "--views.self-training.crop", "0", "0",
]  # fmt: skip
# Draws on the host, which wait for no device: strengths and places of strong views, and Adam's step on the CPU.
HOST = re.compile(r"nn/strong_views\.py|methods/cpsl\.py|train/optimisers\.py")


def config(method: str = "sdca", *options: str) -> Config:
    return memory.arguments(["--method", method, *SMALL, *options])[1]


class Forecasts(dict):
    """Method -> its forecast, made when it is first asked for."""

    def __missing__(self, method: str):
        self[method] = forecast(config(method))
        return self[method]


@pytest.fixture(scope="module")
def forecasts():
    return Forecasts()


SLOW_METHODS = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in ("source", "sdca")]
each_method = pytest.mark.parametrize("method", ["source", "sdca", *SLOW_METHODS])


@each_method
def test_every_stage_of_every_method(forecasts, method):
    found = forecasts[method]
    built = build_method(config(method), 19)
    stages = walked_stages(built.stages())
    for stage in stages:
        parts = {phase.part for phase in found.peaks if phase.stage == stage.name}
        if stage.iterations:
            assert {"inputs", "forward", "backward", "optimizer"} <= parts
        # A preparation that only sets a flag allocates nothing: SPCL's with frozen batch norm.
        assert ("prepare" in parts) == (built.prepares(stage) and stage.name != "adversarial")
        assert ("after step" in parts) == bool(stage.after_step)
        assert ("evaluation" in parts) == bool(stage.row or stage.prepared_row)


@each_method
def test_no_step_waits_for_the_device(forecasts, method):
    read = [(phase, line) for phase, line in forecasts[method].reads if phase.step and not HOST.search(line)]
    assert read == []


def test_parameters_gradients_and_momentum_are_as_many(forecasts):
    built = build_method(config("source"), 19)
    count = sum(-(-4 * p.numel() // 512) * 512 for p in built.parameters())
    trained = sum(-(-4 * p.numel() // 512) * 512 for p in built.parameters() if p.requires_grad)
    peak = next(p for phase, p in forecasts["source"].peaks.items() if phase.part == "optimizer" and phase.step == 2)
    assert peak.kinds["parameters"] == count
    assert peak.kinds["gradients"] == peak.kinds["optimizer"] == trained
    first = next(p for phase, p in forecasts["source"].peaks.items() if phase.part == "inputs" and phase.step == 1)
    assert "optimizer" not in first.kinds and "gradients" not in first.kinds


@pytest.mark.slow
def test_the_teacher_and_the_bank_are_told(forecasts):
    kinds = forecasts["cpsl"].owner.kinds
    built = build_method(config("cpsl"), 19)
    network = sum(4 * p.numel() for p in built.network.parameters())
    assert kinds["teacher"] >= network and kinds["buffers"] >= 600 * built.bank.channels * 4
    assert any(s.module == "bank.features_buffer" for s in forecasts["cpsl"].owner.alive)


@pytest.mark.slow
def test_settings_move_the_peak():
    plain = forecast(config())
    assert forecast(config("sdca", "--model.checkpointing")).owner.bytes < plain.owner.bytes
    assert forecast(config("sdca", "--amp")).owner.bytes < plain.owner.bytes
    assert forecast(config("sdca", "--batch", "2")).owner.bytes > 1.5 * plain.owner.bytes
    given = config()
    view = replace(given.views.target, crop=(32, 64))
    cropped = forecast(replace(given, views=replace(given.views, target=view)), stage="adapt")
    for part in ("inputs", "forward"):
        phase = next(phase for phase in cropped.peaks if phase.part == part and phase.step == 2)
        assert cropped.peaks[phase].bytes <= plain.peaks[phase].bytes
    assert {phase.stage for phase in cropped.peaks} == {"build", "adapt"}


def test_accumulation_meets_the_gradients_of_the_batch_before():
    one = replace(config("source"), accumulate=1)
    again = forecast(replace(one, accumulate=4))
    gradients = {
        phase: peak.kinds.get("gradients", 0) for phase, peak in again.peaks.items() if phase.part == "forward"
    }
    assert all((size > 0) == (phase.step == 2) for phase, size in gradients.items())
    assert again.owner.bytes > forecast(one).owner.bytes


@pytest.mark.slow
def test_remedies_are_forecasts_of_the_changed_run():
    given = config("sdca", "--batch", "2")
    found = forecast(given)
    told = {remedy.name: remedy for remedy in remedies(given, found.owner)}
    assert set(told) == {"gradient checkpointing", "mixed precision", "batch accumulation", "smaller crop"}
    stage = found.owner.phase.stage
    changed = replace(given, model=replace(given.model, checkpointing=True))
    assert told["gradient checkpointing"].bytes == forecast(changed).of_stage(stage)
    assert all(remedy.bytes < found.of_stage(stage) for remedy in told.values())
    assert "crop 64 112" in told["smaller crop"].options


def test_cards():
    assert card_bytes("11g") == 11 * GIB and card_bytes("1.5g") == GIB * 3 // 2
    for wrong in ("11", "g", "11gb", "-1g", "big"):
        with pytest.raises(ValueError, match="--card"):
            card_bytes(wrong)
    most = next(peak for peak in range(11 * GIB, 0, -GIB // 64) if needed(peak) <= 11 * GIB)
    assert "fits into 11g" in verdict(most, "11g") and "short by 0." in verdict(most + GIB // 64, "11g")
    assert most < 10 * GIB


def test_sizes_of_views():
    found = config("drsl")
    assert image_size(found.data.source) == (96, 160)
    built = build_method(found, 19).stages()[-1]
    # Scaled by up to 1.5 where nothing is cropped.
    assert view_size(built.source, found.data.source) == (144, 240)
    with pytest.raises(ValueError, match="set its size"):
        image_size(replace(found.data.source, kind="folder", size=(0, 0)))


def test_the_default_is_the_papers_task_and_one_image_of_each_domain():
    own, found = memory.arguments(["--method", "sdca", "--amp", "--card", "11g"])
    assert found.task == "gta5_cityscapes" and batches(found) == [1, 1, 1] and found.accumulate == 4 and found.amp
    assert batches(memory.arguments(["--batch", "0"])[1]) == [4, 4, 4]
    assert memory.arguments(["--memory", "16g"])[1].accumulate == 2
    assert memory.arguments(["--task", "streets"])[1].model.name == "unet"


def test_the_command_writes_text_json_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    target, picture = tmp_path / "memory.json", tmp_path / "memory.png"
    memory.main(["--card", "8g", *SMALL, "--json", str(target), "--png", str(picture)])
    text = " ".join(capsys.readouterr().out.split())
    told = json.loads(target.read_text())
    assert told["fits"] and told["peak"] == max(row["bytes"] for row in told["phases"]) and told["card"] == "8g"
    assert sum(told["kinds"].values()) == told["peak"] and told["remedies"]
    assert told["largest"][0]["bytes"] >= told["largest"][-1]["bytes"] > 0
    assert "fits into 8g" in text and "not measured yet" in text and told["owner"]["stage"] in text
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--json", "--png"])
def test_a_full_disk_leaves_the_earlier_output(option, tmp_path, monkeypatch, capsys):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if option == "--png":
        pytest.importorskip("matplotlib")
    output = tmp_path / "memory"
    output.write_text("earlier")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SystemExit):
        memory.main(["--method", "source", "--no-remedies", *SMALL, option, str(output)])
    assert f"cannot write {output}: No space left on device" in capsys.readouterr().err
    assert output.read_text() == "earlier" and list(tmp_path.iterdir()) == [output]


def test_a_picture_without_matplotlib_is_refused_in_a_sentence(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(SystemExit):
        memory.main(["--method", "source", "--no-remedies", *SMALL, "--png", str(tmp_path / "memory.png")])
    assert capsys.readouterr().err.strip() == "error: --png needs matplotlib: pip install 'fastuda[report]'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--card", "huge"], "--card must be a number of GiB"),
        (["--batch", "-1"], "--batch must be at least 1"),
        (["--snapshot", "x.pickle"], "--snapshot needs --measure"),
        (["--measure", "--png", "x.png"], "--png draws a forecast"),
        (["--method", "nonsense"], "nonsense"),
    ],
)
def test_bad_options_end_in_a_sentence(options, message, capsys):
    with pytest.raises(SystemExit):
        memory.main(options)
    assert message in capsys.readouterr().err


def test_out_of_memory_comes_with_the_advice():
    given = config("source", "--batch", "2")
    with pytest.raises(ValueError, match="out of GPU memory") as caught, out_of_memory(given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert advice(given) in str(caught.value) and "gradient checkpointing (--model.checkpointing)" in str(caught.value)
    with pytest.raises(KeyError), out_of_memory(given):
        raise KeyError("another error passes")


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_measuring_needs_a_gpu():
    with pytest.raises(ValueError, match="no CUDA device"):
        measure(config("source"))


@pytest.mark.gpu
@gpu.runs_kernels
def test_measured_on_a_gpu(tmp_path):
    given = config("source", "--amp")
    phases = measure(given, "", tmp_path / "snapshot.pickle")
    assert (tmp_path / "snapshot.pickle").stat().st_size
    steady = [m for m in phases if m.phase.part == "backward" and m.phase.step == 2]
    told = forecast(given)
    assert steady and all(0 < m.allocated <= m.active <= m.reserved <= m.card for m in steady)
    assert max(m.allocated for m in steady) == pytest.approx(told.owner.bytes, rel=0.25)
