"""Kill a benchmark session or a profile at random moments: every row that was finished is on the disk.

    python tests/benchmarks/kills.py [--kills 20] [--seed 0] [--json FILE] [--what session|profile|fake-card]

The process says on a pipe, by a plugin of this file, when a row is finished: what the pipe holds after SIGKILL must be
in the journal, whole. ``fake-card`` does the same on a stand-in driver (FAKE_CARD_LIBRARY, a CUDA build of PyTorch).
Each session goes on with the journal of the one that was killed until all rows are finished, and begins anew then.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import _journal  # noqa: E402

# Loaded with -p: each finished row's name is a line on the descriptor that FINISHED names, written past all buffers.
PLUGIN = """
import json
import os

def pytest_sessionstart(session):
    import _measure

    run = _measure.Harness.run

    def told(self, *arguments):
        row = run(self, *arguments)
        names = [row[name] for name in ("operator", "case", "direction", "provider")]
        os.write(int(os.environ["FINISHED"]), json.dumps(names).encode() + b"\\n")
        return row

    _measure.Harness.run = told
"""
SESSION = ["-m", "pytest", "benchmarks/ops", "--benchmark-only", "--scale", "smoke", "-p", "no:cacheprovider", "-q"]
ON_CPU = ["--device", "cpu", "-k", "not compile", "--providers", "cpu", "reference"]
ON_FAKE_CARD = ["--device", "cuda", "--fake-card", "-k", "not compile", "--providers", "cuda"]
# The same for a profile: its function that makes one row is wrapped before it runs.
PROFILED = """
import json, os, sys
sys.path.insert(0, "benchmarks")
import profile_ops

profiled = profile_ops.profiled

def told(make, names, device, options):
    said = profiled(make, names, device, options)
    os.write(int(os.environ["FINISHED"]), json.dumps(list(names.values())).encode() + b"\\n")
    return said

profile_ops.profiled = told
sys.exit(profile_ops.main())
"""
PROFILE = ["-c", PROFILED, "--device", "cpu", "--scale", "smoke", "--providers", "cpu", "reference"]


@dataclass(frozen=True)
class Kill:
    """One process: seconds until it was killed (None where it came to its end), and what was found afterwards."""

    seconds: float | None
    announced: int
    found: int
    lost: list[str]


def environment(folder: Path, what: str) -> dict[str, str]:
    found = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "FASTUDA_BENCHMARK"))}
    found |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), "FASTUDA_COMMIT": "abc"}
    if what == "fake-card":
        library = Path(os.environ["FAKE_CARD_LIBRARY"])
        near = library.parent if (library.parent / "libcuda.so.1").exists() else library.parent / "stub"
        found |= {"LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(near), "TRITON_LIBCUDA_PATH": str(near)}
    return found


def command(what: str, journal: Path, more: Sequence[str]) -> list[str]:
    if what == "profile":
        return [
            sys.executable,
            *PROFILE,
            "--journal",
            str(journal),
            "--output",
            str(journal.with_suffix(".txt")),
            *more,
        ]
    where = ON_FAKE_CARD if what == "fake-card" else ON_CPU
    return [sys.executable, *SESSION, *where, "-p", "announces_rows", "--journal", str(journal), *more]


def until_killed(arguments: list[str], settings: dict[str, str], seconds: float) -> tuple[float | None, list[bytes]]:
    """Run a command, kill it so many seconds after its first finished row; (when, the lines of the pipe)."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=settings | {"FINISHED": str(writer)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writer,),
        start_new_session=True,
    )
    os.close(writer)
    start, end, text = time.monotonic(), None, b""
    try:
        while end is None or time.monotonic() < end:
            ready, _, _ = select.select([reader], [], [], 0.02 if end is None else max(0.0, end - time.monotonic()))
            part = os.read(reader, 2**16) if ready else b""
            text += part
            if part and end is None:
                end = time.monotonic() + seconds
            if process.poll() is not None:
                break
        killed = process.poll() is None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the row's own child, which measures memory, too
        process.wait()
    while part := os.read(reader, 2**16):  # written before the kill
        text += part
    os.close(reader)
    return (time.monotonic() - start if killed else None), text.splitlines()


def kill_once(what: str, journal: Path, folder: Path, seconds: float, more: Sequence[str] = ()) -> Kill:
    """One killed process, and whether the journal holds every row that it said was finished."""
    when, lines = until_killed(command(what, journal, more), environment(folder, what), seconds)
    outcomes = _journal.outcomes(_journal.read(journal))
    found = {key for key, outcome in outcomes.items() if outcome["kind"] == "row"}
    announced = [tuple(json.loads(line)) for line in lines]
    if what == "profile":
        tables = journal.with_suffix(".txt").read_text() if journal.with_suffix(".txt").exists() else ""
        found = {key for key in found if f"== {' '.join(key)}\n" in tables}
    return Kill(when, len(announced), len(found), [" ".join(key) for key in announced if key not in found])


def kills(what: str, count: int, seed: int, longest: float = 20.0, more: Sequence[str] = ()) -> list[Kill]:
    """Kill ``count`` processes, each 0 to ``longest`` seconds after its first finished row."""
    moments, made = random.Random(seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "announces_rows.py").write_text(PLUGIN)
        turn = 0
        while len(made) < count:
            journal = folder / f"rows_{turn}.jsonl"
            kill = kill_once(what, journal, folder, moments.uniform(0, longest), more)
            if kill.seconds is None:  # it came to its end before: that was no kill, and the next begins anew
                turn += 1
                if not kill.announced:
                    continue
            else:
                made.append(kill)
            if kill.lost:
                return [*made, kill]
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds after the first row that a kill may wait")
    parser.add_argument("--what", choices=("session", "profile", "fake-card"), default="session")
    parser.add_argument("--json", type=Path, help="file for the record of each kill")
    options = parser.parse_args()
    made = kills(options.what, options.kills, options.seed, options.longest)
    for kill in made:
        lost = f", LOST {'; '.join(kill.lost)}" if kill.lost else ""
        print(
            f"killed after {kill.seconds or 0:5.1f} s: {kill.announced} rows finished, {kill.found} on the disk{lost}"
        )
    lost = sum(len(kill.lost) for kill in made)
    print(f"{len(made)} kills, {sum(kill.announced for kill in made)} finished rows, {lost} lost")
    if options.json:
        record = {"what": options.what, "seed": options.seed, "lost": lost, "kills": [asdict(kill) for kill in made]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
