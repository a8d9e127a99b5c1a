"""``--memory 8g|11g|16g|24g``: settings with which a recipe fits a card, without changing its effective batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from math import gcd

from fastuda.methods import find_method
from fastuda.methods.config import Schedule
from fastuda.train.config import Config


@dataclass(frozen=True)
class Bundle:
    """What ``--memory`` sets; the rest of the recipe and the images of an update stay the same."""

    amp: bool  # activations of half the size: bf16 from compute capability 8.0 on, else fp16 with a loss scale
    checkpointing: bool  # activations are recomputed in the backward pass: about a third more time
    images: int  # of each domain in a batch, at most; larger batches are split and accumulated
    pass_batch: int  # images in a batch of passes without gradient


# By the forecast in benchmarks/results/memory_forecast.json, every method fits with ResNet-101 at the sizes of
# gta5_cityscapes and leaves a quarter of the card free.
BUNDLES: dict[str, Bundle] = {
    "8g": Bundle(amp=True, checkpointing=True, images=1, pass_batch=1),
    "11g": Bundle(amp=True, checkpointing=False, images=1, pass_batch=2),
    "16g": Bundle(amp=True, checkpointing=False, images=2, pass_batch=4),
    "24g": Bundle(amp=True, checkpointing=False, images=4, pass_batch=4),
}


def bundled(config: Config) -> Config:
    """``config`` with the bundle of ``config.memory``; ``config`` itself if that is "".

    All batches are divided by one common divisor and as many are accumulated, so that every update of the method uses
    as many images as before.  Results differ slightly: losses are means over the valid pixels of a batch, so that
    images with few labels get another weight, batch norm that is not frozen has the smaller batch, and batch-norm
    statistics that are averaged over batches of a pass come from smaller ones.  A method that mixes images
    keeps its ``smallest_batch``.  UNet has no checkpointing.  Applying a bundle twice equals applying it once.
    """
    if not config.memory:
        return config
    bundle = BUNDLES[config.memory]
    images = max(bundle.images, find_method(config.method).smallest_batch(config))
    model = replace(config.model, checkpointing=bundle.checkpointing and config.model.name != "unet")
    smaller = split_batches(config, images)
    return replace(smaller, model=model, amp=bundle.amp, pass_batch=min(config.pass_batch, bundle.pass_batch))


def split_batches(config: Config, images: int) -> Config:
    """``config`` with batches of at most ``images``, if a common divisor allows it, and more of them accumulated."""
    common = gcd(*batches(config))
    divisors = [d for d in range(1, common + 1) if common % d == 0]
    parts = next((d for d in divisors if max(batches(config)) // d <= images), common)
    return replace(_divided(config, parts, _owners(config)), accumulate=config.accumulate * parts)


def batches(config: Config) -> list[int]:
    """The batch size of each schedule that the method uses: images of each domain."""
    return [schedule.batch for schedule in _schedules(config)]


def _owners(config: Config) -> tuple[str, ...]:
    """The fields of a recipe that hold the method's schedules."""
    section = find_method(config.method).section
    return ("warm_up", section) if section else ("warm_up",)


def _schedules(config: Config) -> list[Schedule]:
    found: list[Schedule] = []

    def collect(value) -> None:
        if isinstance(value, Schedule):
            found.append(value)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                collect(getattr(value, field.name))

    for name in _owners(config):
        collect(getattr(config, name))
    return found


def _divided(value, parts: int, only: tuple[str, ...] = ()):
    """A dataclass with the batch of every schedule in it divided by ``parts``; only: in these fields, or in all."""
    if isinstance(value, Schedule):
        return replace(value, batch=value.batch // parts)
    if not dataclasses.is_dataclass(value):
        return value
    names = [field.name for field in dataclasses.fields(value) if not only or field.name in only]
    return replace(value, **{name: _divided(getattr(value, name), parts) for name in names})
