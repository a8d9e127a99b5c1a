"""Loads the compiled extension ``fastuda._C``, whose kernels register themselves with the dispatcher."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

import torch

BACKENDS = ("auto", "reference", "cuda", "triton")


def requested_backend() -> str:
    """FASTUDA_BACKEND: "auto" (compiled kernels where built), "reference", or on GPUs "cuda" or "triton" alone."""
    name = os.environ.get("FASTUDA_BACKEND", "auto")
    if name not in BACKENDS:
        raise ValueError(f"FASTUDA_BACKEND must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def load() -> ModuleType | None:
    """Load ``fastuda._C``; None if it was not built or FASTUDA_BACKEND=reference.

    Raises ImportError if it was built but does not load: falling back in silence would hide a broken installation.
    """
    if requested_backend() == "reference":
        return None
    spec = importlib.util.find_spec("fastuda._C")
    if spec is None:
        return None
    try:
        return importlib.import_module("fastuda._C")
    except ImportError as error:
        raise ImportError(
            f"the compiled extension {spec.origin} was built but does not load with torch {torch.__version__} "
            f"({error}); reinstall fastuda against this torch (2.10 or newer)"
        ) from error


extension = load()
