"""How the time of a training step on the CPU is divided between the networks and all other code.

    python benchmarks/train/step_share.py --method METHOD [--amp] [--steps 3] [--output FILE]
    python benchmarks/train/step_share.py --form usual ...      SDCA with its statistics in the usual form

A real run of the trainer with ResNet-101 at the papers' sizes, with one image of each domain a step, on a few random
PNG images in a temporary directory: loading, augmentation, losses, optimiser and log are those of a user's run.  The
stages before the measured one have no steps.  The first step, which allocates memory, is not counted.

network     the forward passes of all networks, and the backward pass from the first gradient of an output on
outside     everything else but the optimiser's update: data, augmentation, operators, losses, log
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import records
import torch
from PIL import Image
from rich.console import Console
from run import machine
from step_memory import CLASSES, PAPERS, papers_recipe, use_usual_statistics

from fastuda.data.config import DataConfig, DatasetConfig
from fastuda.methods.protocol import Stage
from fastuda.train.config import Config, task_config
from fastuda.train.inputs import Inputs
from fastuda.train.loop import Run
from fastuda.train.meter import Meter
from fastuda.train.optimisers import Optimisers
from fastuda.train.signals import Signals

IMAGES = 2
FILES = {"source": (1052, 1914), "target": (1024, 2048)}  # height, width: those of GTA5 and Cityscapes


class Clock:
    """Seconds of each part of the steps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.output_reached = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def timed(self, function: Callable, name: str) -> Callable:
        """``function``, with its time added to part ``name``."""

        def call(*arguments, **options):
            with self.part(name):
                return function(*arguments, **options)

        return call

    def timed_block(self, block: Callable, name: str) -> Callable:
        """The context manager ``block``, with the time inside it added to part ``name``."""

        @contextmanager
        def call(*arguments):
            with self.part(name), block(*arguments):
                yield

        return call

    def watch(self, network: torch.nn.Module) -> None:
        """Time a network's forward passes, and record when gradients first reach an output of it."""
        forward = network.forward

        def call(*inputs):
            with self.part("network forward"):
                output = forward(*inputs)
            for tensor in (output,) if isinstance(output, torch.Tensor) else (output.logits, output.features):
                if tensor.requires_grad:
                    tensor.register_hook(self.reached)
            return output

        network.forward = call

    def reached(self, gradient: torch.Tensor) -> None:
        self.output_reached = self.output_reached or time.perf_counter()

    def backward(self, function: Callable) -> Callable:
        """The trainer's backward pass; the part of the losses ends when a gradient first reaches a network's output."""

        def call(*arguments, **options):
            start, self.output_reached = time.perf_counter(), 0.0
            function(*arguments, **options)
            end = time.perf_counter()
            reached = self.output_reached or end
            self.add("losses backward", reached - start)
            self.add("network backward", end - reached)

        return call


def write_images(root: Path) -> None:
    """Write a few labelled images of coloured blocks, in the sizes of the data sets."""
    draw = np.random.default_rng(0)
    for domain, (height, width) in FILES.items():
        for kind in ("images", "labels"):
            (root / domain / kind).mkdir(parents=True)
        for number in range(IMAGES):
            blocks = draw.integers(0, CLASSES, (16, 32), dtype=np.uint8)
            labels = Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)
            colours = draw.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            image = Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)
            noise = draw.integers(0, 12, (height, width, 1), dtype=np.uint8)
            pixels = np.clip(np.asarray(image, dtype=np.int16) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / domain / "images" / f"{number}.png")
            labels.save(root / domain / "labels" / f"{number}.png")


def configuration(options: argparse.Namespace, root: Path) -> Config:
    """The paper's preset on the drawn images, with steps in the measured stage alone."""
    config = task_config("gta5_cityscapes", options.method)
    sizes = PAPERS[options.method]

    def folder(domain: str, **more) -> DatasetConfig:
        return DatasetConfig(kind="folder", root=str(root / domain), size=getattr(sizes, domain), **more)

    data = DataConfig(
        classes="cityscapes19",
        source=folder("source"),
        target=folder("target", labelled=False),
        validation=folder("target"),
    )
    recipe = papers_recipe(options)
    schedule = replace(recipe.warm_up.schedule, iterations=0, batch=1)
    name = options.method.rstrip("+")
    # With the paper's rate, an untrained network with frozen statistics becomes NaN at its first update.
    own = replace(getattr(recipe, name).schedule, iterations=options.steps + 1, batch=1, learning_rate=1e-12)
    changed = {name: replace(getattr(recipe, name), schedule=own)}
    if name == "spcl":
        changed[name] = replace(
            changed[name], adversarial=replace(recipe.spcl.adversarial, schedule=replace(schedule, iterations=0))
        )
    fields = {field: getattr(recipe, field) for field in ("method", "preset", "model", "optimiser", "views", name)}
    return replace(
        config,
        **(fields | changed),
        warm_up=replace(recipe.warm_up, schedule=schedule),
        data=data,
        amp=options.amp,
        pass_batch=1,
        log_every=1,
        work_dir=str(root / "run"),
    )


class Measured(Run):
    """A run that ends after the steps of one stage, without evaluations."""

    sections: Clock
    wanted: str
    whole = 0.0

    def evaluate(self, name: str) -> None:
        return None

    def steps(self, stage: Stage) -> None:
        if stage.name != self.wanted:
            return
        begun: list[float] = []

        def report(*arguments):
            with self.sections.part("log"):
                Run.report(self, *arguments)
            if self.position.iteration == 1:
                self.sections.seconds.clear()
                begun.append(time.perf_counter())

        save = self.save
        # The time ends before the checkpoint at the stage's end.
        with (
            mock.patch.object(self, "report", report),
            mock.patch.object(self, "save", lambda *state: self.end(begun, save, *state)),
        ):
            super().steps(stage)

    def end(self, begun: list[float], save: Callable, *state) -> None:
        self.whole = time.perf_counter() - begun[0]
        save(*state)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Seconds a step by part."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_images(root)
        config = configuration(options, root)
        patched = (
            mock.patch.object(Optimisers, "backward", clock.backward(Optimisers.backward)),
            mock.patch.object(Optimisers, "step", clock.timed(Optimisers.step, "optimiser")),
            mock.patch.object(Meter, "waiting", clock.timed_block(Meter.waiting, "data: waiting")),
            mock.patch.object(Inputs, "on_device", clock.timed(Inputs.on_device, "data: augmentation")),
        )
        with patched[0], patched[1], patched[2], patched[3], Signals() as signals:
            run = Measured(config, root / "run", Console(quiet=True), signals)
            run.sections, run.wanted = clock, PAPERS[options.method].stage
            if options.form == "usual":
                use_usual_statistics(run.method)
            for part in run.method.children():
                if any(True for _ in part.parameters()):
                    clock.watch(part)
            stages = run.method.stages()
            last = next(place for place, stage in enumerate(stages) if stage.name == run.wanted)
            for stage in stages[: last + 1]:
                run.stage(stage)
    parts = {name: seconds / options.steps for name, seconds in clock.seconds.items()}
    whole = run.whole / options.steps
    return {"step": whole, **parts, "losses forward and the rest": whole - sum(parts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(PAPERS), default="sdca")
    parser.add_argument("--form", choices=("ours", "usual"), default="ours", help="of SDCA's statistics")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after a first one")
    parser.add_argument("--output", type=records.output, help="put the record into this JSON list")
    parser.set_defaults(model="deeplab_resnet101", checkpointing=False, covariance="diag")
    options = parser.parse_args()
    seconds = measure(options)
    network = sum(value for name, value in seconds.items() if name.startswith("network"))
    outside = seconds["step"] - network - seconds["optimiser"]
    record = {
        "method": options.method,
        "form": options.form,
        "amp": options.amp,
        "outside_share": round(outside / seconds["step"], 4),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "steps": options.steps,
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }
    print(json.dumps(record, indent=1))
    if options.output:
        records.keep(options.output, record, ("method", "form", "amp", "threads"))


if __name__ == "__main__":
    main()
