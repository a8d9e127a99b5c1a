"""Builds single files of csrc/cpu outside the package: for one instruction set, with planted faults, under sanitizers.

Such a library registers its operators when it is loaded into a process started with FASTUDA_BACKEND=reference.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
DEFINES = (
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-DTORCH_STABLE_ONLY",
    "-DFASTUDA_WITH_CUDA=0",
    "-DFASTUDA_ONE_LEVEL",
)
FLAGS = ("-shared", "-fPIC", "-std=c++20", "-Wno-psabi", "-fvisibility=hidden", *DEFINES)


def have_compiler() -> bool:
    return shutil.which("g++") is not None


def instruction_set() -> str:
    """The best of "avx512", "avx2" and "portable" that this machine runs."""
    found = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(found, "portable")


def one_instruction_set(sources: Path, isa: str, fewer_dtypes: bool = False) -> None:
    """Leaves one instruction set in a copy of csrc, as compiling all of them is most of the time; with ``fewer_dtypes``
    no float64."""
    path = sources / "cpu/simd.h"
    text, old = path.read_text(), "inline Isa cpu_isa() {"
    assert text.count(old) == 1
    path.write_text(text.replace(old, f"constexpr Isa cpu_isa() {{ return Isa::{isa}; }}\ninline Isa found_isa() {{"))
    if fewer_dtypes:
        path = sources / "cpu/parallel.h"
        text, old = path.read_text(), "return run.template operator()<double>();"
        assert text.count(old) == 1
        path.write_text(text.replace(old, "return run.template operator()<float>();"))


def build(name: str, target: Path, sources: Path = ROOT / "csrc", flags: tuple[str, ...] = ("-O1",)) -> Path:
    """Compiles csrc/cpu/<name>.cpp of ``sources``; RuntimeError with the compiler's words if it fails."""
    package = Path(torch.__file__).parent
    command = ["g++", *FLAGS, *flags, f"-I{sources}", f"-I{package / 'include'}"]
    command += [f"-I{package / 'include/torch/csrc/api/include'}", str(sources / f"cpu/{name}.cpp"), "-o", str(target)]
    command += [f"-L{package / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}.cpp does not compile: {done.stderr[-2000:]}")
    return target
