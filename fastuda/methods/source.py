"""Supervised training: on the source alone, everyone's warm-up and baseline, or on target labels, the upper bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.methods.config import Recipe, Schedule, TestTimeAugmentation
from fastuda.methods.presets import SUPERVISED
from fastuda.methods.protocol import Losses, Method, Networks, Stage, View, poly
from fastuda.models import build_model
from fastuda.models.norm import batch_norms
from fastuda.nn.losses import cross_entropy, lovasz_softmax, resize_labels


class Source(Method):
    """CE + λ_lov Lovász on the source (SDCA Eq. 17), and what every method shares that starts with this warm-up.

    With per-domain batch norm a second stage without steps estimates the target's statistics and is evaluated as the
    row ``target_statistics``: the control that any adaptation has to beat.
    """

    presets = SUPERVISED

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.num_classes = num_classes
        self.config = getattr(recipe, self.section) if self.section else None
        self.network = build_model(recipe.model, num_classes)
        self.norm: str = recipe.model.norm

    def networks(self) -> Networks:
        return Networks(self.network)

    @property
    def device(self) -> torch.device:
        return self.has_target_statistics.device

    def stages(self) -> list[Stage]:
        stages = [self.warm_up_stage()]
        if self.control_row:
            stages.append(
                Stage("target_statistics", 0, self.no_optimisers, self.warm_up, prepared_row=self.control_row)
            )
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
            source_only=True,
        )

    def source_view(self, schedule: Schedule) -> View:
        views = self.recipe.views
        return View(views.source, "truth", schedule.batch, views.rare_first)

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

    def predict_augmented(self, images: Tensor, augmentation: TestTimeAugmentation) -> Tensor:
        """log of the mean softmax over the augmented copies of the images, fp32 (N, K, h, w) of the largest copy.

        Of a single copy, upsampling it gives what upsampling its logits gives: both differ by a number a pixel.
        """
        predictions = []
        for scale in augmentation.scales:
            scaled = images if scale == 1.0 else F.interpolate(images, scale_factor=scale, mode="bilinear")
            for mirrored in (False, True) if augmentation.flip else (False,):
                logits = self.predict(scaled.flip(-1) if mirrored else scaled).float()
                predictions.append((logits.flip(-1) if mirrored else logits).softmax(1))
        size = max(prediction.shape[-2:] for prediction in predictions)
        resized = [F.interpolate(p, size=size, mode="bilinear", align_corners=True) for p in predictions]
        # A probability of 0 becomes the smallest positive one: its logarithm can be interpolated, -inf cannot.
        return torch.stack(resized).mean(0).clamp(min=torch.finfo(torch.float32).tiny).log()

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
        """Put every batch norm of the network into ``mode``, which is part of the state dict."""
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

    labelled_domain = "target"

    def stages(self) -> list[Stage]:
        return [self.warm_up_stage("oracle")]


def learning_rate(schedule: Schedule) -> Callable[[int], float]:
    """Iteration -> factor of the initial learning rate."""
    return poly(max(1, round(schedule.iterations * schedule.horizon)), warm_up=schedule.ramp)
