"""Forecast peaks of every method with ResNet-101 at the papers' sizes: python benchmarks/train/memory_forecast.py

GTA5 at 1280x720 to Cityscapes at 1024x512 with AMP: the recipe's batch and each bundle of ``--memory``, and for SDCA
also one image of each domain.  "usual" is SDCA in the field's usual form: feature statistics by an N x K x A tensor of
class-masked features and one of their squared deviations, and every operator in plain PyTorch.  These are forecasts:
nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import records
import torch
from step_memory import use_usual_statistics

from fastuda.methods import METHODS
from fastuda.ops import _library
from fastuda.train.config import Config, task_config
from fastuda.train.memory.bundle import BUNDLES, batches, bundled, split_batches
from fastuda.train.memory.forecast import forecast, needed
from fastuda.train.memory.workspaces import inside

UNLIKE = [name for name in METHODS if name != "oracle"]  # which needs what "source" needs
RESULTS = Path(__file__).resolve().parents[1] / "results/memory_forecast.json"


def settings(method: str) -> dict[str, Config]:
    """{name: configuration}: the recipe, for SDCA one image of each domain, and each bundle."""
    config = replace(task_config("gta5_cityscapes", method), amp=True)
    bundles = {f"memory {name}": bundled(replace(config, memory=name)) for name in BUNDLES}
    # The comparison with the usual form is of a step: with passes of one image these are not the peak.
    one = {"batch 1+1": replace(split_batches(config, 1), pass_batch=1)} if method == "sdca" else {}
    return {"recipe": config, **one, **bundles}


def record(method: str, name: str, config: Config, usual: bool = False) -> dict:
    """One row of the results."""
    start = time.perf_counter()
    if usual:
        found = forecast(
            config, operators=lambda name, _: _library.reference(name), prepare_method=use_usual_statistics
        )
    else:
        found = forecast(config, operators=inside)
    owner = found.owner
    return {
        "method": method,
        "settings": name,
        "form": "usual" if usual else "ours",
        "accumulate": config.accumulate,
        "batch": batches(config),
        "checkpointing": config.model.checkpointing,
        "peak_mib": round(owner.bytes / 2**20),
        "card_mib": round(needed(owner.bytes) / 2**20),
        "phase": " ".join(map(str, owner.phase)),
        "kinds_mib": {kind: round(size / 2**20) for kind, size in owner.kinds.items()},
        "stages_mib": {
            stage: round(found.of_stage(stage) / 2**20) for stage in dict.fromkeys(p.stage for p in found.peaks)
        },
        "seconds": round(time.perf_counter() - start, 1),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=UNLIKE, choices=METHODS)
    parser.add_argument("--settings", nargs="+", help='only these, such as "memory 11g"')
    parser.add_argument("--output", type=records.output, default=str(RESULTS))
    options = parser.parse_args()
    for method in options.methods:
        runs = [(name, config, False) for name, config in settings(method).items()]
        runs += [run[:2] + (True,) for run in runs if run[0] == "batch 1+1"]
        for name, config, usual in runs:
            if options.settings and name not in options.settings:
                continue
            row = record(method, name, config, usual)
            print(f"{method}, {name}, {row['form']}: {row['peak_mib']} MiB in {row['phase']}", flush=True)
            records.keep(options.output, row, ("method", "settings", "form"))


if __name__ == "__main__":
    main()
