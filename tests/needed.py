"""What a test needs and may not find: a compiler, Triton, a library. Missing, it skips the test; in CI it fails it.

.ci/run sets FASTUDA_CI=1: there everything is installed, and a test that is skipped for want of it checks nothing.
"""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Ends the test, or the collection of its file, with the reason."""
    if os.environ.get("FASTUDA_CI") == "1":
        pytest.fail(f"{reason}, and FASTUDA_CI=1 says that everything is installed", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def module(name: str) -> ModuleType:
    """The library, imported; in the place of pytest.importorskip."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        missing(f"{name} is not installed")


def tool(found: object, name: str) -> None:
    """``found`` is what a search for the tool returned: nothing means that it is missing."""
    if not found:
        missing(f"{name} is not installed")
