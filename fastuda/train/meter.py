"""Progress of a run: the live line, log.jsonl and, on request, TensorBoard."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor

from fastuda.ranks import total, world


class NonFiniteLoss(RuntimeError):
    """A loss that is NaN or infinite."""


def peak_mib(device: torch.device) -> float:
    """Peak memory so far in MiB: the allocator's on a GPU, the process's resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class Log:
    """log.jsonl, one JSON object a line, and the same scalars to TensorBoard; nothing at all without a directory."""

    def __init__(self, work_dir: Path | None, tensorboard: bool) -> None:
        self.file = self.writer = None
        if work_dir is None:
            return
        self.file = open(work_dir / "log.jsonl", "a", buffering=1, encoding="utf-8")
        if tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                raise ValueError("tensorboard needs the extra: pip install 'fastuda[tensorboard]'") from None
            self.writer = SummaryWriter(str(work_dir / "tensorboard"))

    def write(self, event: str, values: Mapping[str, Any], step: int | None = None) -> None:
        if self.file is not None:
            try:
                self.file.write(json.dumps({"event": event, **values}) + "\n")
            except OSError as error:
                raise OSError(f"cannot write {self.file.name}: {error.strerror}") from error
        if self.writer is not None and step is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.writer is not None:
            self.writer.close()


class Meter:
    """Losses and timings of one stage between two log lines.

    Losses and skipped steps are summed on the device, so that only ``read`` makes the host wait for it.
    """

    def __init__(self, stage: str, device: torch.device) -> None:
        self.stage, self.device = stage, device
        self.reset()

    def reset(self) -> None:
        self.losses: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.skipped: Tensor | int = 0
        self.waited = 0.0
        self.start = time.perf_counter()

    def count(self, images: int) -> None:
        """Count one more batch, of ``images`` images of both domains."""
        self.steps += 1
        self.images += images

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add the losses of one optimiser to the sums."""
        for name, loss in losses.items():
            loss = loss.detach().float()
            self.losses[name] = self.losses[name] + loss if name in self.losses else loss

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time inside the block counts as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    def values(self) -> dict[str, float]:
        """The summed losses as numbers, averaged over the ranks."""
        losses = self.losses
        if losses and world() > 1:
            losses = dict(zip(losses, (total(torch.stack([*losses.values()])) / world()).unbind(), strict=True))
        return {name: loss.item() for name, loss in losses.items()}

    def read(self, iteration: int) -> dict[str, Any]:
        """The row of the log: mean losses and rates since the last call; starts anew."""
        values = self.values()
        seconds = max(time.perf_counter() - self.start, 1e-9)
        row = {
            "stage": self.stage,
            "iteration": iteration,
            "loss": sum(values.values()) / max(self.steps, 1),
            **{f"loss_{name}": value / max(self.steps, 1) for name, value in values.items()},
            "images_per_s": self.images * world() / seconds,
            "data_share": self.waited / seconds,
            "skipped_steps": int(self.skipped),
            "peak_mib": peak_mib(self.device),
        }
        self.reset()
        return row


def one_line(row: Mapping[str, Any]) -> str:
    """A log row for people."""
    losses = " ".join(f"{k.removeprefix('loss_')} {v:.3g}" for k, v in row.items() if k.startswith("loss"))
    speed = f"{row['images_per_s']:.1f} images/s, data {row['data_share']:.0%}, {row['peak_mib']:.0f} MiB"
    return f"{losses} | {speed}"


class _WithNote(Progress):
    """A progress bar with the losses on a line of their own: beside the bar they would hide its counter and times."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if note := task.fields.get("note"):
                yield Text(note, style="dim")


class LiveLine:
    """A progress bar above the last losses on a terminal; elsewhere a plain line every 15 s."""

    def __init__(self, console: Console, name: str, total: int, start: int = 0) -> None:
        self.console, self.name, self.total = console, name, total
        self.printed = self.began = time.monotonic()
        self.first = start
        self.progress = _WithNote(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.bar = self.progress.add_task(name, total=total, completed=start, note="")

    def __enter__(self) -> LiveLine:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, completed: int, note: str | None = None, every: float = 15.0) -> None:
        self.progress.update(self.bar, completed=completed, **({} if note is None else {"note": note}))
        now = time.monotonic()
        if (
            note is not None
            and not self.console.is_terminal
            and (now - self.printed > every or completed == self.total)
        ):
            self.printed = now
            eta = (now - self.began) / max(completed - self.first, 1) * (self.total - completed)
            self.console.print(
                f"{self.name} {completed}/{self.total} ETA {eta:.0f} s | {note}", soft_wrap=True, markup=False
            )
