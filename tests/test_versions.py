"""tests/versions.py says which file does not compile, and what it compiles against."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
import versions


def test_the_oldest_torch_is_the_one_that_is_promised():
    assert versions.oldest_torch() == "2.10.0"


def test_a_file_that_does_not_compile_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "ROOT", tmp_path)
    (tmp_path / "csrc/cpu").mkdir(parents=True)
    (tmp_path / "csrc/library.cpp").write_text(
        "#include <torch/csrc/stable/tensor.h>\nstatic_assert(FASTUDA_WITH_CUDA == 0);"
    )
    (tmp_path / "csrc/cpu/sum.cpp").write_text('#error "refused"')
    include = Path(torch.__file__).parent / "include"
    failed = versions.compile_all(include, sysconfig.get_paths()["include"], None)
    assert list(failed) == ["csrc/cpu/sum.cpp"] and "refused" in failed["csrc/cpu/sum.cpp"]
