"""CPSL: class-balanced pixel-level self-labelling (Li et al., CVPR 2022), Eq. 1-14, and its distillation."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastuda.data.batch import Batch
from fastuda.data.photometric import Photometric, as_pixels
from fastuda.labels import IGNORE
from fastuda.methods import presets
from fastuda.methods.config import Recipe, Schedule
from fastuda.methods.protocol import Losses, Networks, Passes, Stage, View
from fastuda.methods.source import Source, learning_rate
from fastuda.models import build_model
from fastuda.models.norm import batch_norms, untracked, use_domain
from fastuda.models.output import Output
from fastuda.nn.feature_bank import FeatureBank
from fastuda.nn.losses import cross_entropy, resize_labels, symmetric_cross_entropy
from fastuda.nn.statistics import ClassStatistics
from fastuda.nn.strong_views import StrongView, crop_scores, cut_mix, cut_out, random_augment
from fastuda.ops.class_balanced_sample import class_balanced_sample
from fastuda.ops.prototype_rectify import prototype_rectify
from fastuda.ops.pseudo_labels import pseudo_labels
from fastuda.ops.sinkhorn import sinkhorn
from fastuda.ops.softmax_kl import distillation_kl, symmetric_kl
from fastuda.ranks import divisor, gather, share, total


class CPSL(Source):
    """Warm-up, self-labelling with a moving teacher and rectified labels, distillation into fresh students."""

    section = "cpsl"
    presets = presets.CPSL

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__(recipe, num_classes)
        channels = self.network.feature_channels
        self.head = nn.Linear(channels, num_classes, bias=False)  # f_SL
        self.teacher = frozen(self.network)  # moving averages f'_SEG and f'_SL, then the teacher of a distillation
        self.teacher_head = frozen(self.head)
        self.bank = FeatureBank(channels, self.config.bank)
        self.register_buffer("share", torch.full((num_classes,), 1 / num_classes))  # δ_pseudo
        self.strong = Photometric(self.config.strong)

    @classmethod
    def smallest_batch(cls, recipe: Recipe) -> int:
        """CutMix makes one image of two."""
        return 2 if recipe.cpsl.cut_mix else 1

    def networks(self) -> Networks:
        return Networks(self.network, (self.teacher,))

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
            prepare=self.estimate_target_labels,
            after_step=self.ema_update,
            prepared_row=self.control_row,
            row="self_labelled" if rounds else "adapted",
        )
        return [self.warm_up_stage(), label, *(self.distil_stage(number + 1) for number in range(rounds))]

    def train(self, mode: bool = True) -> CPSL:
        """The teacher stays in evaluation mode: its batch norms use the averaged running statistics."""
        super().train(mode)
        self.teacher.eval()
        return self

    def set_norm(self, mode: str) -> None:
        super().set_norm(mode)
        # The teacher averages the network's statistics, so it must use the same sets of them.
        for layer in batch_norms(self.teacher).values():
            layer.mode = mode

    def with_head(self, schedule: Schedule) -> dict[str, torch.optim.Optimizer]:
        optimisers = self.optimisers(schedule, self.config.norm)
        rate = schedule.learning_rate * self.config.head_factor
        optimisers["network"].add_param_group({"params": self.head.parameters(), "lr": rate})
        return optimisers

    @torch.no_grad()
    def estimate_target_labels(self, passes: Passes) -> None:
        """P_ST in float16 on disk; the head as the prototypes of target features under Y_ST; δ_pseudo (Eq. 7, 10)."""
        prototypes = ClassStatistics(self.num_classes, self.bank.channels, None).to(self.share.device)
        for batch in passes.target():
            output = self.run(batch.images, "target")
            passes.save_scores(batch.index, output.logits.float().softmax(1))
            prototypes.update(F.normalize(output.features.float(), dim=1), pseudo_labels(output.logits))
        prototypes.all_reduce()
        self.head.weight.copy_(F.normalize(self.first_prototypes(prototypes), dim=1))
        self.share.copy_(prototypes.count / prototypes.count.sum())
        self.bank.reset()
        self.teacher.load_state_dict(self.network.state_dict())
        self.teacher_head.load_state_dict(self.head.state_dict())

    @staticmethod
    def first_prototypes(statistics: ClassStatistics) -> Tensor:
        """The classes' means (K, A); that of all pixels for a class without one, because 0 has no direction to turn."""
        mean, count = statistics.mean, statistics.count.unsqueeze(1).to(statistics.mean.dtype)
        overall = (mean * count).sum(0) / count.sum().clamp(min=1)
        return torch.where(count > 0, mean, overall)

    def self_label(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """L_SEG + λ_1 L_SL + λ_2 L_REG (Eq. 14)."""
        yield {"network": self.supervised(self.run(source.images, "source").logits, source.labels)}

        with torch.no_grad(), use_domain(self.teacher, "target"):
            weak = self.teacher(target.images)
        features = F.normalize(weak.features.float(), dim=1)
        cosines = project(features, self.teacher_head.weight)
        labels = self.rectified(cosines, target)
        losses = {"self_label": self.config.self_label * self.self_label_loss(features, labels)}
        self.update_share(labels)
        # Eq. 2 is about the undistorted image, and so should be the batch-norm statistics.
        losses["pseudo_ce"] = self.target_loss(self.run(target.images, "target").logits, labels)
        yield {"network": losses}

        yield {"network": {"consistency": self.config.consistency * self.consistency(target.images, weak, cosines)}}

    def target_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """L_SEG^t (Eq. 2), or the released symmetric cross entropy."""
        forward, reverse = self.config.cross_entropy, self.config.reverse_cross_entropy
        if reverse:
            return symmetric_cross_entropy(logits, labels, forward=forward, reverse=reverse)
        return forward * cross_entropy(logits, labels)

    def consistency(self, images: Tensor, weak: Output, cosines: Tensor) -> Tensor:
        """L_REG: KL both ways between weak and strong predictions (Eq. 13).

        Or, as released, KL(softmax(f'_SL(z') / τ) || softmax(f_SL(z) / τ)) of the pixels' assignments to prototypes,
        which trains the features z of the strong view: f_SL is for L_SL alone to train.
        """
        tau, assignments = self.config.temperature, self.config.regularise == "assignments"
        view = self.strong_view(images, cosines / tau if assignments else weak.logits)
        # Teacher and evaluation normalise undistorted images with these statistics; distorted colours would shift them.
        with untracked(self.network):
            strong = self.run(view.images, "target")
        if not assignments:
            return symmetric_kl(strong.logits, view.logits.to(strong.logits.dtype), mask=view.mask)
        student = project(F.normalize(strong.features.float(), dim=1), self.head.weight.detach()) / tau
        return distillation_kl(student, view.logits, mask=view.mask)

    @torch.no_grad()
    def rectified(self, cosines: Tensor, target: Batch) -> Tensor:
        """Labels at the image's size, argmax P_SL P_ST (Eq. 1); 255 outside the image."""
        soft = crop_scores(target.scores, target.window, cosines.shape[-2:])
        size = target.images.shape[-2:]
        return prototype_rectify(cosines, soft, size=size, temperature=self.config.temperature)

    def self_label_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """L_SL of M pixels of each image, whose labels Sinkhorn finds beside the bank's (Eq. 4-6)."""
        config = self.config
        # Drawn for the images of all processes together, so that the number of processes does not change the draws.
        pixels = share(self.sample(gather(resize_labels(labels, features.shape[-2:]))))
        # An image with fewer than M valid pixels repeats them; one without any does not count in the loss.
        valid = (pixels >= 0).sum(1, keepdim=True)
        turn = torch.arange(config.samples, device=pixels.device) % valid.clamp(min=1)
        pixels = pixels.gather(1, turn).clamp(min=0).unsqueeze(1).expand(-1, features.shape[1], -1)
        rows = features.flatten(2).gather(2, pixels).transpose(1, 2).flatten(0, 1)
        with torch.no_grad():
            weight = F.normalize(self.head.weight, dim=1)
            # Every process has the same bank and assigns the rows of all processes; most of the work is the bank's.
            everyone = gather(rows)
            scores = self.bank.scores(weight, everyone)
            wanted = sinkhorn(
                scores, marginal=self.share, epsilon=config.epsilon, iterations=config.iterations, current=len(everyone)
            )
            wanted = share(wanted)
            self.bank.insert(everyone)
        with torch.autocast(rows.device.type, enabled=False):
            logits = rows @ F.normalize(self.head.weight, dim=1).T / config.temperature
        counted = (valid > 0).expand(-1, config.samples).flatten()
        loss = -(wanted * logits.log_softmax(1)).sum(1)
        return loss.where(counted, 0.0).sum() / divisor(counted.sum()).to(loss.dtype)

    def sample(self, labels: Tensor) -> Tensor:
        """M pixels of each image (N, M), by the image's own class distribution (Eq. 8-9) or, as released, uniformly."""
        if self.config.balanced:
            return class_balanced_sample(labels, self.config.samples, self.num_classes)
        # With all valid pixels in one class the draw is uniform.
        valid = torch.where(labels < self.num_classes, 0, IGNORE).to(torch.uint8)
        return class_balanced_sample(valid, self.config.samples, 1)

    @torch.no_grad()
    def update_share(self, labels: Tensor) -> None:
        """δ_pseudo <- α δ_pseudo + (1 - α) δ_n, image by image of the batch at once (Eq. 8, 11)."""
        counts = torch.stack([(labels == k).sum((1, 2)) for k in range(self.num_classes)], 1)
        valid = counts.sum(1, keepdim=True)
        images = total((valid > 0).sum())
        batch_share = total((counts / valid.clamp(min=1)).sum(0)) / images.clamp(min=1)
        momentum = torch.where(images > 0, self.config.share_momentum, 1.0)
        self.share.mul_(momentum).add_((1 - momentum) * batch_share)

    @torch.no_grad()
    def strong_view(self, images: Tensor, logits: Tensor) -> StrongView:
        """RandAugment, colour jitter and blur of standardised images, then CutMix and Cutout (Sec. 3.4).

        CutMix mixes the images of all processes; each process keeps its share of the result.
        """
        config = self.config
        images, logits = gather(images), gather(logits)
        key = (int(torch.randint(1 << 31, ())),)
        strong = self.strong(random_augment(as_pixels(images), config.random_operations), key=key)
        mask = torch.ones(len(images), *logits.shape[-2:], dtype=torch.bool, device=images.device)
        view = cut_mix(StrongView(strong, logits, mask), config.cut_mix)
        return StrongView(*map(share, cut_out(view, config.cut_out)))

    @torch.no_grad()
    def ema_update(self) -> None:
        """Update the moving averages of network and head, parameters and running statistics."""
        for teacher, student in ((self.teacher, self.network), (self.teacher_head, self.head)):
            pairs = list(zip(_tensors(teacher), _tensors(student), strict=True))
            counters = [pair for pair in pairs if not pair[0].is_floating_point()]
            averages, current = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
            torch._foreach_lerp_(averages, current, 1 - self.config.momentum)
            for counter, current_count in counters:
                counter.copy_(current_count)

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


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def project(features: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines (N, K, h, w) of unit features (N, A, h, w) and prototypes (K, A) of any length, in their precision."""
    # Divided by a temperature of 0.08, the rounding of a cosine to bf16 would be half a logit.
    with torch.autocast(features.device.type, enabled=False):
        return torch.einsum("nahw,ka->nkhw", features, F.normalize(prototypes, dim=1))
