"""Ranges of configuration values, checked when a configuration is made, long before the stage that uses them."""

from __future__ import annotations

import math
from typing import Any

# What a bound means: the words for the message, and whether a finite number fits.
_BOUNDS = {
    "positive": ("must be above 0", lambda x: x > 0),
    "not negative": ("must be at least 0", lambda x: x >= 0),
    "at least 1": ("must be at least 1", lambda x: x >= 1),
    "share": ("must be between 0 and 1", lambda x: 0 <= x <= 1),
    "half": ("must be between 0 and 0.5", lambda x: 0 <= x <= 0.5),
}


def check_bounds(config: Any, **bounds: str) -> None:
    """Raises ValueError naming the first field of ``config`` outside its bound, or not finite.

    bounds: field name -> one of positive, "not negative", "at least 1", share (0..1) and half (0..0.5).  Every element
    of a tuple is checked, and an empty one fits none.
    """
    for name, bound in bounds.items():
        value = getattr(config, name)
        words, fits = _BOUNDS[bound]
        parts = value if isinstance(value, tuple) else (value,)
        if not parts or not all(math.isfinite(part) and fits(part) for part in parts):
            raise ValueError(f"{name} {words}, not {value}")
