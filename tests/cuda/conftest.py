"""The kernels of csrc/cuda, built once a session to run under the emulation of tests/emulation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import emulated  # noqa: E402


def _library(name: str, tmp_path_factory):
    if not emulated.have_compiler():
        pytest.skip("g++ is not installed")
    return emulated.load(emulated.build(name, tmp_path_factory.mktemp("emulated") / f"{name}.so"))


@pytest.fixture(scope="session")
def moments_library(tmp_path_factory):
    return _library("class_moments", tmp_path_factory)


@pytest.fixture(scope="session")
def full_moments_library(tmp_path_factory):
    return _library("class_moments_full", tmp_path_factory)


@pytest.fixture(scope="session")
def bound_library(tmp_path_factory):
    return _library("contrastive_bound", tmp_path_factory)


@pytest.fixture(scope="session")
def full_bound_library(tmp_path_factory):
    return _library("contrastive_bound_full", tmp_path_factory)


@pytest.fixture(scope="session")
def mode_losses_library(tmp_path_factory):
    return _library("mode_losses", tmp_path_factory)


@pytest.fixture(scope="session")
def sinkhorn_library(tmp_path_factory):
    return _library("sinkhorn", tmp_path_factory)
