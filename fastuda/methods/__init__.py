"""The adaptation methods, one file each."""

from __future__ import annotations

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


def build_method(recipe: Recipe, num_classes: int) -> Method:
    """The method that ``recipe.method`` names, with its network, on the CPU."""
    return METHODS[recipe.method](recipe, num_classes)
