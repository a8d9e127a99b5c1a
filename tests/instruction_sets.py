"""Tests again in a process whose CPU kernels are those of an older instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

ISAS = ("portable", "avx2")
PROGRAM = """
import sys
import pytest
from fastuda.ops import build_facts
assert build_facts()["cpu_isa"] in ("portable", {isa!r})
options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-m", ""]
sys.exit(pytest.main([*options, *{files!r}, "-k", {chosen!r}]))
"""


def assert_passes(isa: str, chosen: str, *files: str) -> None:
    """The tests of ``files`` that ``chosen`` (of pytest's -k) names pass with ``isa``, or portable if there is no such.

    Those whose names hold "instruction_set" are left out.
    """
    program = PROGRAM.format(isa=isa, files=files, chosen=f"not instruction_set and ({chosen})")
    options = {"args": [sys.executable, "-c", program], "env": os.environ | {"FASTUDA_CPU_ISA": isa}}
    done = subprocess.run(**options, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
