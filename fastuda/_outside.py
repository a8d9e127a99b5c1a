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
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise ValueError(f"{what} '{path}' must have the form package.module:Class")
    # The command `fastuda` does not search the directory that it is called in, as `python -m` does.
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if isinstance(error, ModuleNotFoundError):
            reason += f"; modules are looked for where Python has them and in {here}"
        raise ValueError(f"{what} {path}: cannot import {module_name} ({reason})") from error
    if not hasattr(module, name):
        file = getattr(module, "__file__", None) or "built in"
        raise ValueError(f"{what} {path}: {module_name} ({file}) has no {name}")
    return getattr(module, name)
