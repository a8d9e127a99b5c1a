"""Options, the session's roofline probes, the gate and the results file of ``pytest benchmarks/ --benchmark-only``.

    pytest benchmarks/ --benchmark-only                                   quick: a look at your machine
    pytest benchmarks/ --benchmark-only --scale full --results benchmarks/results/

On a CPU the process starts itself again with the allocator and thread settings that kernels are compared under.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

# importlib mode leaves sys.path alone; the harness and its benchmarks import each other by name.
sys.path.insert(0, str(Path(__file__).parent))

SCALES = ("smoke", "quick", "full")
# Without these, page faults of freshly mapped memory are most of what eager code is seen to take.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
_STARTED = "FASTUDA_BENCHMARK_STARTED"
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
    group.addoption("--ungated", action="store_true", help="report from a busy machine; such rows are never published")


def time_limit(config: pytest.Config) -> float | None:
    given = config.getoption("time_limit")
    return 140.0 if given is None and config.getoption("scale") == "quick" else given


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **ALLOCATOR}


def device_type(config: pytest.Config) -> str:
    import torch

    return config.getoption("device") or ("cuda" if torch.cuda.is_available() else "cpu")


def pytest_configure(config: pytest.Config) -> None:
    """Start again under the protocol's environment: it must be there before the first allocation."""
    wanted = environment(config.getoption("threads"))
    if not config.getoption("benchmark_only", False) or _STARTED in os.environ or config.getoption("device") == "cuda":
        return
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    if capture := config.pluginmanager.getplugin("capturemanager"):
        capture.stop_global_capturing()  # or the new process would write into the old one's capture file
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | wanted | {_STARTED: "1"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    operator = getattr(metafunc.module, "OPERATOR", None)
    if operator is None or "provider" not in metafunc.fixturenames:
        return
    scale = metafunc.config.getoption("scale")
    metafunc.parametrize("case", list(operator.cases[scale]))  # slowest: its inputs are made once
    metafunc.parametrize("provider", operator.names)
    metafunc.parametrize("direction", operator.directions)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A results file holds rows of the harness, so others stay away; compilation must not starve the rest of time."""
    if config.getoption("results"):
        others = [item for item in items if "measure" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
    if time_limit(config):
        items.sort(key=lambda item: "compile" in item.name)


@pytest.fixture(scope="session")
def session_harness(pytestconfig: pytest.Config):
    import _measure
    import torch

    threads = pytestconfig.getoption("threads")
    torch.set_num_threads(threads)
    scale = pytestconfig.getoption("scale")
    device = torch.device(device_type(pytestconfig))
    _state["start"] = time.perf_counter()
    size = 1 / 64 if scale == "smoke" else 1.0
    _state["harness"] = _measure.Harness(device, scale, torch.get_num_threads(), size)
    return _state["harness"]


@pytest.fixture
def measure(session_harness, pytestconfig, benchmark, case, direction, provider):
    """measure(OPERATOR): the row of this test's case, direction and provider; skips where a provider cannot serve."""
    import _measure

    limit = time_limit(pytestconfig)

    def run(operator: _measure.Operator) -> dict:
        if limit and time.perf_counter() - _state["start"] > limit:
            pytest.skip(f"the time limit of {limit:g} s is over")
        try:
            row = session_harness.run(benchmark, operator, case, direction, provider)
        except _measure.UnavailableError as why:
            pytest.skip(str(why))
        benchmark.extra_info.update(row)
        return row

    return run


def pytest_sessionfinish(session: pytest.Session) -> None:
    harness = _state.get("harness")
    if harness is None or not harness.rows:
        return
    harness.probe()
    found = _state["objections"] = harness.objections()
    path = session.config.getoption("results")
    if path is None:
        return
    if found and not session.config.getoption("ungated"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        _state["saved"] = f"refused to write {path}: see the objections (--ungated writes what is never published)"
        return
    run = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    gated = not found and harness.scale != "smoke"
    _state["saved"] = f"wrote {len(harness.rows)} rows to {harness.save(path, gated, run)}"


def pytest_terminal_summary(terminalreporter) -> None:
    harness = _state.get("harness")
    if harness is None or not harness.rows:
        return
    import report

    terminalreporter.section("fastuda operators")
    for line in report.lines(harness.rows, harness.probes[-1]):
        terminalreporter.write_line(line)
    for why in _state.get("objections", []):
        terminalreporter.write_line(f"busy machine, these figures are only an indication: {why}", yellow=True)
    if "saved" in _state:
        terminalreporter.write_line(_state["saved"])
