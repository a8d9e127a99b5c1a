"""Where an operator's time goes: torch.profiler's table and the launches of one call, for our backends.

    python benchmarks/profile_ops.py [--device cuda] [--scale full] [--providers cuda triton] [--output profile.txt]

``--once`` calls every kernel once on small shapes with odd sizes and profiles nothing: what compute-sanitizer runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

import _measure  # noqa: E402
import _results  # noqa: E402


def operators() -> list[_measure.Operator]:
    """Every OPERATOR of benchmarks/ops; a file without one times in its own way."""
    found = []
    for path in sorted((FOLDER / "ops").glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        found += [module.OPERATOR] if hasattr(module, "OPERATOR") else []
    return found


def calls(device: torch.device, scale: str, providers: list[str]) -> Iterator[tuple[str, Callable, Callable, tuple]]:
    """(title, prepare, call, inputs) of each case, direction and provider that can run here."""
    for operator in operators():
        for name, case in operator.cases[scale].items():
            functions = operator.providers(case, device.type)
            inputs = operator.setup(case, torch.Generator(device).manual_seed(0))
            for provider in providers:
                function = functions.get(provider)
                if function is None or isinstance(function, _measure.UnavailableError):
                    continue
                for direction in operator.directions:
                    prepare, call = _measure.directed(function, direction)
                    yield f"{operator.name} {name} {direction} {provider}", prepare, call, inputs


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=("smoke", "quick", "full"), default="quick")
    parser.add_argument("--providers", nargs="+", default=list(_results.OURS))
    parser.add_argument("--output", type=Path, help="file of the tables; the launches are printed anyway")
    parser.add_argument("--once", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    parts, found = [], 0
    for title, prepare, call, inputs in calls(device, options.scale, options.providers):
        try:
            call(*prepare(*inputs))
        except _measure.UnavailableError as why:
            print(f"{title}: {why}")
            continue
        found += 1
        if options.once:
            _measure.roofline.synchronise(device)
            print(title)
            continue
        parts.append(f"== {title}\n{table(prepare, call, inputs, device)}")
        launches = _measure.count_launches(call, prepare(*inputs))
        print(f"{title}: {'no GPU' if launches is None else f'{launches} launches'}")
    if options.output is not None and parts:
        options.output.write_text("\n".join(parts))
    if not found:
        print(f"none of {', '.join(options.providers)} serves {device.type} here", file=sys.stderr)
    return int(not found)


if __name__ == "__main__":
    sys.exit(main())
