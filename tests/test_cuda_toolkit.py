"""Where setup.py finds CUDA: behind a wrapper of nvcc, in lib or lib64, in pip's package."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
from pathlib import Path

import needed
import pytest

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("cuda_toolkit", ROOT / "cuda_toolkit.py")
cuda_toolkit = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cuda_toolkit)


@pytest.fixture(autouse=True)
def nothing_is_installed(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "bin"), os.defpath]))
    monkeypatch.setattr(cuda_toolkit, "pip_packages", lambda pattern: [])


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def toolkit(folder: Path) -> Path:
    """A toolkit whose nvcc lists its steps as NVIDIA's does, on standard error."""
    program(folder / "bin/nvcc", 'echo "#\\$ _HERE_=$(dirname $0)" >&2; echo "#\\$ TOP=$(dirname $0)/.." >&2')
    return folder


def test_nvcc_behind_a_wrapper(tmp_path):
    real = toolkit(tmp_path / "cuda-13.0")
    program(tmp_path / "bin/nvcc", f'exec {real}/bin/nvcc "$@"')
    assert cuda_toolkit.find_toolkit() == real


def test_nvcc_behind_a_link_or_on_its_own(tmp_path, monkeypatch):
    real = toolkit(tmp_path / "cuda-13.0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvcc").symlink_to(real / "bin/nvcc")
    program(real / "bin/nvcc", "exit 1")  # lists nothing
    assert cuda_toolkit.find_toolkit() == real
    toolkit(real)
    monkeypatch.setenv("PATH", os.pathsep.join([str(real / "bin"), os.defpath]))
    assert cuda_toolkit.find_toolkit() == real


def test_the_environment_is_asked_first(tmp_path, monkeypatch):
    toolkit(tmp_path / "seen")
    program(tmp_path / "bin/nvcc", f'exec {tmp_path}/seen/bin/nvcc "$@"')
    monkeypatch.setenv("CUDA_PATH", str(toolkit(tmp_path / "second")))
    assert cuda_toolkit.find_toolkit() == tmp_path / "second"
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "first")))
    assert cuda_toolkit.find_toolkit() == tmp_path / "first"
    empty = tmp_path / "empty"
    monkeypatch.setenv("CUDA_HOME", str(empty))
    with pytest.raises(ValueError, match=f"CUDA_HOME is {empty}, but {empty}/bin/nvcc does not exist"):
        cuda_toolkit.find_toolkit()


def test_nvcc_from_pip_is_found_without_any_on_the_path(tmp_path, monkeypatch):
    if Path("/usr/local/cuda/bin/nvcc").is_file() or shutil.which("nvcc"):
        monkeypatch.setattr(cuda_toolkit.shutil, "which", lambda name: None)
        monkeypatch.setattr(
            cuda_toolkit.Path, "is_file", lambda path: str(path) == str(tmp_path / "nvidia/cu13/bin/nvcc")
        )
    monkeypatch.setattr(cuda_toolkit, "pip_packages", lambda pattern: [tmp_path / "nvidia/cu13"])
    toolkit(tmp_path / "nvidia/cu13")
    assert cuda_toolkit.find_toolkit() == tmp_path / "nvidia/cu13"


@pytest.mark.parametrize("folder", ["lib64", "lib", f"targets/{platform.machine()}-linux/lib"])
def test_the_runtime_library_lies_in_the_toolkit(tmp_path, folder):
    touch(tmp_path / folder / "libcudart.so")
    assert cuda_toolkit.runtime_library(tmp_path, 13) == ([str(tmp_path / folder)], "cudart")


def test_the_runtime_library_lies_in_pips_package(tmp_path, monkeypatch):
    packages = {"cu13": [tmp_path / "nvidia/cu13"], "cuda_runtime": [tmp_path / "nvidia/cuda_runtime"]}
    monkeypatch.setattr(cuda_toolkit, "pip_packages", lambda pattern: packages.get(pattern, []))
    touch(tmp_path / "nvidia/cu13/lib/libcudart.so.13")
    touch(tmp_path / "nvidia/cuda_runtime/lib/libcudart.so.12")
    new, old = str(tmp_path / "nvidia/cu13/lib"), str(tmp_path / "nvidia/cuda_runtime/lib")
    assert cuda_toolkit.runtime_library(tmp_path, 13) == ([new], ":libcudart.so.13")
    assert cuda_toolkit.runtime_library(tmp_path, 12) == ([old], ":libcudart.so.12")
    assert cuda_toolkit.runtime_library(tmp_path, 14) == ([], "cudart")


@pytest.mark.parametrize("where", ["toolkit", "pip"])
def test_what_is_found_links(tmp_path, monkeypatch, where):
    """The failure that this module is for: "cannot find -lcudart"."""
    monkeypatch.undo()
    found = cuda_toolkit.find_toolkit() if where == "toolkit" else tmp_path
    here = found is not None and (where == "toolkit" or cuda_toolkit.pip_packages("cuda_runtime"))
    needed.tool(here, f"the CUDA runtime library of the {where}")
    folders, name = cuda_toolkit.runtime_library(found, 12)
    source = tmp_path / "count.cpp"
    source.write_text('extern "C" int cudaGetDeviceCount(int*);\nint main() { int n; cudaGetDeviceCount(&n); }\n')
    command = ["g++", str(source), "-o", str(tmp_path / "count"), *(f"-L{folder}" for folder in folders), f"-l{name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert b"libcudart.so." in (tmp_path / "count").read_bytes()
