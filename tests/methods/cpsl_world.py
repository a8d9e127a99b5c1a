"""CPSL on the small world, before and after its preparation."""

from __future__ import annotations

from dataclasses import replace

import torch
from methods.small_world import K, MemoryPasses, batch
from torch.nn import functional as F

from fastuda.data.config import Augment
from fastuda.methods import build_method
from fastuda.methods.config import CPSLConfig, Recipe
from fastuda.methods.cpsl import project
from fastuda.models.config import ModelConfig

PLAIN = CPSLConfig(samples=12, bank=64, random_operations=0, cut_mix=0.0, cut_out=0.0, strong=Augment())


class ScorePasses(MemoryPasses):
    """Passes that keep scores as well."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: dict[int, torch.Tensor] = {}

    def save_scores(self, index, scores):
        self.scores |= dict(zip(index.tolist(), scores.half(), strict=True))


def method(**cpsl):
    torch.manual_seed(0)
    return build_method(Recipe(method="cpsl", model=ModelConfig(width=0.25), cpsl=replace(PLAIN, **cpsl)), K).train()


def prepared(**cpsl):
    """The method after its preparation, and the target batch with what was stored of it."""
    cpsl, passes = method(**cpsl).eval(), ScorePasses()
    cpsl.prepare(cpsl.stages()[1], passes)
    target = replace(batch(1, labelled=False), scores=torch.stack([passes.scores[0], passes.scores[1]]))
    return cpsl, target


def labels_and_cosines(cpsl, target):
    with torch.no_grad():
        z = F.normalize(cpsl.run(target.images, "target").features, dim=1)
        cosines = project(z, cpsl.teacher_head.weight)
        return z, cpsl.rectified(cosines, target), cosines
