"""Settings that fit a recipe into a card, and leave its effective batch as it is: ``--memory 8g|11g|16g|24g``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from math import gcd

from fastuda.methods.config import Schedule
from fastuda.train.config import Config


@dataclass(frozen=True)
class Bundle:
    """What ``--memory`` sets.  The rest of the recipe, and images a step times accumulated batches, stay."""

    amp: bool  # half the activations; fp16 with a loss scale before compute capability 8.0, bf16 from there on
    checkpointing: bool  # activations recomputed in backward: about a third more time
    images: int  # of a domain at once, at most; more are accumulated
    pass_batch: int  # images at a time in passes without gradient


# Forecast to fit, with a quarter of the card to spare, for every method at the sizes of gta5_cityscapes with
# ResNet-101: benchmarks/results/memory_forecast.json.
BUNDLES: dict[str, Bundle] = {
    "8g": Bundle(amp=True, checkpointing=True, images=1, pass_batch=1),
    "11g": Bundle(amp=True, checkpointing=False, images=1, pass_batch=2),
    "16g": Bundle(amp=True, checkpointing=False, images=2, pass_batch=4),
    "24g": Bundle(amp=True, checkpointing=False, images=4, pass_batch=4),
}


def bundled(config: Config) -> Config:
    """``config`` with the bundle of ``config.memory``; itself where that is "".  Applied twice it changes nothing more.

    Smaller batches are accumulated so that every stage of the method sees as many images a step as before: batches
    are divided by one number, a divisor of them all.  Losses are means over the valid pixels of a batch, so they weigh
    images with few labels a little differently, and batch norm that is not frozen sees the smaller batch.  CPSL keeps
    two images, of which CutMix makes one.  UNet has no checkpointing.  Passes without gradient see fewer images at a
    time, which batch-norm statistics gathered over batches notice.
    """
    if not config.memory:
        return config
    bundle = BUNDLES[config.memory]
    images = max(bundle.images, 2) if config.method == "cpsl" and config.cpsl.cut_mix else bundle.images
    model = replace(config.model, checkpointing=bundle.checkpointing and config.model.name != "unet")
    smaller = split_batches(config, images)
    return replace(smaller, model=model, amp=bundle.amp, pass_batch=min(config.pass_batch, bundle.pass_batch))


def split_batches(config: Config, images: int) -> Config:
    """Batches of at most ``images`` where the recipe's can be divided so, and as many accumulated as make up for it."""
    common = gcd(*batches(config))
    divisors = [d for d in range(1, common + 1) if common % d == 0]
    parts = next((d for d in divisors if max(batches(config)) // d <= images), common)
    return replace(_divided(config, parts, _owners(config)), accumulate=config.accumulate * parts)


def batches(config: Config) -> list[int]:
    """Images of each domain at once, of every schedule that the method follows."""
    return [schedule.batch for schedule in _schedules(config)]


def _owners(config: Config) -> tuple[str, ...]:
    """The fields of a recipe whose schedules the method follows."""
    own = config.method.removesuffix("+")
    return ("warm_up",) if own in ("source", "oracle") else ("warm_up", own)


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
    """A dataclass with the batch of every schedule in it divided; only: of these fields alone."""
    if isinstance(value, Schedule):
        return replace(value, batch=value.batch // parts)
    if not dataclasses.is_dataclass(value):
        return value
    names = [field.name for field in dataclasses.fields(value) if not only or field.name in only]
    return replace(value, **{name: _divided(getattr(value, name), parts) for name in names})
