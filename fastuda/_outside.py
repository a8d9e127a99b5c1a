"""Code of a user's own that this package runs: ``package.module:Name``."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


def import_object(path: str, what: str) -> Any:
    """What ``package.module:Name`` names. The module is found as ``import`` finds it, or in the current directory.

    what: what is asked for, such as "the data layout"; opens every error message.
    Raises ValueError, in one sentence, for a path of another form, a module that is not there or fails while it is
    imported, and a name that it does not hold.
    """
    module_name, _, name = path.partition(":")
    parts = [*module_name.split("."), *name.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{what} '{path}' must be written package.module:Name")
    # An installed command does not look for modules where it was started; `python -m` does.
    if (here := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        found = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        raise ValueError(_not_imported(path, module_name, what, error)) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{what} '{path}': the module {module_name} ({_file(found)}) holds no '{name}'")
        found = getattr(found, part)
    return found


def _not_imported(path: str, module_name: str, what: str, error: Exception) -> str:
    missing = isinstance(error, ModuleNotFoundError) and error.name
    if missing and f"{module_name}.".startswith(f"{error.name}."):
        return f"{what} '{path}': there is no module {error.name}, neither installed nor in {os.getcwd()}"
    reason = " ".join(str(error).split())
    return f"{what} '{path}': the module {module_name} fails while it is imported: {type(error).__name__}: {reason}"


def _file(module: Any) -> str:
    return getattr(module, "__file__", None) or "built in"
