"""Files are whole or not there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastuda.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint, write_atomically, write_json


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
