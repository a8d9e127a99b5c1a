"""Whatever the user or the machine gets wrong ends in one sentence, a non-zero status and an intact checkpoint."""

from __future__ import annotations

import os
import resource
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from fastuda.data.loader import LOST_WORKER
from fastuda.train.checkpoint import load_checkpoint, load_run, save_checkpoint, write_atomically
from fastuda.train.config import Config, from_dict, parse
from fastuda.train.loop import train
from fastuda.train.meter import Log
from fastuda.train.restore import one_sentence


def folder_task(tmp_path, tiny, **changes):
    """The tiny task with a source of four 32x64 files on disk."""
    root = tmp_path / "pictures"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        Image.fromarray(np.full((32, 64), number, np.uint8)).save(root / "labels" / f"{number}.png")
    task = yaml.safe_load(tiny.read_text())
    task["data"]["source"] = {"kind": "folder", "root": str(root), "size": [32, 64], "ids": "trainids"} | changes
    path = tmp_path / "folder.yaml"
    path.write_text(yaml.safe_dump(task))
    return path, root


@pytest.fixture
def here(capsys):
    """Runs a command in this process, where torch is imported already: its exit status and standard error."""

    def run(*arguments, module="train") -> tuple[object, str]:
        capsys.readouterr()
        try:
            status = import_module(f"fastuda.cli.{module}").main([*map(str, arguments)]) or 0
        except SystemExit as left:
            status = left.code
        return status, capsys.readouterr().err

    return run


def ended(process) -> tuple[object, str]:
    """The same of a child."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.fixture(scope="module")
def finished(tiny_task, tmp_path_factory) -> Path:
    """The directory of a finished run; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("finished")
    content = yaml.safe_load(tiny_task) | {"work_dir": str(folder / "run")}
    train(from_dict(Config, content, "tiny"), Console(quiet=True))
    return folder / "run"


def fails_with(outcome: tuple[object, str], *parts) -> None:
    status, errors = outcome
    assert status not in (0, None), errors
    assert errors.count("\n") == 1 and errors.startswith("error: "), errors
    for part in parts:
        assert part in errors, errors


def test_missing_directory(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny, root=str(tmp_path / "nowhere"))
    fails_with(here("--task", path, "--work-dir", tmp_path / "run"), "nowhere")
    assert not (tmp_path / "run").exists()


def test_unknown_method(tiny, tmp_path, here):
    fails_with(here("--task", tiny, "--work-dir", tmp_path / "run", "--method", "sdcaa"), "sdcaa", "source, oracle")
    assert not (tmp_path / "run").exists()


def test_label_id_outside_the_table(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny)
    Image.fromarray(np.full((32, 64), 77, np.uint8)).save(root / "labels" / "2.png")
    fails_with(here("--task", path, "--work-dir", tmp_path / "run"), "2.png", "77")


def test_size_mismatch(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny)
    Image.fromarray(np.zeros((30, 64), np.uint8)).save(root / "labels" / "1.png")
    fails_with(here("--task", path, "--work-dir", tmp_path / "run"), "1.png")


def test_a_missing_translated_image(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny)
    fake = tmp_path / "fake"
    fake.mkdir()
    for number in (0, 1, 3):
        Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(fake / f"{number}.jpg")
    options = ("--task", path, "--work-dir", tmp_path / "run", "--data.source.translated", fake)
    fails_with(here(*options), str(fake), "images/2.png")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data.source.translated", "fake"], "translated needs source images in files"),
        (["--data.target.kind", "gta5", "--data.target.translated", "fake"], "copies of the source's"),
    ],
)
def test_only_a_source_in_files_has_translated_images(tiny, capsys, options, sentence):
    with pytest.raises(SystemExit) as left:
        parse(["--task", str(tiny), *options])
    assert left.value.code == 2 and sentence in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_empty_split(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny, split="none.txt")
    (root / "none.txt").write_text("\n")
    fails_with(here("--task", path, "--work-dir", tmp_path / "run"), "none.txt")


def test_labelled_target_is_refused(tiny, tmp_path, here):
    task = yaml.safe_load(tiny.read_text())
    task["data"]["target"]["labelled"] = True
    tiny.write_text(yaml.safe_dump(task))
    fails_with(here("--task", tiny, "--work-dir", tmp_path / "run"), "data.target.labelled")


def test_a_file_in_place_of_the_work_dir(tiny, tmp_path, here):
    (tmp_path / "file").write_text("")
    fails_with(here("--task", tiny, "--work-dir", tmp_path / "file" / "run"), "file")


def test_a_work_dir_where_nobody_may_write(tiny, here):
    # Root may write wherever a mode forbids it, but makes no directory in the kernel's own.
    fails_with(here("--task", tiny, "--work-dir", "/sys/fastuda"), "cannot create the working directory /sys/fastuda")


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_its_last_checkpoint(tiny, tmp_path, command):
    """A checkpoint in the middle of a stage holds optimisers as well: it is the first that does not fit any more."""
    work_dir = tmp_path / "run"

    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    process = command("--task", tiny, "--work-dir", work_dir, preexec_fn=full)
    fails_with(ended(process), "cannot write", "checkpoint.pt: File too large; the previous one is intact")
    assert load_run(work_dir / "checkpoint.pt")["position"]["iteration"] == 0
    assert not list(work_dir.glob(".*"))
    process = command("--work-dir", work_dir, "--resume")
    assert process.wait(240) == 0, process.stderr.read()


def test_a_full_disk_under_the_log(tmp_path):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"^cannot write .*log\.jsonl: No space left on device$"):
        Log(tmp_path, tensorboard=False).write("start", {"stage": 0})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image(tiny, tmp_path, here, workers):
    path, root = folder_task(tmp_path, tiny)
    image = root / "images" / "3.png"
    image.write_bytes(image.read_bytes()[:2000])
    fails_with(here("--task", path, "--work-dir", tmp_path / "run", "--data.workers", workers), "3.png cannot be read")
    load_run(tmp_path / "run" / "checkpoint.pt")


@pytest.mark.slow
def test_a_killed_loading_process(tiny, tmp_path, command):
    work_dir = tmp_path / "run"
    process = command(
        "--task", tiny, "--work-dir", work_dir, "--data.workers", "1", "--warm-up.schedule.iterations", "5000"
    )
    log, children = work_dir / "log.jsonl", Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while '"iteration": 3' not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    (worker,) = children.read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    fails_with(ended(process), "a data loading process was killed", "data.workers=0")
    assert load_run(work_dir / "checkpoint.pt")["position"]["iteration"] >= 2


def test_a_loading_process_that_is_killed_while_a_checkpoint_is_written(tmp_path, capsys):
    def write(_):
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")  # torch's handler of SIGCHLD
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")  # torch.save's end

    handler = signal.getsignal(signal.SIGCHLD)
    try:
        with pytest.raises(SystemExit), one_sentence():
            write_atomically(tmp_path / "checkpoint.pt", write)
    finally:
        signal.signal(signal.SIGCHLD, handler)
    assert capsys.readouterr().err == f"error: {LOST_WORKER}\n"
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_network(finished, tmp_path, here):
    work_dir = copytree(finished, tmp_path / "run")
    path = work_dir / "checkpoint.pt"
    state = load_run(path)
    state["method"].popitem()
    save_checkpoint(path, state)
    for module, arguments in (("train", ("--work-dir", work_dir, "--resume")), ("evaluate", (work_dir,))):
        fails_with(here(*arguments, module=module), "checkpoint.pt does not fit the method", "Missing key")


def test_damaged_checkpoint(finished, tmp_path, here):
    work_dir = copytree(finished, tmp_path / "run")
    path = work_dir / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    fails_with(here("--work-dir", work_dir, "--resume"), "checkpoint.pt", "damaged")
    fails_with(here(work_dir, module="evaluate"), "checkpoint.pt", "damaged")


def test_nan_names_the_loss_and_keeps_the_checkpoint(tiny, tmp_path, here):
    work_dir = tmp_path / "run"
    outcome = here("--task", tiny, "--work-dir", work_dir, "--warm-up.schedule.learning-rate", "1e30")
    fails_with(outcome, "loss 'ce' is", "warm_up", "iteration", "checkpoint.pt")
    state = load_checkpoint(work_dir / "checkpoint.pt")
    assert all(torch.isfinite(v).all() for v in state["method"].values() if isinstance(v, torch.Tensor))


def test_an_impossible_width(tiny, tmp_path, here):
    fails_with(here("--task", tiny, "--work-dir", tmp_path / "run", "--model.width", "0"), "width")


@pytest.mark.parametrize(
    "option, value",
    [
        ("--sdca.temperature", "0"),
        ("--sdca.temperature", "nan"),
        ("--sdca.confidence", "1.5"),
        ("--sdca.self-training.quantile", "7"),
        ("--sdca.self-training.scales", "0"),
        ("--cpsl.epsilon", "-0.05"),
        ("--mlsl.least-share", "inf"),
        ("--drsl.sigma2", "0"),
        ("--spcl.adversarial.depth", "0"),
        ("--warm-up.schedule.horizon", "nan"),
        ("--views.source.scale", "1 inf"),
        ("--views.target.flip", "2"),
        ("--seed", "-1"),
    ],
)
def test_a_value_of_any_stage_is_refused_before_the_first_step(option, value, capsys):
    """Also where the chosen method does not use it: the same file may serve another method."""
    with pytest.raises(SystemExit) as caught:
        parse(["--method", "sdca", option, *value.split()])
    errors = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert caught.value.code == 2 and f"{option.rsplit('.')[-1].strip('-').replace('-', '_')} " in errors, errors


def test_a_value_of_a_task_file_is_refused_with_its_place(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("sdca: {self_training: {quantile: 7}}\n")
    with pytest.raises(ValueError, match=r"task\.yaml\.sdca\.self_training: quantile must be between 0 and 1, not 7"):
        parse(["--task", str(path)])


@pytest.mark.parametrize("part", ["source", "validation"])
def test_data_without_labels_are_refused_where_labels_are_used(part, capsys):
    with pytest.raises(SystemExit):
        parse([f"--data.{part}.no-labelled"])
    assert f"{part}.labelled must be true" in " ".join(capsys.readouterr().err.split())


def test_a_validation_split_that_is_ignored_everywhere(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny)
    task = yaml.safe_load(path.read_text())
    task["data"]["validation"] = task["data"]["source"] | {"ids": "ids.yaml"}
    (root / "ids.yaml").write_text("".join(f"{i}: 255\n" for i in range(4)))
    path.write_text(yaml.safe_dump(task))
    fails_with(
        here("--task", path, "--work-dir", tmp_path / "run"), "all pixels of the 4 validation labels are ignored"
    )
    assert not (tmp_path / "run").exists()


def test_method_and_preset_of_a_task_file_hold(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("method: spcl\npreset: released\n")
    config = parse(["--task", str(path)])
    assert (config.method, config.preset, config.warm_up.lovasz) == ("spcl", "released", 0.0)
    assert parse(["--task", str(path), "--method", "sdca"]).method == "sdca"


def test_a_run_outside_the_main_thread(tiny_task, tmp_path):
    config = from_dict(
        Config, yaml.safe_load(tiny_task) | {"method": "source", "work_dir": str(tmp_path / "run")}, "tiny"
    )
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(train, config, Console(quiet=True)).result()
    assert len(result.stages) == 2


def test_an_all_ignored_source_is_no_error(tiny, tmp_path, here):
    path, root = folder_task(tmp_path, tiny)
    for label in (root / "labels").iterdir():
        Image.fromarray(np.full((32, 64), 255, np.uint8)).save(label)
    status, errors = here("--task", path, "--work-dir", tmp_path / "run")
    assert status == 0, errors
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert '"loss_ce": 0.0' in log and "NaN" not in log
