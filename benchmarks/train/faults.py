"""What is lost when a run is killed?  ``python benchmarks/train/faults.py --kills 50 --methods sdca cpsl``.

Of each method one small run is undisturbed.  Further runs of the same recipe are killed by SIGKILL at moments drawn
from ``--seed``: after some processor time of their own, or some time after they began to write a checkpoint, pseudo
labels or scores.  After each kill the checkpoint must load, or not exist yet, and the run continues from it.  A run
that finishes must equal the undisturbed one to the bit: the checkpoint's method, optimisers and position, the rows of
result.json, and all pseudo labels and scores.

Runs are forked from this process, which saves each the import of torch, and are killed by a kernel timer on the
process's own time, so the moments do not depend on the machine's load.  Ends with status 1 at the first loss.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import records
import torch
import torch._dynamo  # the first optimiser imports it; here it is imported once for all forked processes
import yaml
from PIL import Image
from ranks import small_task
from rich.console import Console

from fastuda.methods import METHODS
from fastuda.train.checkpoint import load_checkpoint
from fastuda.train.config import Config, task_config
from fastuda.train.loop import train

RESULTS = Path(__file__).resolve().parents[1] / "results"
# Kind of moment -> files after whose beginning the kill comes, and its share of the kills.
KINDS = {"any": ((), 0.4), "checkpoint": ((".checkpoint.pt.",), 0.4), "target": ((".0",), 0.2)}
LATEST = 0.02  # seconds of processor time after a file was begun; a checkpoint here takes less


class Sigevent(ctypes.Structure):
    """struct sigevent of Linux: 64 bytes."""

    _fields_ = [("value", ctypes.c_void_p), ("signal", ctypes.c_int), ("notify", ctypes.c_int),
                ("rest", ctypes.c_byte * 48)]  # fmt: skip


def kill_after(seconds: float) -> None:
    """SIGKILL this process once it has used ``seconds`` more of processor time."""
    libc = ctypes.CDLL(None, use_errno=True)
    event, timer = Sigevent(signal=signal.SIGKILL), ctypes.c_void_p()
    whole, part = divmod(max(1, round(seconds * 1e9)), 10**9)
    once = (ctypes.c_long * 4)(0, 0, whole, part)
    if (
        libc.timer_create(time.CLOCK_PROCESS_CPUTIME_ID, ctypes.byref(event), ctypes.byref(timer))
        or libc.timer_settime(timer, 0, once, None)
    ):  # fmt: skip
        raise OSError(ctypes.get_errno(), "no timer on this process's own time")


def kill_in_write(names: tuple[str, ...], number: int, delay: float | None) -> None:
    """SIGKILL this process while it writes the ``number``-th file whose name starts with ``name``.

    delay: seconds of its own time since the file was begun; None for the moment before the file is renamed.
    """
    left, moment = number, "os.rename" if delay is None else "tempfile.mkstemp"

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event == moment and Path(arguments[0]).name.startswith(names):
            left -= 1
            if left == 0 and delay is None:
                os.kill(os.getpid(), signal.SIGKILL)
            elif left == 0:
                kill_after(delay)

    sys.addaudithook(hook)


def attempt(config: Config, arm: Callable[[], None]) -> tuple[int, float]:
    """Run, or resume, in a process of its own, after ``arm`` there; its exit code and processor seconds."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            arm()
            train(config, Console(quiet=True))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status, usage = os.wait4(pid, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime


def outcome(work_dir: Path) -> dict:
    """All of a finished run that must be the same whether it was interrupted or not."""
    state = load_checkpoint(work_dir / "checkpoint.pt")
    state["position"].pop("seconds")
    saved = sorted((work_dir / "pseudo_labels").glob("*"))
    return {
        "method": state["method"],
        "optimisers": state["optimisers"],
        "position": state["position"],
        "rows": json.loads((work_dir / "result.json").read_text())["stages"],
        "target": {path.name: path.read_bytes() for path in saved},
        "unfinished": sorted(path.name for path in work_dir.glob("**/.*")),
    }


def first_difference(one: object, other: object, where: str = "") -> str:
    """Where two nested values differ in a type, a key or a bit; "" if nowhere."""
    if type(one) is not type(other):
        return where
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return "" if same and one.numpy().tobytes() == other.numpy().tobytes() else where
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return where
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return where
        pairs = list(zip(range(len(one)), one, other, strict=True))
    else:
        return "" if one == other else where
    return next((found for key, a, b in pairs if (found := first_difference(a, b, f"{where}.{key}"))), "")


def tiny_config(method: str, directory: Path) -> Config:
    """Every stage of the method in two steps on four small images in files, saved after each step."""
    task = small_task(iterations=2)
    draws = np.random.default_rng(0)
    for name in ("source", "target", "validation"):
        for kind, shape, most in (("images", (32, 64, 3), 255), ("labels", (32, 64), 19)):
            folder = directory / name / kind
            folder.mkdir(parents=True)
            for number in range(4):
                values = draws.integers(0, most, shape, dtype=np.uint8)
                Image.fromarray(values).save(folder / f"{number}.png")
        task["data"][name] = {"kind": "folder", "root": str(directory / name), "size": [32, 64], "ids": "trainids",
                              "labelled": name != "target"}  # fmt: skip

    def small_batches(node: dict) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                small_batches(value)
            elif key == "batch":
                node[key] = 2

    small_batches(task)
    task["model"]["width"] = 0.125
    task["cpsl"] |= {"bank": 64, "samples": 8}
    path = directory / "task.yaml"
    path.write_text(yaml.safe_dump(task | {"checkpoint_every": 1, "predictions": 1}))
    return task_config(str(path), method)


def draw(generator: random.Random, whole: float) -> tuple[str, Callable[[], None]]:
    """A kind of moment, and the function that sets its timer; ``whole`` is an undisturbed run's processor time."""
    kind = generator.choices(list(KINDS), [share for _, share in KINDS.values()])[0]
    # At most a third of a run, so that a run is killed several times before it finishes.
    seconds = generator.uniform(0, whole / 3)
    number, delay = generator.randint(1, 4), generator.choice([None, *[generator.uniform(0, LATEST)] * 3])
    if kind == "any":
        return kind, lambda: kill_after(seconds)
    return kind, lambda: kill_in_write(KINDS[kind][0], number, delay)


def killed_runs(config: Config, directory: Path, kills: int, generator: random.Random, whole: float, expected: dict):
    """What each kill interrupted; SystemExit where a checkpoint does not load or a finished run differs."""
    hits, runs, finished = [], 0, True
    while len(hits) < kills or not finished:
        if finished:
            runs += 1
        work_dir = directory / f"run{runs}"
        checkpoint = work_dir / "checkpoint.pt"
        kind, arm = draw(generator, whole) if len(hits) < kills else ("", lambda: None)
        code, _ = attempt(replace(config, work_dir=str(work_dir), resume=checkpoint.exists()), arm)
        finished = code == 0
        if finished:
            if where := first_difference(expected, outcome(work_dir)):
                raise SystemExit(f"{config.method}: run {runs} differs from the undisturbed one in {where}")
            continue
        if code != -signal.SIGKILL:
            raise SystemExit(f"{config.method}: run {runs} ended with status {code} after {len(hits)} kills")
        # Raises where the file is not whole.
        position = load_checkpoint(checkpoint)["position"] if checkpoint.exists() else None
        begun = [path.name.split(".")[1:-2] for path in work_dir.glob("**/.*")]
        hits.append({
            "aimed_at": kind,
            "stage": position and position["stage"],
            "iteration": position and position["iteration"],
            "half_written": ".".join(begun[0]) if begun else "",
        })  # fmt: skip
    return hits, runs


def trial(method: str, kills: int, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        config = tiny_config(method, directory)
        whole = directory / "whole"
        code, seconds = attempt(replace(config, work_dir=str(whole)), lambda: None)
        if code:
            raise SystemExit(f"{method}: the undisturbed run ended with status {code}")
        print(f"{method}: undisturbed in {seconds:.1f} s of processor time", flush=True)
        begin = time.monotonic()
        generator = random.Random(f"{seed} {method}")
        hits, runs = killed_runs(config, directory, kills, generator, seconds, outcome(whole))
    return {
        "method": method,
        "kills": len(hits),
        "in_a_checkpoint_write": sum(hit["half_written"] == "checkpoint.pt" for hit in hits),
        "in_another_write": sum(hit["half_written"] not in ("", "checkpoint.pt") for hit in hits),
        "before_the_first_checkpoint": sum(hit["stage"] is None for hit in hits),
        "runs_compared": runs,
        "equal_to_the_bit": True,
        "seed": seed,
        "wall_seconds": round(time.monotonic() - begin),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "hits": hits,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["sdca", "cpsl"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=records.output, default=str(RESULTS / "faults_cpu.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for method in options.methods:
        row = trial(method, options.kills, options.seed)
        records.keep(options.output, row, ("method",))
        half = Counter(hit["half_written"] for hit in row["hits"] if hit["half_written"])
        print(
            f"{method}: {row['kills']} kills, {row['in_a_checkpoint_write']} of them in the write of a checkpoint and "
            f"{row['in_another_write']} of another file, {row['runs_compared']} runs equal to the bit; {dict(half)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
