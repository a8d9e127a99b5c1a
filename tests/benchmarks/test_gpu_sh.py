"""benchmarks/gpu.sh with a stand-in for Python, and its dry run for real: what can be proven without a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
PARTS = ["wheels", "facts", "build", "tests", "sanitizer", "benchmarks", "profile"]

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("timeout") is None, reason="needs bash and timeout"
)

# Notes its arguments, and does what the test asks of the part they belong to.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
  -c*get_device_capability*) echo 9.0 ;;
  *hypothesis*) exit "${MISSING:-0}" ;;
  *) [[ "$*" =~ $BREAKS ]] && eval "$BREAK" ;;
esac
exit 0
"""


@pytest.fixture
def run(tmp_path):
    """run(*arguments, **environment) -> (process, calls of Python in order, $OUT) in a tree of its own."""
    tree = tmp_path / "tree"
    (tree / "benchmarks").mkdir(parents=True)
    shutil.copy(SCRIPT, tree / "benchmarks")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"python3": STAND_IN, "compute-sanitizer": '#!/usr/bin/env bash\nshift 6\nexec "$@"\n'}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def call(*arguments: str, **environment: str):
        calls, out = tmp_path / "calls", tmp_path / "out"
        calls.write_text("")
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "CALLS": str(calls), "OUT": str(out), "BREAKS": "nothing", "BREAK": "true"}
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHON", "TORCH_CUDA_ARCH_LIST")}
        process = subprocess.run(
            ["bash", str(tree / "benchmarks" / "gpu.sh"), *arguments],
            env=kept | settings | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return process, calls.read_text().splitlines(), out

    call.tree = tree
    return call


def summary(process: subprocess.CompletedProcess) -> dict[str, str]:
    lines = process.stdout.split("== summary", 1)[1].splitlines()[1:]
    return {line.split()[0]: line.split(maxsplit=2)[2] for line in lines if line.strip()}


def test_the_script_parses():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_boxes_and_total_stay_under_nine_minutes():
    text = SCRIPT.read_text()
    assert "TOTAL=${TOTAL:-530}" in text and all(f"\npart {name} " in text for name in PARTS)


def test_every_part_runs_in_order(run):
    process, calls, out = run()
    assert process.returncode == 0, process.stdout + process.stderr
    assert list(summary(process)) == PARTS
    text = "\n".join(calls)
    commands = [
        "-m pip install -q --no-index --no-build-isolation --no-deps -e .",
        "-m pytest -m gpu tests ",
        "benchmarks/profile_ops.py --once --device cuda --scale smoke",
        "-m pytest benchmarks/ops --benchmark-only --device cuda --scale full",
        "benchmarks/profile_ops.py --device cuda --scale full",
    ]
    places = [text.index(command) for command in commands]
    assert places == sorted(places)
    assert text.count("--once") == 2  # memcheck and racecheck
    assert f"--results {out}" in text and "--ungated" not in text and "not compile" not in text
    assert len([p for p in out.rglob("*") if p.is_file()]) <= 8 and (out / "gpu.log").exists()
    assert "summary" in (out / "gpu.log").read_text()


@pytest.mark.parametrize(
    ("part", "command"),
    [
        ("build", "no-build-isolation|build_ext"),
        ("tests", "-m gpu"),
        ("sanitizer", "--once"),
        ("benchmarks", "--benchmark-only"),
        ("profile", "--providers"),
    ],
)
def test_a_failing_part_does_not_stop_the_others_but_the_script_fails(run, part, command):
    process, calls, _ = run(BREAKS=command, BREAK="exit 3")
    states = summary(process)
    assert process.returncode == 1 and states.pop(part).startswith("FAILED: exit status")
    assert all(not state.startswith("FAILED") for state in states.values())
    assert "profile_ops.py --device cuda" in calls[-1]


def test_without_an_editable_install_the_extension_is_built_in_place(run):
    process, calls, _ = run(BREAKS="no-build-isolation", BREAK="exit 1")
    assert process.returncode == 0 and any("setup.py build_ext --inplace" in call for call in calls)


def test_a_part_that_hangs_is_cut_off(run):
    process, calls, _ = run(BREAKS="--benchmark-only", BREAK="sleep 30", BOX_BENCHMARKS="1")
    states = summary(process)
    assert process.returncode == 1 and states["benchmarks"] == "FAILED: out of time" and states["profile"] == "ok"


def test_nothing_runs_past_the_total(run):
    process, calls, _ = run(BREAKS="no-build-isolation", BREAK="sleep 30", TOTAL="2")
    states = summary(process)
    assert process.returncode == 1 and states["build"] == "FAILED: out of time"
    assert {states[name] for name in PARTS[3:]} == {"FAILED: no time left"}


def test_no_gpu_tests_at_all_is_a_failure(run):
    process, _, _ = run(BREAKS="-m gpu", BREAK="exit 5")
    assert process.returncode == 1 and summary(process)["tests"] == "FAILED: exit status 5"


def test_the_trainers_libraries_may_be_missing(run):
    process, calls, _ = run(MISSING="1")
    assert process.returncode == 0 and any("-m pytest -m gpu tests/ops -q" in call for call in calls)
    assert "only tests/ops" in process.stdout


def test_wheels_are_installed_beside_the_interpreter(run):
    (run.tree / ".whl").mkdir()
    (run.tree / ".whl" / "tyro-1-py3-none-any.whl").touch()
    process, calls, _ = run()
    assert process.returncode == 0 and summary(process)["wheels"] == "ok"
    assert "--no-index --no-deps" in calls[0] and "--target" in calls[0] and calls[0].endswith(".whl")


def test_a_missing_sanitizer_is_left_out_with_a_reason(run):
    process, _, _ = run(SANITIZER="no-such-tool")
    assert process.returncode == 0 and summary(process)["sanitizer"] == "left out: no-such-tool is not installed"


def test_an_unknown_option_is_refused(run):
    process, calls, _ = run("--fast")
    assert process.returncode == 2 and "usage" in process.stderr and calls == []


def test_dry_run_on_this_machine(tmp_path):
    """Every part for real, with tiny shapes on the CPU; the tests part collects the whole suite and skips gpu tests."""
    for library in ("pytest_benchmark", "hypothesis", "setuptools"):
        pytest.importorskip(library)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "FASTUDA_BENCHMARK"))}
    environment |= {"OUT": str(tmp_path), "PYTHON": sys.executable}
    process = subprocess.run([str(SCRIPT), "--dry-run"], env=environment, capture_output=True, text=True, timeout=560)
    states = summary(process)
    assert process.returncode == 0, process.stdout + process.stderr
    assert states["build"].startswith("left out") and states["benchmarks"] == states["profile"] == "ok"
    assert states["sanitizer"] == states["tests"] == states["facts"] == "ok"
    files = sorted(p.name for p in tmp_path.iterdir())
    assert len(files) == 3 and {"gpu.log", "profile_cpu.txt"} < set(files)
