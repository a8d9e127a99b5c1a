"""The peak memory of a run measured on a GPU: ``walk.py`` with the statistics of CUDA's caching allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from fastuda.ranks import world
from fastuda.train.config import Config
from fastuda.train.memory.forecast import CONTEXT, card_bytes, forecast, remedies
from fastuda.train.memory.trace import Phase, Watcher
from fastuda.train.memory.walk import Walk
from fastuda.train.precision import choose_device, choose_precision

MIB = 2**20
HISTORY = 200_000  # allocations and releases in a snapshot, at most


@dataclass(frozen=True)
class Measured:
    """Peaks of one phase in bytes.

    allocated: of tensors; active: also of freed blocks that other streams may still use; reserved: of all memory that
    the allocator holds; card: used on the card by all processes at the end of the phase; fragmentation: the share of
    reserved bytes in free parts of split blocks; retries: how often the cache was emptied to make room.
    """

    phase: Phase
    allocated: int
    active: int
    reserved: int
    card: int
    fragmentation: float
    retries: int


class Allocator(Watcher):
    """Reads the allocator's statistics at each change of phase."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: list[Measured] = []
        self.now: Phase | None = None
        self._retries = 0

    def phase(self, phase: Phase) -> None:
        """Record the peaks of the phase that ends and reset them."""
        self.close()
        self.now = phase
        torch.cuda.reset_peak_memory_stats(self.device)

    def where(self) -> str:
        """The current phase, as part of a sentence."""
        return f" in stage {self.now.stage}, {self.now.part}" if self.now else ""

    def close(self) -> None:
        """Record the peaks of the current phase, if there is one."""
        if self.now is None:
            return
        torch.cuda.synchronize(self.device)
        stats = torch.cuda.memory_stats(self.device)
        free, total = torch.cuda.mem_get_info(self.device)
        reserved, retries = stats["reserved_bytes.all.peak"], stats["num_alloc_retries"]
        split = stats["inactive_split_bytes.all.peak"] / max(reserved, 1)
        self.phases.append(
            Measured(
                self.now, stats["allocated_bytes.all.peak"], stats["active_bytes.all.peak"], reserved, total - free,
                split, retries - self._retries,
            )
        )  # fmt: skip
        self._retries, self.now = retries, None


def measure(config: Config, card: str = "", snapshot: Path | None = None) -> list[Measured]:
    """Walk through every stage on the GPU.

    card: limit the allocator to what such a card has left beside the context, so that a larger card can show what fits.
    snapshot: file of the allocator's history, for pytorch.org/memory_viz; if memory runs out, one is always written.
    Raises ValueError without a usable GPU, for a card larger than this one, and, with advice, if memory runs out.
    """
    device = choose_device("cuda")
    if card:
        total = torch.cuda.get_device_properties(device).total_memory
        if card_bytes(card) > total:
            raise ValueError(f"--card {card} is more than the {total / 2**30:.1f} GiB of this GPU")
        torch.cuda.set_per_process_memory_fraction((card_bytes(card) - CONTEXT) / total)
    watcher = Allocator(device)
    record_history()
    try:
        with out_of_memory(config, watcher.where, snapshot or Path("fastuda_memory.pickle")):
            Walk(config, device, choose_precision(device, config.amp), watcher).run()
            watcher.close()
        if snapshot:
            torch.cuda.memory._dump_snapshot(str(snapshot))
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    return watcher.phases


def record_history() -> None:
    """Make the allocator record its allocations and where they were made, for a snapshot."""
    # Python's frames alone: recording those of C++ would slow a step down too much.
    torch.cuda.memory._record_memory_history(max_entries=HISTORY, stacks="python")


@contextmanager
def out_of_memory(
    config: Config, where: Callable[[], str] = str, snapshot: Path | None = None, saved: Path | None = None
) -> Iterator[None]:
    """Turn CUDA's out-of-memory error into a ValueError that says where it was raised and what would help.

    where: returns the current phase; snapshot: file of the allocator's snapshot; saved: the last checkpoint.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        parts = [f"out of GPU memory{where()}: {str(error).splitlines()[0].rstrip('.')}"]
        parts += [f"the last good state is in {saved}"] if saved else []
        parts += [_write_snapshot(snapshot)] if snapshot else []
        raise ValueError(f"{'; '.join(parts)}. {advice(config)}") from error


def _write_snapshot(path: Path) -> str:
    try:
        torch.cuda.memory._dump_snapshot(str(path))
    except (OSError, RuntimeError) as error:
        return f"the allocator's snapshot could not be written to {path}: {error}"
    return f"the allocator's snapshot is in {path}"


def advice(config: Config) -> str:
    """What would lower the peak and, where that can be forecast, to how much; the lowest first."""
    bundles = "one of --memory 8g, 11g, 16g, 24g"
    try:
        if world() > 1:
            raise ValueError("one rank cannot take a step without the others")
        found = forecast(config)
        best = sorted(remedies(config, found.owner), key=lambda remedy: remedy.bytes)
    except ValueError as error:
        return (
            "What would lower the peak: --model.checkpointing, --amp, smaller batches and --accumulate, smaller crops, "
            f"or {bundles} (no forecast: {error})"
        )
    stage = found.owner.phase.stage
    changes = "; ".join(f"{r.name} ({r.options}): {r.bytes / MIB:,.0f} MiB" for r in best)
    return f"Forecast peak of stage {stage}: {found.of_stage(stage) / MIB:,.0f} MiB. {changes}; or {bundles}"


def print_measured(console: Console, phases: list[Measured]) -> None:
    """The measurement as a table; step 1 allocates the optimiser's state, step 2 stands for all later ones."""
    table = Table(
        "stage", "part", "step", "allocated", "active", "reserved", "card", "fragmentation", "retries",
        title="measured peaks, MiB",
    )  # fmt: skip
    for m in phases:
        sizes = (f"{size / MIB:,.0f}" for size in (m.allocated, m.active, m.reserved, m.card))
        step = str(m.phase.step) if m.phase.step else ""
        table.add_row(m.phase.stage, m.phase.part, step, *sizes, f"{m.fragmentation:.0%}", str(m.retries))
    console.print(table)
    most = max(phases, key=lambda m: m.allocated)
    console.print(f"Process peak: {most.allocated / MIB:,.0f} MiB of tensors in {most.phase.stage}, {most.phase.part}.")


def measured_json(phases: list[Measured]) -> list[dict[str, Any]]:
    """The measurement as plain values."""
    return [vars(m) | {"phase": m.phase._asdict()} for m in phases]
