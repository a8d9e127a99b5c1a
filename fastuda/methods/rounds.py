"""Rounds of pseudo labels by CBST's rule and of training on them: MLSL's (Sec. 3.2) and DRSL's (Sec. 3.1)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.methods.protocol import Losses, Passes, Stage, View
from fastuda.methods.source import Source, learning_rate
from fastuda.metrics.confidence import ConfidenceHistogram


class Rounds(Source):
    """A method that, after its warm-up, labels the target and trains on these labels several times."""

    @abstractmethod
    def label_target(self, passes: Passes, number: int) -> None:
        """Save the pseudo labels of round ``number``, from 0."""

    @abstractmethod
    def adapt(self, source: Batch, target: Batch) -> Iterator[Losses]:
        """The losses of a step of a round."""

    def stages(self) -> list[Stage]:
        return [self.warm_up_stage(), *(self.round_stage(number) for number in range(self.config.rounds))]

    def round_stage(self, number: int) -> Stage:
        schedule = self.config.schedule
        return Stage(
            name=f"round_{number + 1}",
            iterations=schedule.iterations,
            optimisers=lambda: self.optimisers(schedule, self.config.norm),
            step=self.adapt,
            learning_rate=learning_rate(schedule),
            source=self.source_view(schedule),
            target=View(self.recipe.views.self_training, "pseudo", schedule.batch),
            prepare=lambda passes: self.label_target(passes, number),
            prepared_row="" if number else self.control_row,
            row="adapted" if number == self.config.rounds - 1 else f"round_{number + 1}",
        )

    def thresholds(self, histogram: ConfidenceHistogram, number: int) -> Tensor:
        """k_c (K,) of round ``number``: the confidence that the share p of class c reaches, or of all pixels."""
        config = self.config
        portion = min(config.portion + number * config.portion_step, config.portion_most)
        ranked = histogram if config.balanced else histogram.pooled()
        return ranked.thresholds(rule="portion", portion=portion, cap=config.threshold_cap).expand(self.num_classes)
