"""Which methods there are: those of this package by name, and others as ``package.module:Class``."""

from __future__ import annotations

import dataclasses
import re

from fastuda._outside import import_object
from fastuda.data.config import close_name
from fastuda.methods.config import Recipe
from fastuda.methods.cpsl import CPSL
from fastuda.methods.drsl import DRSL, DRSLPlus
from fastuda.methods.mlsl import MLSL
from fastuda.methods.protocol import Method
from fastuda.methods.sdca import SDCA
from fastuda.methods.source import Oracle, Source
from fastuda.methods.spcl import SPCL

METHODS: dict[str, type[Method]] = {
    "source": Source,
    "oracle": Oracle,
    "sdca": SDCA,
    "spcl": SPCL,
    "cpsl": CPSL,
    "mlsl": MLSL,
    "drsl": DRSL,
    "drsl+": DRSLPlus,
}


def find_method(name: str) -> type[Method]:
    """The class of a method: a key of ``METHODS``, or "package.module:Class" of an importable module.

    Modules are found on ``sys.path`` and in the current directory.  Raises ValueError in one sentence for an unknown
    name, a module that cannot be imported, and a class that is no complete ``Method``.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise ValueError(
            f"--method '{name}' is not one of {', '.join(METHODS)}, and no package.module:Class"
            f"{close_name(name, METHODS)}"
        )
    found = import_object(name, "--method")
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ValueError(f"--method {name}: this is no subclass of fastuda.methods.Method")
    missing = [part for part in ("stages", "networks") if getattr(getattr(found, part), "__isabstractmethod__", False)]
    if missing:
        raise ValueError(f"--method {name}: the class does not define {' and '.join(f'{part}()' for part in missing)}")
    _check_config(name, found)
    return found


def _check_config(name: str, method: type[Method]) -> None:
    """Raises ValueError unless the method's section and its dataclass can be part of a configuration."""
    config, section = method.Config, method.section
    if config is None:
        if section and not hasattr(Recipe, section):
            raise ValueError(f"--method {name}: the section '{section}' needs a dataclass, the attribute Config")
        return
    if not re.fullmatch(r"[a-z][a-z0-9_]*", section):
        raise ValueError(f"--method {name}: section must be a name of small letters, digits and _, not '{section}'")
    if not dataclasses.is_dataclass(config) or not config.__dataclass_params__.frozen:
        raise ValueError(f"--method {name}: Config must be a dataclass with frozen=True")
    try:
        config()
    except TypeError as error:
        raise ValueError(f"--method {name}: every field of Config must have a default ({error})") from error


def build_method(recipe: Recipe, num_classes: int) -> Method:
    """The method that ``recipe.method`` names, with its networks, on the CPU."""
    return find_method(recipe.method)(recipe, num_classes)
