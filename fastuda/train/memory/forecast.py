"""The peak memory of a run, forecast without a GPU by running every stage on fake tensors, and how to lower it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from fastuda.methods.protocol import Method
from fastuda.train.config import Config
from fastuda.train.memory.bundle import split_batches
from fastuda.train.memory.trace import CUDA_BLOCK, Inside, MemoryTrace, Peak, Phase, tracing
from fastuda.train.memory.walk import Walk, image_size
from fastuda.train.memory.workspaces import inside
from fastuda.train.precision import Precision

GIB = 2**30
# What a card must hold beside the tensors; not measured on a GPU yet.
CONTEXT = GIB // 2  # the CUDA context, with the code of its libraries
LIBRARIES = GIB // 4  # workspaces of cuBLAS and cuDNN
FRAGMENTATION = 0.05  # of the peak: gaps between the allocator's blocks


@dataclass(frozen=True)
class Forecast:
    """Peaks by phase, the bytes allocated over time, and the lines of code that wait for a number from the device."""

    peaks: dict[Phase, Peak]
    timeline: list[tuple[Phase, list[int]]] = field(repr=False)
    reads: list[tuple[Phase, str]] = field(repr=False)

    @property
    def owner(self) -> Peak:
        """The peak of the run, that is, of the phase with the largest one."""
        return max(self.peaks.values(), key=lambda peak: peak.bytes)

    def of_stage(self, stage: str) -> int:
        """The peak of a stage."""
        return max(peak.bytes for peak in self.peaks.values() if peak.phase.stage == stage)


@dataclass(frozen=True)
class Remedy:
    """A change of settings, its cost, and the peak with it of the stage that had the run's peak without it."""

    name: str
    options: str
    bytes: int
    cost: str


def forecast(
    config: Config,
    stage: str = "",
    operators: Inside = inside,
    prepare_method: Callable[[Method], None] = lambda method: None,
) -> Forecast:
    """Forecast every stage of ``config`` on a GPU, or only the stage named ``stage``.

    operators: the memory of calls of torch.ops.fastuda, see ``MemoryTrace``.
    prepare_method: may change the method before its first stage.

    The fake tensors are on the CPU, whose autocast computes the same operators in 16 bits; the sizes of blocks, the
    optimisers and the operators' workspaces are those of a GPU.  Workspaces of cuBLAS and cuDNN are not included, see
    ``needed``.  Raises ValueError if the configuration is of no valid network or an image size is not known.
    """
    precision = Precision("cpu", torch.bfloat16 if config.amp else None, False, "forecast")
    trace = MemoryTrace(CUDA_BLOCK, operators)
    with tracing(trace):
        walk = Walk(config, torch.device("cpu"), precision, trace, prepare_method=prepare_method)
        walk.run((lambda found: found.name == stage) if stage else (lambda found: True))
    return Forecast(trace.peaks(), trace.timeline(), trace.reads)


def card_bytes(name: str) -> int:
    """Bytes of a card "11g": 11 GiB; ValueError for anything else."""
    if not re.fullmatch(r"\d+(\.\d+)?g", name):
        raise ValueError(f"--card must be a number of GiB such as 11g, not {name!r}")
    return int(float(name[:-1]) * GIB)


def needed(peak: int) -> int:
    """Bytes that a card needs for a peak of tensors: with CUDA's context, libraries and fragmentation."""
    return round(peak * (1 + FRAGMENTATION)) + CONTEXT + LIBRARIES


def verdict(peak: int, card: str) -> str:
    """Whether a peak of tensors fits into a card, as part of a sentence."""
    left = (card_bytes(card) - needed(peak)) / GIB
    return (
        f"fits into {card}, {left:.1f} GiB left" if left >= 0 else f"does not fit into {card}, short by {-left:.1f} GiB"
    )


def remedies(config: Config, owner: Peak) -> list[Remedy]:
    """The peak of ``owner``'s stage with each single change of the settings, by forecasting that stage."""
    found = []
    for name, options, changed, cost in _changes(config):
        peak = forecast(changed, stage=owner.phase.stage).of_stage(owner.phase.stage)
        found.append(Remedy(name, options, peak, cost))
    return found


def _changes(config: Config) -> list[tuple[str, str, Config, str]]:
    """(name, options of the command line, configuration, cost) of each change that is not yet made."""
    changes = []
    if not config.model.checkpointing and config.model.name != "unet":
        changed = replace(config, model=replace(config.model, checkpointing=True))
        changes.append(("gradient checkpointing", "--model.checkpointing", changed, "about a third more time"))
    if not config.amp:
        cost = "16 bits in convolutions; faster on cards with tensor cores"
        changes.append(("mixed precision", "--amp", replace(config, amp=True), cost))
    split = split_batches(config, 1)
    if split.accumulate > config.accumulate:
        options = f"--accumulate {split.accumulate} with batches divided by {split.accumulate // config.accumulate}"
        cost = "the same effective batch; smaller products are less efficient, trained batch norm sees fewer images"
        changes.append(("batch accumulation", options, split, cost))
    cropped, options = _cropped(config)
    changes.append(("smaller crop", options, cropped, "half the pixels a step: less context for each"))
    return changes


def _cropped(config: Config) -> tuple[Config, str]:
    """The configuration with crops of half the pixels in every view of training images, and its options."""
    views, options = config.views, []
    for view, data in (("source", "source"), ("target", "target"), ("self_training", "target")):
        augment = getattr(views, view)
        whole = augment.crop if augment.crop != (0, 0) else image_size(getattr(config.data, data))
        crop = tuple(max(8, round(side * 0.5**0.5 / 8) * 8) for side in whole)
        views = replace(views, **{view: replace(augment, crop=crop)})
        options.append(f"--views.{view.replace('_', '-')}.crop {crop[0]} {crop[1]}")
    return replace(config, views=views), " ".join(options)
