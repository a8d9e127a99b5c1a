"""Random generators whose numbers follow from a key alone.

A draw keyed by (seed, stage, iteration, slot) does not depend on what was drawn before it: that makes a resumed
run exact and the number of loading processes irrelevant.
"""

from __future__ import annotations

import numpy as np


def generator(*key: int) -> np.random.Generator:
    """A Philox generator for the key, a sequence of non-negative integers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
