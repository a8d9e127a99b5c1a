"""The kernels of csrc/cuda, built once a session to run under the emulation of tests/emulation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import emulated  # noqa: E402


def _library(name: str):
    """A fixture: the library of csrc/cuda/<name>.cu."""

    @pytest.fixture(scope="session")
    def library(tmp_path_factory):
        if not emulated.have_compiler():
            pytest.skip("g++ is not installed")
        return emulated.load(emulated.build(name, tmp_path_factory.mktemp("emulated") / f"{name}.so"))

    return library


moments_library = _library("class_moments")
full_moments_library = _library("class_moments_full")
bound_library = _library("contrastive_bound")
full_bound_library = _library("contrastive_bound_full")
mode_losses_library = _library("mode_losses")
sinkhorn_library = _library("sinkhorn")
