import importlib
import os
import subprocess
import sys

import pytest
import torch

from fastuda import _ext
from fastuda.ops import _library, backend_report, build_facts


@pytest.fixture(scope="module")
def operator() -> str:
    _library.define("test_library_add_one(Tensor x) -> Tensor", lambda x: x + 1, torch.empty_like)
    return "test_library_add_one"


def test_reference_serves_every_device_until_a_kernel_is_registered(operator):
    op = getattr(torch.ops.fastuda, operator)
    assert not _library.has_kernel(operator, "CPU")
    assert op(torch.zeros(2)).tolist() == [1.0, 1.0]
    assert op(torch.zeros(2, device="meta")).shape == (2,)
    _library.register(operator, "CPU", lambda x: x + 2)
    assert op(torch.zeros(2)).tolist() == [2.0, 2.0]
    assert backend_report()[operator]["CPU"] == "compiled"
    with pytest.raises(RuntimeError, match="already holds a kernel for CPU"):
        _library.register(operator, "CPU", lambda x: x)


def test_a_name_is_defined_once(operator):
    with pytest.raises(RuntimeError, match="already defined"):
        _library.define(f"{operator}(Tensor x) -> Tensor", lambda x: x, torch.empty_like)


def test_report_names_every_operator():
    report = backend_report()
    assert {"class_moments", "class_moments_full"} <= set(report)
    for name, row in report.items():  # a form with GPU kernels of its own has no row for the CPU
        assert set(row) == ({"CPU", "CUDA"} if name in _library.operator_names() else {"CUDA"})


def test_build_facts(compiled):
    facts = build_facts()
    assert facts["torch_target_version"] == 0x020A000000000000
    assert facts["cpu_isa"] in ("portable", "avx2", "avx512")


def test_the_reference_can_be_asked_for():
    code = "import fastuda.ops as o; assert o.backend_report()['class_moments']['CPU'] == 'reference'"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"FASTUDA_BACKEND": "reference"})


def test_the_extension_is_imported_first(compiled):
    """In a process that has not imported torch, whose libraries the extension needs."""
    code = "import fastuda._C; from fastuda.ops import backend_report as r; assert r()['sinkhorn']['CPU'] == 'compiled'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setenv("FASTUDA_BACKEND", "fastest")
    with pytest.raises(ValueError, match="FASTUDA_BACKEND"):
        _ext.load()


def test_not_built_is_allowed(monkeypatch):
    monkeypatch.delenv("FASTUDA_BACKEND", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _ext.load() is None


def test_built_but_not_loading_is_one_clear_error(tmp_path, monkeypatch):
    broken = tmp_path / "_C.so"
    broken.write_bytes(b"not a library")
    spec = importlib.util.spec_from_file_location("fastuda._C", broken, loader=None)
    monkeypatch.delenv("FASTUDA_BACKEND", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)

    def fail(name):
        raise ImportError("undefined symbol: x")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"built but does not load with torch .*undefined symbol"):
        _ext.load()
