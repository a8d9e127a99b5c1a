"""The planted faults have a place in today's sources, and the committed records say that nearly all are caught.

All of them are planted by ``python tests/mutants/run.py ROOM``; CI plants a few in each room.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import needed
import pytest
from mutants import planted, records, run

TABLES = [(room, operator) for room in run.ROOMS for operator in run.faults_of(room)]

WITHOUT_FAULTS = {"cpu": {"pixel_mean"}, "cuda": set()}  # none were planted there yet


def sources(room: str, suffix: str) -> set[str]:
    folder = {"cpu": "csrc/cpu", "cuda": "csrc/cuda", "kernels": "kernels"}[room]
    return {path.stem for path in (run.HERE.parents[1] / folder).glob(f"*{suffix}")}


@pytest.mark.parametrize("room, operator", TABLES)
def test_every_fault_has_one_place_and_a_record(room, operator):
    module, table = run.room_of(room), run.faults_of(room)[operator]
    names = [fault.title for fault in table]
    assert len(set(names)) == len(names), "two faults have the same name"
    assert [fault.quick for fault in table].count(True) <= 1
    for fault in table:
        text = (module.SOURCES / fault.file).read_text()
        assert planted.planted(fault, text) != text, f"{fault.title} changes nothing"
    checks = [fault.check for fault in table]
    few = {check: checks.count(check) for check in checks if checks.count(check) < module.LEAST}
    assert not few, f"{module.LEAST} faults of each are wanted, not {few}"
    kept = records.read(run.record_path(room)).get(operator, {})
    assert set(kept) == set(names), f"python tests/mutants/run.py {room} {operator} --stale"


@pytest.mark.parametrize("room", run.ROOMS)
def test_nearly_all_faults_are_caught(room):
    kept = records.read(run.record_path(room))
    assert set(kept) == set(run.faults_of(room)) and not run.too_few_caught(kept)


def test_too_few_caught_is_seen():
    def rows(caught: int, missed: int) -> dict[str, dict[str, str]]:
        return {str(i): {"source": "", "caught by": "a test" if i < caught else ""} for i in range(caught + missed)}

    assert not run.too_few_caught({"a": rows(9, 1), "b": rows(10, 0)})
    assert run.too_few_caught({"a": rows(8, 2), "b": rows(40, 0)}) == "a"
    assert run.too_few_caught({"a": rows(9, 1), "b": rows(9, 1)}) == "the room"


@pytest.mark.parametrize("room, suffix", [("cpu", ".cpp"), ("cuda", ".cu")])
def test_every_source_has_a_table(room, suffix):
    operators = {operator for table_room, operator in TABLES if table_room == room}
    assert sources(room, suffix) - WITHOUT_FAULTS[room] == operators


def test_every_triton_kernel_has_faults():
    """Each @triton.jit function that a launcher starts; what these call is hurt through them."""
    needed.module("triton")
    from mutants import kernels_room  # noqa: F401  it makes tests/kernels importable

    import aot  # isort: skip

    started = {launch.kernel.fn.__name__ for case in aot.cases() for launch in aot.launches(case, 90)}
    assert started == {fault.check for table in run.faults_of("kernels").values() for fault in table}


@pytest.mark.parametrize(
    "search, exact_lines, text, found",
    [
        ("$row < $end", False, "if (r < rows)", "r < rows"),
        ("$a + $a", False, "x + y; y + y", "y + y"),
        ("$a + $a", False, "xy + y", None),
        ("for (int i", False, "for(int\n  i", "for(int\n  i"),
        ("return x", False, "returnx", None),
        ("x = 1\n    y", True, "x =  1\n    y", "x =  1\n    y"),
        ("x = 1\n    y", True, "x = 1\n  y", None),
        ("a[$i].b", False, "a[k].b", "a[k].b"),
    ],
)
def test_a_pattern_survives_renaming_and_reformatting(search, exact_lines, text, found):
    place = planted.pattern(search, exact_lines).search(text)
    assert (place and place[0]) == found


def test_a_fault_without_one_place_is_refused_and_names_are_carried_over():
    fault = planted.Fault("op", "one too many", "cpu/x.h", "$row < $end", "$row <= $end")
    assert planted.planted(fault, "while (i < n)") == "while (i <= n)"
    removed = planted.Fault("op", "no b", "cpu/x.h", "  b();\n", "")
    assert planted.planted(removed, "a();\n  b();\n#pragma unroll\n") == "a();\n  \n#pragma unroll\n"
    for text, places in (("", 0), ("a < b < c; d < e", 2)):
        with pytest.raises(ValueError, match=f"op: one too many: its pattern matches at {places} places of cpu/x.h"):
            planted.planted(fault, text)


def test_a_record_is_stale_once_the_code_changes_and_not_for_a_comment(tmp_path):
    fault = planted.Fault("op", "one too many", "x.h", "$row < $end", "$row <= $end")
    path = tmp_path / "x.h"
    path.write_text("bool f(int i, int n) { return i < n; }\n")
    path_of_records = tmp_path / "room.json"
    kept = {"op": {fault.title: {"source": records.source_of(fault, tmp_path), "caught by": "a test"}}}
    records.write(path_of_records, kept)
    assert records.read(path_of_records) == kept
    path.write_text('#include "y.h"\nbool f(int i, int n) {\n  // less than n\n  return i < n;\n}\n')
    assert records.stale({"op": [fault]}, tmp_path, kept) == []
    path.write_text("bool f(int i, int m) { return i < m; }\n")
    assert records.stale({"op": [fault]}, tmp_path, kept) == [("op", fault.title)]


def test_stale_records_are_listed(capsys):
    assert run.main(["--list-stale"]) == 0
    said = capsys.readouterr().out
    for room in run.ROOMS:
        assert re.search(
            rf"^{room}: the records of \d+ of [1-9]\d* faults are missing or of other sources$", said, re.M
        )


def quick_faults(room: str) -> list[tuple[str, str, planted.Fault]]:
    return [(room, op, fault) for op, table in run.faults_of(room).items() for fault in table if fault.quick]


@pytest.mark.parametrize("room", run.ROOMS)
def test_ci_plants_some_faults_in_each_room(room):
    assert len(quick_faults(room)) >= 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "room, operator, fault",
    [*quick_faults("cpu"), *quick_faults("cuda")],
    ids=lambda given: getattr(given, "name", given),
)
def test_the_quick_faults_are_caught(room, operator, fault):
    needed.tool(not run.room_of(room).missing_tool(), "g++")
    assert run.room_of(room).catch(operator, fault), f"{fault.title} is not noticed by any check"


@pytest.mark.slow
def test_the_quick_faults_of_triton_are_caught():
    """In a process of their own: Triton chooses its interpreter when it is imported."""
    needed.module("triton")
    command = [sys.executable, str(run.HERE / "run.py"), "kernels", "--quick"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0 and "faults planted, all caught" in done.stdout, done.stdout + done.stderr
