"""Files are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from fastuda.train.checkpoint import (
    CheckpointError,
    fill_method,
    load_checkpoint,
    load_run,
    save_checkpoint,
    write_atomically,
    write_json,
)
from fastuda.train.config import Config
from fastuda.train.work_dir import choose_work_dir


def test_round_trip(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.arange(5), "rows": [{"name": "source", "iou": {"road": None}}]})
    state = load_checkpoint(path)
    assert torch.equal(state["weights"], torch.arange(5))
    assert state["rows"] == [{"name": "source", "iou": {"road": None}}]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"seed": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write .*result\.json: No space left on device; the previous one is intact"
    ):
        write_json(path, {"seed": 2})
    monkeypatch.undo()
    assert '"seed": 1' in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_read_only_directory(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_json(path, {"seed": 1})

    def read_only(**_):
        raise OSError(30, "Read-only file system")

    # Root, as whom CI may run, writes into any directory whatever its mode.
    monkeypatch.setattr(tempfile, "mkstemp", read_only)
    with pytest.raises(
        OSError, match=r"^cannot write .*result\.json: Read-only file system; the previous one is intact$"
    ):
        write_json(path, {"seed": 2})
    assert '"seed": 1' in path.read_text()


def test_what_a_killed_run_had_begun_to_write_is_removed_when_it_goes_on(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"weights": torch.ones(1)})
    (tmp_path / "pseudo_labels").mkdir()
    kept = [tmp_path / "checkpoint.pt", tmp_path / "pseudo_labels" / "000000.png", tmp_path / ".somebody.elses.tmp"]
    begun = [tmp_path / ".checkpoint.pt.8_hf0q2c.tmp", tmp_path / "pseudo_labels" / ".000001.png.abcd1234.tmp"]
    for path in (*kept[1:], *begun):
        path.write_bytes(b"half")
    with pytest.raises(ValueError, match="already holds a run"):
        choose_work_dir(Config(work_dir=str(tmp_path)))
    assert all(path.exists() for path in begun)
    choose_work_dir(Config(work_dir=str(tmp_path), resume=True))
    assert all(path.exists() for path in kept) and not any(path.exists() for path in begun)


def test_the_unfinished_file_has_the_name_that_is_looked_for(tmp_path):
    def look(_):
        (begun,) = tmp_path.iterdir()
        begun.with_name(f"{begun.name.removesuffix('.tmp')}z.tmp").write_bytes(begun.read_bytes())

    write_atomically(tmp_path / "checkpoint.pt", look)
    assert len(list(tmp_path.iterdir())) == 2
    choose_work_dir(Config(work_dir=str(tmp_path), resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_full_disk_under_torch_save(tmp_path):
    """A real write limit of the kernel, which torch.save meets in the middle of a tensor."""
    script = f"""
import resource, signal, torch
from pathlib import Path
from fastuda.train.checkpoint import save_checkpoint
path = Path({str(tmp_path / "checkpoint.pt")!r})
save_checkpoint(path, {{"weights": torch.ones(10)}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    save_checkpoint(path, {{"weights": torch.zeros(1_000_000)}})
except OSError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "the previous one is intact" in done.stdout
    assert load_checkpoint(tmp_path / "checkpoint.pt")["weights"].sum() == 10
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x02}q\x00."])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is"):
        load_checkpoint(path)


def test_truncated_and_missing(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, {"weights": torch.ones(100_000)})
    path.write_bytes(path.read_bytes()[:200_000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        load_checkpoint(path)


def test_one_changed_bit_is_found(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"weights": torch.full((1000,), 2.0)})
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((2,), 2.0).numpy().tobytes()) + 3
    content[place] ^= 1
    path.write_bytes(content)
    # The lesson: torch itself reads it and says nothing.
    assert torch.load(path, weights_only=True)["weights"].ne(2.0).sum() == 1
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged"):
        load_checkpoint(path)


def test_a_checkpoint_that_is_not_of_a_run(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"config": {}, "weights": torch.ones(2)})
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt .* lacks method, optimisers, position$"):
        load_run(path)


@pytest.mark.parametrize("state", [{"weight": torch.ones(3, 2)}, {"other": torch.ones(1)}, [1, 2]])
def test_a_checkpoint_of_another_method(state):
    with pytest.raises(CheckpointError, match=r"^run/checkpoint\.pt does not fit the method that it names: ") as caught:
        fill_method(torch.nn.Linear(2, 2), state, Path("run/checkpoint.pt"))
    assert "\n" not in str(caught.value)


def test_a_code_carrying_pickle_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    path = tmp_path / "checkpoint.pt"
    torch.save({"format": 1, "weights": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "pwned").exists()


def test_write_needs_its_directory(tmp_path):
    with pytest.raises(OSError):
        write_atomically(tmp_path / "missing" / "file", lambda file: file.write(b"x"))
