"""Whether a change leaves every result of training the same to the bit: a short run of each method on ``streets``.

    python benchmarks/train/same_results.py before.json                         before the change
    python benchmarks/train/same_results.py after.json --compare before.json    after it

Every stage of every method takes a few steps on small pictures, with a fixed seed and one thread; sdca also with two
accumulated batches.  A record holds the scores of each stage, the losses of each step and a hash of every tensor that
the method keeps and of every file of pseudo labels and predictions.  --compare prints what differs and ends with 1 if
anything does; tensors that have other names but the same contents are listed and count as the same.  Records are
compared on one machine and one torch: others round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import torch
from rich.console import Console

from fastuda.methods import METHODS
from fastuda.train.checkpoint import load_run, write_json
from fastuda.train.config import parse
from fastuda.train.loop import train

STEPS = 3  # of each stage
# An untrained network is never sure: with a confidence of 0 every target pixel counts.
SMALL = """
    --data.source.count 6 --data.target.count 6 --data.validation.count 2 --model.width 0.25 --sdca.confidence 0
    --data.source.size 48 96 --data.target.size 48 96 --data.validation.size 48 96 --cpsl.bank 256 --cpsl.samples 32
    --mlsl.patches 3 --mlsl.patch 32 64 --mlsl.head-width 16 --drsl.channels 8 --drsl.per-class 32 --drsl.triplets 64
    --log-every 1 --checkpoint-every 2 --device cpu
""".split()
SCHEDULES = (
    "warm-up.schedule sdca.schedule sdca.self-training.schedule spcl.adversarial.schedule spcl.schedule "
    "spcl.self-training.schedule cpsl.schedule cpsl.distillation mlsl.schedule drsl.schedule"
).split()
SHORT = [word for name in SCHEDULES for word in (f"--{name}.iterations", str(STEPS), f"--{name}.batch", "2")]
MEASURED = {"images_per_s", "data_share", "peak_mib"}  # fields of a line of the log that no two runs share


def variants() -> dict[str, list[str]]:
    """{name: options of ``fastuda train``} of the runs."""
    found = {method: ["--task", "streets", "--method", method, *SMALL, *SHORT] for method in METHODS}
    return found | {"sdca, accumulated": [*found["sdca"], "--accumulate", "2"]}


def record(options: list[str]) -> dict:
    """What a run with these options of ``fastuda train`` comes to."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = train(parse([*options, "--work-dir", str(run)]), Console(quiet=True))
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        files = sorted([*run.glob("predictions/*"), *run.glob("pseudo_labels/*")])
        return {
            "scores": result.stages,
            "losses": [
                {n: v for n, v in line.items() if n not in MEASURED} for line in lines if line["event"] == "train"
            ],
            "tensors": {name: content_of(value) for name, value in load_run(run / "checkpoint.pt")["method"].items()},
            "files": {str(file.relative_to(run)): _hash(file.read_bytes()) for file in files},
        }


def content_of(value: object) -> str:
    """Type, shape and hash of a tensor; the text of anything else."""
    if not isinstance(value, torch.Tensor):
        return repr(value)
    bits = value.contiguous().flatten().view(torch.uint8)
    return f"{value.dtype} {tuple(value.shape)} {_hash(bits.numpy().tobytes())}"


def differences(before: dict, after: dict) -> list[str]:
    """What differs between two records of one run, a line each."""
    found = []
    for part in ("scores", "losses"):
        pairs = zip_longest(before[part], after[part])
        if first := next((f"{old} became {new}" for old, new in pairs if old != new), ""):
            found.append(f"{part}: {first}")
    names = _changed(before["tensors"], after["tensors"])
    if Counter(before["tensors"].values()) != Counter(after["tensors"].values()):
        found.append(f"{len(names)} tensors, such as {names[0]}")
    elif names:
        print(f"  renamed: {', '.join(names)}")
    if names := _changed(before["files"], after["files"]):
        found.append(f"{len(names)} files, such as {names[0]}")
    return found


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _changed(before: dict, after: dict) -> list[str]:
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="JSON file of the records")
    parser.add_argument("--compare", type=Path, help="an earlier file to compare with")
    parser.add_argument("--runs", nargs="+", choices=list(variants()), help="only these")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = json.loads(options.compare.read_text()) if options.compare else None
    records, failed = {}, False
    for name in options.runs or variants():
        records[name] = record(variants()[name])
        print(f"{name}: {len(records[name]['tensors'])} tensors, {len(records[name]['losses'])} steps")
        found = differences(before[name], json.loads(json.dumps(records[name]))) if before else []
        for line in found:
            print(f"  differs in {line}")
        failed |= bool(found)
    write_json(options.output, records)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
