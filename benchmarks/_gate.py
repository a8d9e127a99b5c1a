"""Which measured rows may be published.

Each row is judged by the ceilings that were probed before and after it, and by the state of the tree:

refused      the machine was busy, a ceiling moved, the row is faster than its own bound allows, or its sources are in
             no commit
not judged   no probe followed, as in a session that was killed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import _journal
import _results
import roofline
import torch

LONGEST = 900.0  # seconds between two probes; a row between probes that are further apart is not judged


def work_values(work: roofline.Work) -> dict:
    """A row's work as plain values, which a journal holds."""
    return asdict(work) | {"dtype": str(work.dtype).removeprefix("torch.")}


def work_of(values: dict) -> roofline.Work:
    return roofline.Work(**values | {"dtype": getattr(torch, values["dtype"])})


def bounded(row: dict, work: roofline.Work, ceilings: roofline.Probe) -> dict:
    """The row with the least time that these ceilings allow for its work, and its share of that."""
    floor, bound = work.floor(ceilings)
    measured = {"ceilings": ceilings.ceilings(), "floor_ms": floor, "bound": bound}
    return row | measured | {"ceiling_share": floor / row["ms"]}


def commit_objections(commit: str) -> list[str]:
    if _results.is_uncommitted(commit):
        return [f"the tree held changes that are not committed ({commit})"]
    return ["the commit of the tree is not known"] if commit == "unknown" else []


def judged(record: dict, before: roofline.Probe | None, after: roofline.Probe | None) -> dict:
    """A results file's row from a journal's: with the better ceilings of both probes, and the gate's verdict."""
    dropped = ("kind", "work", "steady", "dry")
    row = {name: value for name, value in record.items() if name not in dropped}
    probes = [probe for probe in (before, after) if probe is not None]
    if probes:
        row = bounded(row, work_of(record["work"]), roofline.best(probes))
    if record.get("dry"):
        return row | {"gate": "refused: a dry run: no kernel ran", "gated": False}
    found = commit_objections(row["commit"])
    if not record["steady"]:
        found.append("the bandwidth moved while it was timed")
    if row["ceiling_share"] > 1:
        found.append(f"it takes less time than its bound allows ({row['bound']}: {row['ceiling_share']:.1%})")
    waiting = ""
    if before is None or after is None:
        waiting = "no probe followed"
    elif after.taken - before.taken > LONGEST:
        waiting = f"its probes lie {after.taken - before.taken:.0f} s apart"
    else:
        found += roofline.objections([before, after])
    if found:
        gate = f"refused: {'; '.join(found)}"
    elif waiting:
        gate = f"not judged: {waiting}"
    else:
        gate = "smoke: sizes that are never published" if row["scale"] == "smoke" else _results.PASSED
    return row | {"gate": gate, "gated": gate == _results.PASSED}


def judge(records: Sequence[dict]) -> list[dict]:
    """All finished rows of a journal, judged; where a row was measured twice, the later one.

    Rows that a killed process left without a probe after them are judged by the first probe of the process that
    continues the journal.
    """
    found: dict[tuple[str, ...], dict] = {}
    before: roofline.Probe | None = None
    waiting: list[dict] = []

    def settle(after: roofline.Probe | None) -> None:
        for record in waiting:
            found[_journal.key(record)] = judged(record, before, after)
        waiting.clear()

    for record in records:
        if record["kind"] == "probe":
            probe = roofline.Probe(**{name: value for name, value in record.items() if name != "kind"})
            settle(probe)
            before = probe
        elif record["kind"] == "row":
            waiting.append(record)
    settle(None)
    return list(found.values())


def objections(rows: Sequence[dict]) -> list[str]:
    """Why rows were refused or not judged: each reason once, with the number of rows that it applies to."""
    said: dict[str, list[dict]] = {}
    for row in rows:
        if row["gate"].startswith(("refused", "not judged")):
            said.setdefault(row["gate"], []).append(row)
    return [
        f"{why} ({len(own)} rows)" if len(own) > 1 else f"{why} ({_journal.title(own[0])})" for why, own in said.items()
    ]


def publishable(rows: Sequence[dict]) -> list[dict]:
    """The rows of all cases of which no row was refused or not judged: all ratios of a case are then of one run."""

    def case(row: dict) -> tuple:
        return row["operator"], row["case"], row["device"], row["threads"]

    bad = {case(row) for row in rows if row["gate"].startswith(("refused", "not judged"))}
    return [row for row in rows if case(row) not in bad]
