"""A step's memory measured on a card beside its forecast; benchmarks/gpu.sh runs it.

python -m fastuda.memory --method sdca --amp --card 11g --json forecast.json
python -m fastuda.memory --method sdca --amp --card 11g --measure --json measured.json
python benchmarks/gpu/memory.py forecast.json measured.json --json memory.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

MIB = 2**20


def phases(values: dict) -> dict[tuple, dict]:
    """(stage, part, step) -> the phase's figures, of either file."""
    found = {}
    for phase in values["phases"]:
        name = phase["phase"] if "phase" in phase else phase
        found[name["stage"], name["part"], name["step"]] = phase
    return found


def beside(forecast: dict, measured: dict) -> list[dict]:
    """A record for each phase that both have: bytes of tensors forecast and allocated, and what the card held."""
    if forecast["what"] != measured["what"]:
        raise ValueError(f"the forecast is of {forecast['what']!r}, the measurement of {measured['what']!r}")
    planned = phases(forecast)
    return [
        {
            "stage": key[0],
            "part": key[1],
            "step": key[2],
            "forecast": planned[key]["bytes"],
            "allocated": own["allocated"],
            "reserved": own["reserved"],
            "card": own["card"],
        }
        for key, own in phases(measured).items()
        if key in planned
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forecast", type=Path)
    parser.add_argument("measured", type=Path)
    parser.add_argument("--json", type=Path, required=True, help="file for both, phase by phase, in bytes")
    options = parser.parse_args()
    forecast, measured = (json.loads(path.read_text()) for path in (options.forecast, options.measured))
    records = beside(forecast, measured)
    print(f"{measured['what']}, no more than {measured['card']} (MiB)")
    print(
        f"{'stage':12} {'part':12} {'step':>4} {'forecast':>9} {'measured':>9} {'of it':>6} {'reserved':>9} {'card':>9}"
    )
    for r in records:
        sizes = " ".join(f"{r[name] / MIB:9,.0f}" for name in ("forecast", "allocated"))
        rest = " ".join(f"{r[name] / MIB:9,.0f}" for name in ("reserved", "card"))
        share = r["allocated"] / max(r["forecast"], 1)
        print(f"{r['stage']:12} {r['part']:12} {r['step']:4} {sizes} {share:6.1%} {rest}")
    values = {"what": measured["what"], "card": measured["card"], "phases": records}
    options.json.write_text(json.dumps(values, indent=1) + "\n")
    if not records:
        print("forecast and measurement have no phase in common", file=sys.stderr)
    return int(not records)


if __name__ == "__main__":
    sys.exit(main())
