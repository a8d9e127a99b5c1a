"""One warm-up for several runs that differ only in what comes after it.

    python benchmarks/train/warm_up.py ARGUMENTS        those of fastuda.train, with --work-dir

trains the first stage of that run and leaves its checkpoint; ``hand_over`` starts other runs from it, also runs of
other methods with the same warm-up.  Their results are the same to the bit as without sharing, because all random
numbers are functions of the seed and the position.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from fastuda.data.classes import class_set
from fastuda.methods import METHODS, build_method
from fastuda.train.checkpoint import load_checkpoint, save_checkpoint, write_json
from fastuda.train.config import Config, config_from_dict, difference, parse, to_dict
from fastuda.train.loop import Run
from fastuda.train.restore import one_sentence
from fastuda.train.signals import Signals
from fastuda.train.work_dir import choose_work_dir, create_work_dir

SHARED = {"cpsl": "spcl", "mlsl": "spcl", "drsl+": "drsl"}
"""Methods whose warm-up is another one's: the same losses of the same network."""


def warm_up(arguments: list[str]) -> None:
    """Train the first stage of a run, or the rest of it."""
    config = parse(arguments)
    checkpoint = Path(config.work_dir) / "checkpoint.pt"
    config = replace(config, resume=checkpoint.exists())
    if config.resume and load_checkpoint(checkpoint)["position"]["stage"]:
        return
    with Signals() as signals:
        run = Run(config, choose_work_dir(config), Console(), signals)
        run.stage(run.method.stages()[0])
        run.log.close()


def share(plain: list[str], arguments: list[str], threads: int) -> float:
    """Let the run of ``arguments`` start from the warm-up of ``plain``, trained unless it is there.

    Returns the CPU seconds of a warm-up that an earlier call trained; a run that has begun is left alone.
    """
    work_dir, warm = (Path(given[given.index("--work-dir") + 1]) for given in (arguments, plain))
    if any((work_dir / name).exists() for name in ("checkpoint.pt", "result.json")):
        return 0.0
    spent = warm / "cpu_seconds.json"
    earlier = json.loads(spent.read_text()) if spent.exists() else 0.0
    if not spent.exists():
        before = children_seconds()
        python([__file__, *plain], threads)
        write_json(spent, children_seconds() - before)
    hand_over(warm, arguments)
    return earlier


def python(arguments: list[str], threads: int) -> None:
    """Run this Python in a process of its own on so many threads; CalledProcessError where it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, *arguments], check=True, env=environment)


def children_seconds() -> float:
    """Processor time of all finished child processes: less than the clock's time where the machine was shared."""
    times = os.times()
    return times.children_user + times.children_system


def hand_over(warm: Path, arguments: list[str]) -> None:
    """Put the checkpoint of directory ``warm`` into the directory of a run that has not begun.

    Raises ValueError where the two differ in a setting that may affect the warm-up.
    """
    config = parse(arguments)
    work_dir = Path(config.work_dir)
    if (work_dir / "checkpoint.pt").exists():
        return
    state = load_checkpoint(warm / "checkpoint.pt")
    of_methods = {"method", *(found.section for found in METHODS.values())}
    saved, now = ({k: v for k, v in d.items() if k not in of_methods} for d in (state["config"], to_dict(config)))
    if name := difference(saved, now):
        raise ValueError(f"{work_dir} cannot start from the warm-up {warm}, they differ in {name}")
    if state["position"]["stage"] != 1:
        raise ValueError(f"{warm} is not at the end of a warm-up")
    memory = carried_over(config_from_dict(state["config"], str(warm)), state["method"], config)
    create_work_dir(work_dir, config)
    save_checkpoint(work_dir / "checkpoint.pt", state | {"config": to_dict(config), "method": memory})


def carried_over(held: Config, memory: dict, config: Config) -> dict:
    """A method's state after another one's warm-up: its initial state, with the tensors that the warm-up changed."""
    if held.method == config.method:
        return memory
    before, now = fresh(held), fresh(config)
    if type(before).warm_up is not type(now).warm_up:
        raise ValueError(f"the warm-up of {held.method} is not that of {config.method}")
    beginning, result = before.state_dict(), now.state_dict()
    changed = {name: v for name, v in memory.items() if isinstance(v, Tensor) and not torch.equal(v, beginning[name])}
    return result | changed


def fresh(config: Config) -> torch.nn.Module:
    """A method in the state in which a run begins."""
    torch.manual_seed(config.seed)
    return build_method(config, class_set(config.data.classes).num_classes)


if __name__ == "__main__":
    with one_sentence():
        warm_up(sys.argv[1:])
