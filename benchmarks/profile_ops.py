"""Where an operator's time goes: torch.profiler's table and the launches of one call, for our backends.

    python benchmarks/profile_ops.py [--device cuda] [--scale full] [--providers cuda triton] [--output profile.txt]

``--once`` calls every kernel once on small shapes with odd sizes and profiles nothing, for compute-sanitizer. Each
table is in ``--output`` as soon as it is made; calls that fail are listed at the end, and the exit status is then 1.
Where a kernel's fault has ended the GPU's context the status is 75: the same command with the same ``--journal``
continues after the call that failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import _fake_card  # noqa: E402
import _journal  # noqa: E402
import _measure  # noqa: E402
import _results  # noqa: E402
import _timing  # noqa: E402
import roofline  # noqa: E402

DEVICE_LOST = 75


def operators() -> list[_measure.Operator]:
    """Every OPERATOR of benchmarks/ops; files without one have a timing of their own and are left out."""
    found = []
    for path in sorted((FOLDER / "ops").glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses need their module there
        spec.loader.exec_module(module)
        found += [module.OPERATOR] if hasattr(module, "OPERATOR") else []
    return found


def calls(
    device: torch.device, scale: str, providers: list[str], first: int = 0, every: int = 1
) -> Iterator[tuple[dict, Callable]]:
    """(names as in a journal, function that makes (prepare, call, inputs)) of each case, direction and provider.

    The function raises UnavailableError where a provider cannot serve; the inputs of a case are made at its first use.
    """
    for operator in operators()[first::every]:
        for case_name, case in operator.cases[scale].items():
            made: list = []

            def make(provider: str, direction: str, operator=operator, case=case, made=made) -> tuple:
                if not made:
                    inputs = operator.setup(case, torch.Generator(device).manual_seed(0))
                    made.append((inputs, operator.providers(case, device.type)))
                inputs, functions = made[0]
                function = functions.get(provider, _measure.UnavailableError("not for this case"))
                if isinstance(function, _measure.UnavailableError):
                    raise function
                return *_timing.directed(function, direction), inputs

            for provider in (name for name in providers if name in operator.names):
                for direction in operator.directions:
                    names = (operator.name, case_name, direction, provider)
                    yield dict(zip(_journal.KEY, names, strict=True)), lambda p=provider, d=direction, m=make: m(p, d)


def table(prepare: Callable, call: Callable, inputs: tuple, device: torch.device) -> str:
    """The profiler's table of one warm call, by time on the device."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    for _ in range(2):
        call(*prepare(*inputs))
    arguments = prepare(*inputs)
    with profile(activities=activities) as trace:
        call(*arguments)
        if on_gpu:
            torch.cuda.synchronize(device)
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    return trace.key_averages().table(sort_by=key, row_limit=12, max_name_column_width=60)


def append(path: Path, text: str) -> None:
    """Append a table to the file; it is on the disk when this returns."""
    with open(path, "a") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def profiled(make: Callable, names: dict, device: torch.device, options: argparse.Namespace) -> str:
    """Call one row's kernel, or profile it into the output file; a line about it."""
    prepare, call, inputs = make()
    if options.once:
        call(*prepare(*inputs))
        roofline.synchronise(device)
        return "called"
    text = table(prepare, call, inputs, device)
    if options.output is not None:
        append(options.output, f"== {_journal.title(names)}\n{text}\n")
    launches = _timing.count_launches(call, prepare(*inputs))
    return "no GPU" if launches is None else f"{launches} launches"


def is_lost(device: torch.device) -> bool:
    """Whether a fault has ended the GPU's context, so that every later call of this process fails."""
    try:
        roofline.synchronise(device)
    except Exception:  # the exception's type differs between releases of torch
        return True
    return False


def walk(device: torch.device, options: argparse.Namespace, journal: _journal.Journal | None) -> tuple[int, list[str]]:
    """Profile all rows that are not in the journal; the number that were served, and a line for each that failed."""
    start, served, failed = time.perf_counter(), 0, []
    for names, make in calls(device, options.scale, options.providers, options.first, options.every):
        title = _journal.title(names)
        before = journal.done.get(_journal.key(names)) if journal else None
        if before:
            served += before["kind"] == "row"
            failed += [f"{title}: {before['why']}"] if before["kind"] == "failed" else []
            continue
        if options.time_limit and time.perf_counter() - start > options.time_limit:
            failed.append(f"{title} and all after it: the time limit of {options.time_limit:g} s is over")
            break
        note = journal.append if journal else lambda kind, **values: None
        note("begin", **names)
        try:
            said = profiled(make, names, device, options)
        except _measure.UnavailableError as why:
            note("skipped", **names, why=str(why))
            continue
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{title}: {type(error).__name__}: {error}")
            note("failed", **names, why=f"{type(error).__name__}: {error}")
            if is_lost(device):
                sys.exit(DEVICE_LOST)
            continue
        served += 1
        note("row", **names)
        print(f"{title}: {said}", flush=True)
    return served, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=("smoke", "quick", "full"), default="quick")
    parser.add_argument("--providers", nargs="+", default=list(_results.OURS))
    parser.add_argument("--output", type=Path, help="file that the tables are appended to")
    parser.add_argument("--journal", type=Path, help="file of what was done; a process that is given it again goes on")
    parser.add_argument("--time-limit", type=float, help="seconds after which no call begins")
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--fake-card", action="store_true", help="a card that runs no kernel")
    parser.add_argument("--shard", default="0/1", help="I/N: every N-th operator from the I-th on, counted from 0")
    options = parser.parse_args()
    if not re.fullmatch(r"\d+/[1-9]\d*", options.shard):
        parser.error(f"--shard must be I/N, such as 0/4, not {options.shard!r}")
    options.first, options.every = map(int, options.shard.split("/"))
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    products = _fake_card.empty_products() if options.fake_card else None  # noqa: F841  (the replacement lasts as long as this variable)
    journal = _journal.Journal(options.journal) if options.journal else None
    if options.output is not None and not (journal and journal.done):
        options.output.unlink(missing_ok=True)  # the tables of an earlier run
    if journal:
        journal.append("session", argv=sys.argv[1:])
    served, failed = walk(device, options, journal)
    if journal:
        journal.append("end", rows=served)
    if not served:
        failed.append(f"none of {', '.join(options.providers)} serves {device.type} here")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
