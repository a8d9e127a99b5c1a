"""A forecast of memory as tables, JSON and a picture of its course."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from fastuda.train.checkpoint import write_atomically
from fastuda.train.config import Config
from fastuda.train.memory.bundle import batches
from fastuda.train.memory.forecast import (
    CONTEXT,
    FRAGMENTATION,
    LIBRARIES,
    Forecast,
    Remedy,
    card_bytes,
    needed,
    verdict,
)
from fastuda.train.memory.trace import Peak, Phase
from fastuda.train.memory.walk import image_size

MIB = 2**20
LARGEST = 10  # tensors that are listed
_POINTS = 2000  # of each phase in the picture, at most


def headline(config: Config) -> str:
    """The configuration in one line."""
    source, target = (image_size(getattr(config.data, name)) for name in ("source", "target"))
    most, model = max(batches(config)), config.model
    extras = [f"accumulated {config.accumulate} times"] * (config.accumulate > 1)
    extras += ["AMP" if config.amp else "fp32"] + ["checkpointing"] * model.checkpointing
    return (
        f"{config.method} ({config.preset}) on {config.task}: {model.name}, source {source[1]}x{source[0]}, target "
        f"{target[1]}x{target[0]}, batch {most}+{most}, {', '.join(extras)}"
    )


def by_part(found: Forecast) -> dict[tuple[str, str], Peak]:
    """The peak of each part of each stage, over the walked steps."""
    best: dict[tuple[str, str], Peak] = {}
    for phase, peak in found.peaks.items():
        key = phase.stage, phase.part
        if key not in best or peak.bytes > best[key].bytes:
            best[key] = peak
    return best


def print_forecast(console: Console, config: Config, found: Forecast, card: str, remedies: Sequence[Remedy]) -> None:
    """The forecast as tables and sentences."""
    console.print(headline(config), highlight=False, soft_wrap=True)
    table = Table("stage", "part", "peak MiB", "of which", title="forecast peaks, bytes of tensors")
    for (stage, part), peak in by_part(found).items():
        largest = sorted(peak.kinds.items(), key=lambda item: -item[1])[:3]
        table.add_row(stage, part, _mib(peak.bytes), ", ".join(f"{kind} {_mib(size)}" for kind, size in largest))
    console.print(table)
    owner = found.owner
    console.print(
        f"The peak of {owner.bytes / 2**30:.2f} GiB is in {_where(owner.phase)}.", highlight=False, soft_wrap=True
    )
    kinds = Table("kind", "MiB", title="alive at the peak")
    for kind, size in owner.kinds.items():
        kinds.add_row(kind, _mib(size))
    console.print(kinds)
    tensors = Table("MiB", "kind", "shape", "type", "module", "line", title="largest tensors at the peak")
    for s in owner.alive[:LARGEST]:
        tensors.add_row(_mib(s.bytes), s.kind, "x".join(map(str, s.shape)), s.dtype, s.module, s.line)
    console.print(tensors)
    console.print(
        f"[bold]Forecast: {verdict(owner.bytes, card)}[/bold] (with {CONTEXT // MIB} MiB for the context, "
        f"{LIBRARIES // MIB} MiB for cuBLAS and cuDNN and {FRAGMENTATION:.0%} for fragmentation; not measured yet).",
        highlight=False,
        soft_wrap=True,
    )
    if remedies:
        table = Table("remedy", "peak MiB of the stage", "saves MiB", "costs")
        for r in remedies:
            saved = found.of_stage(owner.phase.stage) - r.bytes
            table.add_row(r.name, _mib(r.bytes), _mib(saved), r.cost)
        console.print(table)
        for r in remedies:  # below the table, where no column truncates them, so that they can be copied
            console.print(f"{r.name}: {r.options}", highlight=False, markup=False, soft_wrap=True)


def as_json(config: Config, found: Forecast, card: str, remedies: Sequence[Remedy]) -> dict[str, Any]:
    """The forecast as plain values; bytes everywhere."""
    owner = found.owner
    return {
        "kind": "forecast",
        "what": headline(config),
        "method": config.method,
        "card": card,
        "card_bytes": card_bytes(card),
        "peak": owner.bytes,
        "needed": needed(owner.bytes),
        "fits": needed(owner.bytes) <= card_bytes(card),
        "owner": owner.phase._asdict(),
        "kinds": owner.kinds,
        "phases": [phase._asdict() | {"bytes": peak.bytes, "kinds": peak.kinds} for phase, peak in found.peaks.items()],
        "largest": [
            {
                "bytes": s.bytes,
                "kind": s.kind,
                "shape": list(s.shape),
                "dtype": s.dtype,
                "operator": s.operator,
                "module": s.module,
                "line": s.line,
            }
            for s in owner.alive[:LARGEST]
        ],
        "remedies": [vars(r) for r in remedies],
        "reads": [phase._asdict() | {"line": line} for phase, line in found.reads],
    }


def save_png(path: Path, found: Forecast, card: str, title: str) -> None:
    """Draw the allocated bytes over all allocations and releases; ValueError without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--png needs matplotlib: pip install 'fastuda[report]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(12, 4.5))
    event, stage, colours = 0, None, {}
    for phase, totals in found.timeline:
        if phase.stage != stage:
            stage = phase.stage
            axes.axvline(event, color="0.8", linewidth=0.8)
            axes.text(event, 1.01, stage, transform=axes.get_xaxis_transform(), rotation=30, fontsize=7)
        colour = colours.setdefault(phase.part, f"C{len(colours)}")
        step = max(1, len(totals) // _POINTS)
        heights = [max(totals[i : i + step]) / 2**30 for i in range(0, len(totals), step)]
        places = [event + i for i in range(0, len(totals), step)]
        axes.fill_between(places + [event + len(totals)], heights + heights[-1:], step="post", color=colour)
        event += len(totals)
    axes.axhline(card_bytes(card) / 2**30, color="black", linestyle="--", linewidth=0.8)
    axes.set(xlabel="allocations and releases", ylabel="GiB of tensors", ylim=(0, None))
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    axes.legend(handles, list(colours), fontsize=7, loc="upper right")
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
    pyplot.close(figure)


def _mib(size: int) -> str:
    return f"{size / MIB:,.0f}"


def _where(phase: Phase) -> str:
    return f"stage {phase.stage}, {phase.part}" + (f", step {phase.step}" if phase.step else "")
