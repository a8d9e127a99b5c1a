"""A run so small that it takes seconds: 32x64 scenes, eight channels, a handful of steps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TINY = {
    "data": {
        "classes": "common11",
        "source": {"kind": "streets", "split": "train", "look": "rendered", "count": 6, "size": [32, 64]},
        "target": {
            "kind": "streets", "split": "train", "look": "camera", "count": 6, "size": [32, 64], "labelled": False
        },
        "validation": {"kind": "streets", "split": "val", "look": "camera", "count": 2, "size": [32, 64]},
    },
    "model": {"name": "unet", "width": 0.25},
    "views": {"source": {"flip": 0.5, "crop": [24, 48]}, "target": {"flip": 0.5}, "self_training": {"flip": 0.5}},
    "warm_up": {"schedule": {"iterations": 4, "learning_rate": 0.01, "batch": 2}},
    "sdca": {
        "schedule": {"iterations": 4, "learning_rate": 0.01, "batch": 2},
        "self_training": {"schedule": {"iterations": 4, "learning_rate": 0.01, "batch": 2}, "source": True},
    },
    "log_every": 1,
    "checkpoint_every": 2,
    "predictions": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_task() -> str:
    """The tiny task as YAML."""
    return yaml.safe_dump(TINY)


@pytest.fixture
def tiny(tmp_path: Path, tiny_task: str) -> Path:
    """Path of the tiny task's YAML."""
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_task)
    return path


@pytest.fixture
def command():
    """Start ``python -m fastuda.train`` with the given arguments in a child with one thread; it ends with the test."""
    started: list[subprocess.Popen] = []

    def start(*arguments: str | Path, module: str = "fastuda.train", **options) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:  # of a test that failed
        if process.poll() is None:
            process.kill()
        process.communicate()
