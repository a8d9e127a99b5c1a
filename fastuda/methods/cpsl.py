"""CPSL: class-balanced pixel-level self-labelling (Li et al., CVPR 2022), Eq. 1-14, and its distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.data.photometric import IMAGENET_MEAN, IMAGENET_STD, Photometric
from fastuda.methods.config import Recipe, Schedule
from fastuda.methods.protocol import Losses, Passes, Stage, View
from fastuda.methods.source import Source, learning_rate
from fastuda.models import build_model
from fastuda.models.norm import use_domain
from fastuda.nn.feature_bank import FeatureBank
from fastuda.nn.losses import cross_entropy, resize_labels
from fastuda.nn.statistics import ClassStatistics
from fastuda.nn.strong_views import StrongView, crop_scores, cut_mix, cut_out, random_augment
from fastuda.ops.class_balanced_sample import class_balanced_sample
from fastuda.ops.prototype_rectify import prototype_rectify
from fastuda.ops.pseudo_labels import pseudo_labels
from fastuda.ops.sinkhorn import sinkhorn
from fastuda.ops.softmax_kl import distillation_kl, symmetric_kl


class CPSL(Source):
    """Warm-up, self-labelling with a moving teacher and rectified labels, distillation into fresh students."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        self.config = recipe.cpsl
        channels = self.network.feature_channels
        self.head = nn.Linear(channels, num_classes, bias=False)  # f_SL
        self.teacher = frozen(self.network)  # moving averages f'_SEG and f'_SL, then the teacher of a distillation
        self.teacher_head = frozen(self.head)
        self.bank = FeatureBank(channels, self.config.bank)
        self.register_buffer("share", torch.full((num_classes,), 1 / num_classes))  # δ_pseudo
        self.strong = Photometric(self.config.strong)

    def stages(self) -> list[Stage]:
        schedule, rounds = self.config.schedule, self.config.distillations
        label = Stage(
            name="self_label",
            iterations=schedule.iterations,
            optimisers=lambda: self.with_head(schedule),
            step=self.self_label,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            target=View(self.recipe.views.target, "none", schedule.batch, scores=True),
            prepare=self.know_target_labels,
            after_step=self.follow,
            prepared_row="target_statistics" if self.recipe.model.norm == "per_domain" else "",
            row="self_labelled" if rounds else "adapted",
        )
        return [self.warm_up_stage(), label, *(self.distil_stage(number + 1) for number in range(rounds))]

    def train(self, mode: bool = True) -> CPSL:
        """The teacher never trains: its batch norms use what the student's have gathered."""
        super().train(mode)
        self.teacher.eval()
        return self

    def with_head(self, schedule: Schedule) -> dict[str, torch.optim.Optimizer]:
        optimisers = self.optimisers(schedule, self.config.norm)
        rate = schedule.learning_rate * self.config.head_factor
        optimisers["network"].add_param_group({"params": self.head.parameters(), "lr": rate})
        return optimisers

    @torch.no_grad()
    def know_target_labels(self, passes: Passes) -> None:
        """P_ST in float16 on disk; the head as the prototypes of target features under Y_ST; δ_pseudo (Eq. 7, 10)."""
        self.know_target(passes)
        prototypes = ClassStatistics(self.num_classes, self.bank.channels, None).to(self.share.device)
        for batch in passes.target():
            output = self.run(batch.images, "target")
            passes.save_scores(batch.index, output.logits.float().softmax(1))
            prototypes.update(F.normalize(output.features.float(), dim=1), pseudo_labels(output.logits))
        self.head.weight.copy_(F.normalize(prototypes.mean, dim=1))
        self.share.copy_(prototypes.count / prototypes.count.sum())
        self.bank.reset()
        self.teacher.load_state_dict(self.network.state_dict())
        self.teacher_head.load_state_dict(self.head.state_dict())

    def self_label(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """L_SEG + λ_1 L_SL + λ_2 L_REG (Eq. 14)."""
        output = self.run(source.images, "source")
        yield {"network": self.supervised(output.logits, source.labels)}

        with torch.no_grad(), use_domain(self.teacher, "target"):
            weak = self.teacher(target.images)
        features = F.normalize(weak.features.float(), dim=1)
        labels = self.rectified(features, target)
        losses = {"self_label": self.config.self_label * self.self_label_loss(features, labels)}
        self.move_share(labels)
        view = self.strong_view(target.images, labels, weak.logits)
        logits = self.run(view.images, "target").logits
        losses["pseudo_ce"] = cross_entropy(logits, view.labels)
        regular = symmetric_kl(logits, view.logits.to(logits.dtype), mask=view.mask)
        yield {"network": losses | {"consistency": self.config.consistency * regular}}

    @torch.no_grad()
    def rectified(self, features: Tensor, target: Batch) -> Tensor:
        """Labels at the image's size, argmax P_SL P_ST (Eq. 1); 255 outside the image."""
        scores = project(features, self.teacher_head)
        soft = crop_scores(target.scores, target.window, features.shape[-2:])
        size = target.images.shape[-2:]
        return prototype_rectify(scores, soft, size=size, temperature=self.config.temperature)

    def self_label_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """L_SL of M class-balanced pixels of each image, whose labels Sinkhorn finds beside the bank's (Eq. 4-6)."""
        config = self.config
        pixels = class_balanced_sample(resize_labels(labels, features.shape[-2:]), config.samples, self.num_classes)
        # An image with fewer valid pixels shows them several times; one without any counts nothing.
        valid = (pixels >= 0).sum(1, keepdim=True)
        turn = torch.arange(config.samples, device=pixels.device) % valid.clamp(min=1)
        pixels = pixels.gather(1, turn).clamp(min=0).unsqueeze(1).expand(-1, features.shape[1], -1)
        rows = features.flatten(2).gather(2, pixels).transpose(1, 2).flatten(0, 1)
        with torch.no_grad():
            weight = F.normalize(self.head.weight, dim=1)
            scores = self.bank.scores(weight, rows)
            wanted = sinkhorn(
                scores, marginal=self.share, epsilon=config.epsilon, iterations=config.iterations, current=len(rows)
            )
            self.bank.insert(rows)
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows @ F.normalize(self.head.weight, dim=1).T / config.temperature
        counted = (valid > 0).expand(-1, config.samples).flatten()
        loss = -(wanted * logits.log_softmax(1)).sum(1)
        return loss.where(counted, 0.0).sum() / counted.sum().clamp(min=1)

    @torch.no_grad()
    def move_share(self, labels: Tensor) -> None:
        """δ_pseudo <- α δ_pseudo + (1 - α) δ_n, image by image of the batch at once (Eq. 8, 11)."""
        counts = torch.stack([(labels == k).sum((1, 2)) for k in range(self.num_classes)], 1)
        valid = counts.sum(1, keepdim=True)
        of_batch = (counts / valid.clamp(min=1)).sum(0) / (valid > 0).sum().clamp(min=1)
        keep = torch.where((valid > 0).any(), self.config.share_keep, 1.0)
        self.share.mul_(keep).add_((1 - keep) * of_batch)

    @torch.no_grad()
    def strong_view(self, images: Tensor, labels: Tensor, logits: Tensor) -> StrongView:
        """RandAugment, colour jitter and blur of standardised images, then CutMix and Cutout (Sec. 3.4)."""
        config = self.config
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
        key = (int(torch.randint(1 << 31, ())),)
        strong = self.strong(random_augment(images * std + mean, config.random_operations), key=key)
        mask = torch.ones(len(images), *logits.shape[-2:], dtype=torch.bool, device=images.device)
        view = cut_mix(StrongView(strong, labels, logits, mask), config.cut_mix)
        return cut_out(view, config.cut_out)

    @torch.no_grad()
    def follow(self) -> None:
        """The moving averages of network and head."""
        for teacher, student in ((self.teacher, self.network), (self.teacher_head, self.head)):
            torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - self.config.momentum)
            for moving, own in zip(teacher.buffers(), student.buffers(), strict=True):
                moving.copy_(own)

    def distil_stage(self, number: int) -> Stage:
        schedule = self.config.distillation
        return Stage(
            name=f"distil_{number}",
            iterations=schedule.iterations,
            optimisers=lambda: self.optimisers(schedule),
            step=self.distil,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            target=View(self.recipe.views.self_training, "none", schedule.batch),
            prepare=self.new_student,
            row="adapted" if number == self.config.distillations else f"distilled_{number}",
        )

    @torch.no_grad()
    def new_student(self, passes: Passes) -> None:
        """The network becomes the teacher; the student starts from the configured weights."""
        self.teacher.load_state_dict(self.network.state_dict())
        self.network.load_state_dict(build_model(self.recipe.model, self.num_classes).state_dict())

    def distil(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """The source's labels, and KL(teacher || student) on the target (Sec. 4.2)."""
        yield {"network": self.supervised(self.run(source.images, "source").logits, source.labels)}
        with torch.no_grad(), use_domain(self.teacher, "target"):
            wanted = self.teacher(target.images).logits
        logits = self.run(target.images, "target").logits
        loss = distillation_kl(logits, wanted.to(logits.dtype), temperature=1.0)
        yield {"network": {"distillation": self.config.distil * loss}}


def frozen(module: nn.Module) -> nn.Module:
    """A copy without gradients."""
    return copy.deepcopy(module).requires_grad_(False)


def project(features: Tensor, head: nn.Linear) -> Tensor:
    """Cosines (N, K, h, w) of unit features and the head's prototypes."""
    return torch.einsum("nahw,ka->nkhw", features, F.normalize(head.weight, dim=1))
