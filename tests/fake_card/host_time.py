"""Processor time of the host for each public call on the fake card, CUDA C++ beside Triton: no time of a GPU.

    python tests/fake_card/host_time.py --output after.json [--only contrastive_bound] [--rounds 15]
    python tests/fake_card/host_time.py --compare before.json after.json

A figure is the least of many rounds of warm calls, in microseconds of all threads; kernels cost nothing there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _results  # noqa: E402
from fake_card import card  # noqa: E402

BACKENDS = ("cuda", "triton")
ROUNDS = 15
ROUND_SECONDS = 0.02  # of calls in one round

Row = dict[str, object]


def least(run: Callable[[], object], rounds: int) -> float:
    """Microseconds of processor time of one warm call."""
    for _ in range(3):
        run()
    start = time.process_time()
    run()
    calls = max(1, min(200, int(ROUND_SECONDS / max(1e-6, time.process_time() - start))))
    found = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            run()
        found.append((time.process_time() - start) / calls)
    return round(1e6 * min(found), 1)


def launches(driver: card.Driver, run: Callable[[], object]) -> tuple[int, int]:
    """Launches of our kernels and of PyTorch's in one warm call."""
    driver.begin()
    run()
    record = driver.record()
    return record.own, record.others


def measure(only: str, rounds: int) -> list[Row]:
    """A row for each call, direction and backend; ``microseconds`` is None if it is not served, ``note`` says why."""
    import torch
    from fake_card import calls

    from fastuda import ops

    torch.set_num_threads(1)
    driver, inputs = card.Driver(), calls.Inputs(torch.device("cuda"), torch.float32)
    rows = [yardstick(inputs, direction, rounds) for direction in ("forward", "both")]
    for call in (call for call in calls.CALLS if only in call.name):
        for backend in BACKENDS:
            with ops.use_backend(backend):
                rows += one_call(driver, call, inputs, backend, rounds)
        print(table([row for row in rows if row["call"] == call.name], header=False), flush=True)
    return rows


def yardstick(inputs, direction: str, rounds: int) -> Row:
    """What one addition of PyTorch takes, with or without its gradient: the least that any call can."""
    import torch

    one = inputs.statistics(19, 256).requires_grad_(direction == "both")
    run = {"forward": lambda: torch.add(one, one), "both": lambda: torch.autograd.grad(torch.add(one, one), one, other)}
    other = one.detach()
    time_of_one = least(run[direction], rounds)
    return {"call": "torch.add", "direction": direction, "backend": "torch", "microseconds": time_of_one}


def one_call(driver: card.Driver, call, inputs, backend: str, rounds: int) -> list[Row]:
    from fake_card import calls

    rows = []
    for direction, make in (("forward", calls.forward_of), ("both", calls.both_of)):
        row = {"call": call.name, "direction": direction, "backend": backend, "goal": call.goal}
        try:
            run = make(call, inputs)
            if run is None:
                continue
            row["microseconds"] = least(run, rounds)
            row["own_launches"], row["torch_launches"] = launches(driver, run)
        except RuntimeError as error:
            if "does not serve" not in str(error):
                raise
            row |= {"microseconds": None, "note": str(error)}
        rows.append(row)
    return rows


def key(row: Row) -> tuple:
    return row["call"], row["direction"]


def cell(row: Row | None) -> str:
    """Microseconds and, in brackets, launches of our kernels + PyTorch's."""
    if row is None or row["microseconds"] is None:
        return "–"
    counted = f" ({row['own_launches']} + {row['torch_launches']})" if "own_launches" in row else ""
    return f"{row['microseconds']:.0f}{counted}"


def table(rows: list[Row], before: list[Row] | None = None, header: bool = True) -> str:
    """Markdown: CUDA C++ beside Triton, with ``before`` as "before → after"."""
    old = {(*key(row), row["backend"]): row for row in before or []}
    new = {(*key(row), row["backend"]): row for row in rows}
    lines = []
    if header:
        lines = ["| call | direction | CUDA C++ | Triton | goal |", "|---|---|---|---|---|"]
    for name, direction in dict.fromkeys(key(row) for row in rows):
        cells = []
        for backend in BACKENDS:
            now = cell(new.get((name, direction, backend)) or new.get((name, direction, "torch")))
            then = cell(old.get((name, direction, backend)) or old.get((name, direction, "torch")))
            cells.append(f"{then} → {now}" if before is not None else now)
        goal = max((row.get("goal", 0) for row in rows if key(row) == (name, direction)), default=0)
        cells.append(f"≤ {goal}" if goal and direction == "both" else "")
        lines.append(f"| {name} | {'forward + backward' if direction == 'both' else direction} | {' | '.join(cells)} |")
    return "\n".join(lines)


def missed(rows: list[Row]) -> list[str]:
    """Sentences on the goals that no backend reaches."""
    found = []
    for name in dict.fromkeys(row["call"] for row in rows if row.get("goal") and row["direction"] == "both"):
        both = [row for row in rows if key(row) == (name, "both") and row["microseconds"] is not None]
        if not both or min(row["microseconds"] for row in both) > both[0]["goal"]:
            best = min((row["microseconds"] for row in both), default=float("nan"))
            found.append(f"{name}: forward + backward take {best:.0f} us of the host, more than the goal")
    return found


def write_text(path: Path, text: str) -> None:
    """The file is the old one or the new one, never half."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file of the rows")
    parser.add_argument("--only", default="", help="calls whose name holds this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="the table of two files")
    options = parser.parse_args()
    if options.compare:
        before, after = (json.loads(path.read_text()) for path in options.compare)
        print(table(after["rows"], before["rows"]))
        return 0
    card.on_the_card()
    rows = measure(options.only, options.rounds)
    if options.output:
        write_text(options.output, json.dumps({"commit": _results.commit(), "rows": rows}, indent=1) + "\n")
    print("\n" + table(rows))
    for sentence in missed(rows):
        print(sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
