"""The kernels of csrc/cuda, each built once a session to run under the emulation of tests/emulation."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import needed
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import emulated  # noqa: E402


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory) -> Callable[[str], ctypes.CDLL]:
    """Name -> the library of csrc/cuda/<name>.cu, compiled once for all workers of pytest-xdist."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "emulated"
    folder.mkdir(exist_ok=True)
    loaded: dict[str, ctypes.CDLL] = {}

    def library(name: str) -> ctypes.CDLL:
        needed.tool(emulated.have_compiler(), "g++")
        if name not in loaded:
            path = folder / f"{name}.so"
            if not path.exists():
                emulated.build(name, folder / f"{name}.{os.getpid()}.so").replace(path)
            loaded[name] = emulated.load(path)
        return loaded[name]

    return library


def _library(name: str):
    """A fixture: the library of csrc/cuda/<name>.cu."""

    @pytest.fixture(scope="session")
    def library(emulated_library):
        return emulated_library(name)

    return library


moments_library = _library("class_moments")
full_moments_library = _library("class_moments_full")
bound_library = _library("contrastive_bound")
full_bound_library = _library("contrastive_bound_full")
mode_losses_library = _library("mode_losses")
sinkhorn_library = _library("sinkhorn")
