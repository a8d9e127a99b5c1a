"""Options, the session's roofline probes, the gate and the results file of ``pytest benchmarks/ --benchmark-only``.

    pytest benchmarks/ --benchmark-only                                   a quick run on your machine
    pytest benchmarks/ --benchmark-only --scale full --results benchmarks/results/

Every row is appended to a journal when it is finished, so a session that is killed loses none. A session with the
same --journal continues where it ended; ``python benchmarks/rows.py`` judges the rows and writes a results file.
On a CPU the process starts itself again with the allocator and thread settings under which kernels are compared.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

# pytest's importlib mode does not extend sys.path; the harness and its benchmarks import each other by name.
sys.path.insert(0, str(Path(__file__).parent))

SCALES = ("smoke", "quick", "full")
# Without these settings, most of the time of eager code is page faults of newly mapped memory.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
_STARTED = "FASTUDA_BENCHMARK_STARTED"
JOURNALS = Path(__file__).resolve().parent.parent / ".benchmarks" / "rows"
DEVICE_LOST = 75  # exit status: a kernel's fault ended the GPU's context; another process can continue
_state: dict = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastuda", "operator benchmarks")
    group.addoption("--scale", choices=SCALES, default="quick", help="sizes: quick (default), full (published), smoke")
    group.addoption("--device", choices=("cpu", "cuda"), default=None, help="default: cuda where there is a GPU")
    group.addoption("--threads", type=int, default=1, help="threads on a CPU (default 1, pinned)")
    group.addoption("--results", type=Path, help="JSON file of the rows, or a folder for <device>.json")
    group.addoption(
        "--time-limit", type=float, help="seconds after which no row begins (quick: 140); compiled ones last"
    )
    group.addoption(
        "--ungated", action="store_true", help="write what the gate refuses too; such rows are never published"
    )
    group.addoption("--journal", type=Path, help="file that each row is appended to; its finished rows are left out")
    group.addoption("--providers", nargs="+", help="only these: cpu, cuda, triton, reference, usual, ...")
    group.addoption("--row-limit", type=float, help="seconds after which a row that hangs ends the process")
    group.addoption("--fake-card", action="store_true", help="a card that runs no kernel: nothing is compared")


def time_limit(config: pytest.Config) -> float | None:
    given = config.getoption("time_limit")
    return 140.0 if given is None and config.getoption("scale") == "quick" else given


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **ALLOCATOR}


def device_type(config: pytest.Config) -> str:
    import torch

    return config.getoption("device") or ("cuda" if torch.cuda.is_available() else "cpu")


def pytest_configure(config: pytest.Config) -> None:
    """Start the process again with the settings above, which must be there before the first allocation."""
    _state["stderr"] = os.dup(2)  # opened before pytest captures output: the traceback of a row that hangs goes there
    wanted = environment(config.getoption("threads"))
    if not config.getoption("benchmark_only", False) or _STARTED in os.environ or config.getoption("device") == "cuda":
        return
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    if capture := config.pluginmanager.getplugin("capturemanager"):
        capture.stop_global_capturing()  # otherwise the new process would write into the old one's capture file
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted | {_STARTED: "1"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    operator = getattr(metafunc.module, "OPERATOR", None)
    if operator is None or "provider" not in metafunc.fixturenames:
        return
    scale = metafunc.config.getoption("scale")
    metafunc.parametrize("case", list(operator.cases[scale]))  # the outermost loop: a case's inputs are made once
    asked = metafunc.config.getoption("providers")
    names = [name for name in operator.names if asked is None or name in asked]
    metafunc.parametrize("provider", names)
    metafunc.parametrize("direction", operator.directions)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep only the harness's tests where results are written, and run what compiles last, in case time runs out."""
    if config.getoption("results"):
        others = [item for item in items if "measure" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    if time_limit(config):
        items.sort(key=lambda item: "compile" in item.name)


@pytest.fixture(scope="session")
def session_harness(pytestconfig: pytest.Config):
    import _fake_card
    import _measure
    import torch
    from _journal import Journal
    from _results import commit

    threads = pytestconfig.getoption("threads")
    torch.set_num_threads(threads)
    scale = pytestconfig.getoption("scale")
    device = torch.device(device_type(pytestconfig))
    if pytestconfig.getoption("fake_card"):
        _state["products"] = _fake_card.empty_products()
    began = time.gmtime()
    default = JOURNALS / f"{time.strftime('%Y-%m-%dT%H-%M-%SZ', began)}-{os.getpid()}.jsonl"
    journal = Journal(pytestconfig.getoption("journal") or default)
    _state["start"] = time.perf_counter()
    _state["harness"] = _measure.Harness(
        device,
        scale,
        torch.get_num_threads(),
        size=1 / 64 if scale == "smoke" else 1.0,
        journal=journal,
        commit=commit(),
        run_id=time.strftime("%Y-%m-%dT%H:%M:%SZ", began),
        dry=pytestconfig.getoption("fake_card"),
        row_limit=pytestconfig.getoption("row_limit"),
        tracebacks=_state["stderr"],
    )
    return _state["harness"]


@pytest.fixture
def measure(session_harness, pytestconfig, benchmark, case, direction, provider):
    """measure(OPERATOR): the row of this test's case, direction and provider; skips where a provider cannot serve."""
    import _measure

    limit = time_limit(pytestconfig)

    def run(operator: _measure.Operator) -> dict:
        before = session_harness.journal.done.get((operator.name, case, direction, provider))
        if before and before["kind"] == "row":
            pytest.skip("finished before, in the same journal")
        if before and before["kind"] == "failed":
            pytest.fail(f"failed before, in the same journal: {before['why']}")
        if limit and time.perf_counter() - _state["start"] > limit:
            pytest.skip(f"the time limit of {limit:g} s is over")
        try:
            row = session_harness.run(benchmark, operator, case, direction, provider)
        except _measure.UnavailableError as why:
            pytest.skip(str(why))
        except Exception:
            leave_a_lost_device(session_harness.device)
            raise
        benchmark.extra_info.update(row)
        return row

    return run


def leave_a_lost_device(device) -> None:
    """End the process where a kernel's fault has ended the GPU's context: every later row would fail too."""
    import roofline

    try:
        roofline.synchronise(device)
    except Exception as error:
        _state["lost"] = True
        pytest.exit(f"the device is lost to this process: {error}", returncode=DEVICE_LOST)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    import _gate
    import _journal
    import rows

    harness = _state.get("harness")
    if harness is None:
        return
    if not _state.get("lost"):
        harness.close()
    harness.journal.close()
    path = harness.journal.path
    _state["rows"] = _gate.judge(_journal.read(path))
    _state["saved"] = f"every row is in {path}"
    results = session.config.getoption("results")
    if results is None or _state.get("lost") or harness.dry:
        return
    _state["saved"], left_out = rows.save(_state["rows"], results, session.config.getoption("ungated"))
    if left_out:
        _state["saved"] += f"; all of them are in {path}"
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter) -> None:
    harness, found = _state.get("harness"), _state.get("rows")
    if harness is None or not found:
        return
    import _gate
    import report
    import roofline

    terminalreporter.section("fastuda operators")
    if harness.dry:
        terminalreporter.write_line(f"dry run on a fake card: {len(found)} rows, no figure of which means anything")
    else:
        for line in report.lines(found, roofline.best(harness.probes)):
            terminalreporter.write_line(line)
        for why in _gate.objections(found):
            terminalreporter.write_line(f"these figures are only an indication: {why}", yellow=True)
    terminalreporter.write_line(_state["saved"])
