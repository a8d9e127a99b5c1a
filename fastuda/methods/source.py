"""Supervised training: on the source alone, everyone's warm-up and baseline, or on target labels, the upper bound."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.methods.config import Looks, Recipe, Schedule
from fastuda.methods.protocol import Losses, Method, Passes, Stage, View, poly
from fastuda.models import build_model
from fastuda.models.norm import batch_norms, recompute_statistics, use_domain
from fastuda.models.output import Output
from fastuda.nn.losses import cross_entropy, lovasz_softmax, resize_labels


class Source(Method):
    """CE + λ_lov Lovász on the source (SDCA Eq. 17).

    With per-domain batch norm a second stage without steps gathers the target's statistics, which gives the row
    ``target_statistics``: the control that any adaptation has to beat.
    """

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_classes = num_classes
        self.network = build_model(recipe.model, num_classes)
        self.norm: str = recipe.model.norm
        self.register_buffer("target_statistics_known", torch.zeros((), dtype=torch.bool))

    def stages(self) -> list[Stage]:
        stages = [self.warm_up_stage()]
        if self.control_row:
            stages.append(
                Stage("target_statistics", 0, self.no_optimisers, self.warm_up, prepare=self.know_target,
                      prepared_row=self.control_row)
            )  # fmt: skip
        return stages

    @property
    def control_row(self) -> str:
        """The row of the warmed-up network with the target's statistics; none where the domains share theirs."""
        return "target_statistics" if self.recipe.model.norm == "per_domain" else ""

    def warm_up_stage(self, row: str = "source") -> Stage:
        schedule = self.recipe.warm_up.schedule
        return Stage(
            name="warm_up",
            iterations=schedule.iterations,
            optimisers=lambda: self.optimisers(schedule),
            step=self.warm_up,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            row=row,
        )

    def source_view(self, schedule: Schedule) -> View:
        views = self.recipe.views
        return View(views.source, "truth", schedule.batch, views.rare_first)

    def run(self, images: Tensor, domain: str) -> Output:
        """The network under the batch statistics of ``domain``."""
        with use_domain(self.network, domain):
            return self.network(images)

    def warm_up(self, source: Batch, target: None) -> Iterator[Losses]:
        yield {"network": self.supervised(self.run(source.images, "source").logits, source.labels)}

    def supervised(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """L_ce + λ_lov L_lov at the label's resolution."""
        config = self.recipe.warm_up
        losses = {"ce": cross_entropy(logits, labels)}
        if config.lovasz:
            if config.lovasz_at == "logits":
                labels = resize_labels(labels, logits.shape[-2:])
            losses["lovasz"] = config.lovasz * lovasz_softmax(logits, labels)
        return losses

    @torch.no_grad()
    def know_target(self, passes: Passes) -> None:
        """Gather the target's batch-norm statistics, where they are kept apart from the source's."""
        if self.recipe.model.norm == "per_domain":
            recompute_statistics(self.network, (batch.images for batch in passes.target()), "target")
        self.target_statistics_known.fill_(True)

    def predict(self, images: Tensor) -> Tensor:
        return self.run(images, "target" if self.target_statistics_known else "source").logits

    def looks(self, images: Tensor, config: Looks) -> Tensor:
        """log of the mean softmax over the configured looks at the images, fp32 (N, K, h, w) of the largest look.

        Of a single look, upsampling it gives what upsampling its logits gives: both differ by a number a pixel.
        """
        looks = []
        for scale in config.scales:
            scaled = images if scale == 1.0 else F.interpolate(images, scale_factor=scale, mode="bilinear")
            for mirror in (False, True) if config.flip else (False,):
                logits = self.predict(scaled.flip(-1) if mirror else scaled).float()
                looks.append((logits.flip(-1) if mirror else logits).softmax(1))
        size = max(look.shape[-2:] for look in looks)
        looks = [F.interpolate(look, size=size, mode="bilinear", align_corners=True) for look in looks]
        # An impossible class stays finite: half of infinity is no score to interpolate with.
        return torch.stack(looks).mean(0).clamp(min=torch.finfo(torch.float32).tiny).log()

    def optimisers(self, schedule: Schedule, norm: str = "same") -> dict[str, torch.optim.Optimizer]:
        """The optimiser of a stage that trains with batch norm in mode ``norm``."""
        config = self.recipe.optimiser
        if norm != "same":
            self.set_norm(norm)
        groups = [
            {"params": self.network.backbone_parameters(), "lr": schedule.learning_rate},
            {"params": self.network.classifier_parameters(), "lr": schedule.learning_rate * config.classifier_factor},
        ]
        if config.name == "adamw":
            return {"network": torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)}
        sgd = torch.optim.SGD(groups, momentum=config.momentum, weight_decay=config.weight_decay, fused=True)
        return {"network": sgd}

    def set_norm(self, mode: str) -> None:
        """Put every batch norm of the network into ``mode``, which the state dict remembers."""
        self.norm = mode
        for layer in batch_norms(self.network).values():
            layer.mode = mode
            layer.weight.requires_grad_(mode != "frozen")
            layer.bias.requires_grad_(mode != "frozen")

    def get_extra_state(self) -> dict[str, str]:
        return {"norm": self.norm}

    def set_extra_state(self, state: dict[str, str]) -> None:
        self.set_norm(state["norm"])

    @staticmethod
    def no_optimisers() -> dict[str, torch.optim.Optimizer]:
        return {}


class Oracle(Source):
    """The warm-up on labelled target images, which the trainer gives it as source: the upper bound of adaptation."""

    def stages(self) -> list[Stage]:
        return [self.warm_up_stage("oracle")]


def learning_rate(schedule: Schedule):
    """The factor of the learning rate by iteration."""
    return poly(max(1, round(schedule.iterations * schedule.horizon)), warm_up=schedule.ramp)
