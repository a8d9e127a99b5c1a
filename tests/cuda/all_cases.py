"""The cases of all operators under the emulation, from the files ``*cases.py`` here.

Each of them has TABLES = {operator, as its file in csrc/cuda is called: {name of a case: function of the library}}.
"""

from __future__ import annotations

import importlib
from pathlib import Path

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*cases.py") if path.stem != "all_cases")
CASES = {
    operator: table for name in MODULES for operator, table in importlib.import_module(name).TABLES.items()
}  # fmt: skip
