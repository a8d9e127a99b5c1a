"""The generated parts of docs on one training step at the papers' image sizes.

The memory that cards are forecast to need (memory_forecast.json), and on the CPU the peak memory (step_memory_cpu.json)
and the seconds spent outside the network (step_share_cpu.json).
"""

from __future__ import annotations

import _results

FORECASTS = _results.RESULTS / "memory_forecast.json"
STEPS = _results.RESULTS / "step_memory_cpu.json"
SHARES = _results.RESULTS / "step_share_cpu.json"
CARDS = ("8g", "11g", "16g", "24g")
MISSING = "not run yet"


def cell(record: dict | None) -> str:
    """GiB that a card needs, and of these the tensors'."""
    return MISSING if record is None else f"{record['card_mib'] / 1024:.1f} ({record['peak_mib'] / 1024:.1f})"


def part() -> str:
    """A table: what each method is forecast to need under each bundle of ``--memory``; SDCA's step in both forms."""
    records = _results.read(FORECASTS)
    if not records:
        return "Not forecast yet."
    found = {(r["method"], r["settings"], r["form"]): r for r in records}
    methods = list(dict.fromkeys(r["method"] for r in records))
    rows = []
    for method in sorted(methods, key=lambda name: (name == "source", methods.index(name))):
        of_cards = [found.get((method, f"memory {card}", "ours")) for card in CARDS]
        peak = of_cards[1]["phase"] if of_cards[1] else ""
        rows.append([f"`{method}`", *map(cell, of_cards), peak])
    bundles = _results.table(["method", *(f"`--memory {card}`" for card in CARDS), "peak of 11g"], rows)
    one = [found.get(("sdca", "batch 1+1", form)) for form in ("ours", "usual")]
    note = (
        "**Forecast, confirmed by no GPU.** GiB that a card needs, with assumed reserves of context and libraries; in "
        "brackets the tensors. ResNet-101, mixed precision, GTA5 at 1280x720 to Cityscapes at 1024x512 (the methods' "
        "own crops), the recipe's batch by accumulation."
    )
    if all(one):
        note += (
            f" SDCA with one image of each domain at once: {cell(one[0])}; with the statistics and losses as they are "
            f"usually written: {cell(one[1])}."
        )
    return f"{bundles}\n\n{note}"


def precision(record: dict) -> str:
    return record["precision"].split(" ")[0] + (", checkpointing" if record["checkpointing"] else "")


def steps() -> str:
    """A table: peak memory of one step of each method at its paper's sizes, measured on the CPU."""
    records = _results.read(STEPS)
    if not records:
        return "Not measured yet."
    rows = []
    for record in records:
        method, form = record["method"], record["form"]
        covariance = {"full": ", full covariance"}.get(record.get("covariance"), "")
        source, target = (f"{record[domain][1]}x{record[domain][0]}" for domain in ("source", "target"))
        name = f"`{method}`" + (", usual statistics" if form == "usual" else "") + covariance
        rows.append([name, record["model"], f"{source} + {target}", precision(record), str(record["peak_mib"])])
    return _results.table(["method", "network", "images", "precision", "peak MiB"], sorted(rows))


def shares() -> str:
    """A table: how much of a step at the papers' sizes passes outside the network, measured on the CPU."""
    records = _results.read(SHARES)
    if not records:
        return "Not measured yet."
    rows = []
    for record in sorted(records, key=lambda record: (record["method"], record["form"])):
        seconds, outside = record["seconds"], record["outside_share"]
        name = f"`{record['method']}`" + (", usual statistics" if record["form"] == "usual" else "")
        network = sum(value for part, value in seconds.items() if part.startswith("network"))
        cells = f"{seconds['step']:.1f}", f"{network:.1f}", f"{outside * seconds['step']:.2f}", f"{outside:.1%}"
        rows.append([name, *cells])
    machines = ", ".join(sorted({f"{record['machine']}, {record['threads']} threads" for record in records}))
    header = ["method", "step, s", "network, s", "outside, s", "share outside"]
    return f"{_results.table(header, rows)}\n\nMeasured on {machines}."
