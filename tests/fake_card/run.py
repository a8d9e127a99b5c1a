"""The whole check on the fake card, and its result with the commit it was made from.

    python tests/fake_card/run.py [--before before.json] [--pascal FOLDER] [--rounds 15] [--output FILE]

Operators, training and host time on a stand-in for an H200, and with ``--pascal`` (see pascal.py) for a GTX 1080 Ti.
Writes benchmarks/results/fake_card.json and .md.  Needs a CUDA build of torch and the extension built with CUDA; takes
about ten minutes on one core.  Nothing in it is a figure of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import _results  # noqa: E402
from fake_card import card, host_time  # noqa: E402

FOLDER = Path(__file__).parent
RESULT = _results.RESULTS / "fake_card.json"
WHAT = (
    "The host's side on a stand-in driver that runs no kernel: launches, waits, faults, and processor time of the host "
    "without a card. No figure of a GPU."
)
# Part -> script, arguments and card.
PARTS = {
    "operators": ("operators.py", [], "h200"),
    "train": ("train.py", [], "h200"),
    "train fp32": ("train.py", ["--no-amp"], "h200"),
    "host time": ("host_time.py", [], "h200"),
    "operators 1080ti": ("operators.py", [], "1080ti"),
    "train 1080ti": ("train.py", [], "1080ti"),
}


def part(name: str, arguments: list[str], pascal: Path | None) -> tuple[bool, object]:
    """Whether a part found nothing wrong, and what it wrote; RuntimeError if it wrote nothing."""
    script, own, card_name = PARTS[name]
    variables = os.environ | {"FAKE_CARD": card_name}
    if card_name == "1080ti":
        variables["FAKE_CARD_CUBINS"] = str(pascal)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "part.json"
        command = [sys.executable, str(FOLDER / script), *own, *arguments, "--output", str(output)]
        done = subprocess.run(command, env=variables)
        if not output.exists():
            raise RuntimeError(f"the part {name!r} ended with {done.returncode} and wrote nothing")
        return done.returncode == 0, json.loads(output.read_text())


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in ("torch", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def markdown(result: dict) -> str:
    """The table of host times, and what every part says, for people."""
    lines = [f"# On the fake card, at {result['commit']}", "", result["what"], ""]
    for name, content in result["parts"].items():
        if name.startswith("operators"):
            facts = f"{content['calls']} calls, {content['launches of ours']} launches of our kernels"
            lines.append(f"- **{name}**: {facts}, {len(content['faults'])} faults")
            lines += [f"  - {fault}" for fault in content["faults"] + content.get("unreached", [])]
        elif name.startswith("train"):
            lines.append(f"- **{name}**: {sum(sum(row['steps'].values()) for row in content)} steps")
            lines += [f"  - {row['method']}: {fault}" for row in content for fault in row["faults"]]
    if times := result["parts"].get("host time"):
        before = result.get("before")
        since = f", before ({before['commit']}) → now" if before else ""
        lines += ["", f"## Host time of a warm call{since}", ""]
        lines += ["Microseconds of processor time of the host; in brackets launches of our kernels + of PyTorch's.", ""]
        lines.append(host_time.table(times["rows"], before["rows"] if before else None))
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="output of host_time.py at an earlier commit, to stand beside")
    parser.add_argument("--pascal", type=Path, help="folder that pascal.py wrote: also check the GTX 1080 Ti")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="only these; the others of the file are kept")
    parser.add_argument("--rounds", type=int, default=host_time.ROUNDS, help="of the host time")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if lack := card.missing():
        sys.exit(f"the fake card cannot run here: {lack}")
    if options.pascal and not list(options.pascal.glob("*.sm_61.cubin")):
        sys.exit(f"--pascal: {options.pascal} holds no code for a GTX 1080 Ti, which pascal.py makes")
    old = json.loads(options.output.read_text()) if options.output.exists() else {}
    result = {"what": WHAT, "commit": _results.commit(), "versions": versions(), "parts": old.get("parts", {})}
    if before := json.loads(options.before.read_text()) if options.before else old.get("before"):
        result["before"] = before
    wanted = options.parts or [name for name, (*_, of) in PARTS.items() if of != "1080ti" or options.pascal]
    failed = []
    for name in wanted:
        arguments = ["--rounds", str(options.rounds)] if name == "host time" else []
        passed, result["parts"][name] = part(name, arguments, options.pascal)
        failed += [] if passed else [name]
        host_time.write_text(options.output, json.dumps(result, indent=1) + "\n")
        host_time.write_text(options.output.with_suffix(".md"), markdown(result))
    print("nothing wrong" if not failed else f"something is wrong in: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
