"""benchmarks/gpu.sh with a stand-in for Python, and its dry run for real: what can be proven without a GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import needed
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
SETUP = ["wheels", "facts", "extension"]
CORRECT = [*SETUP, "once_cuda", "once_triton", "tests", "sanitizer", "training", "failures"]
MEASURE = [*SETUP, "rows_cuda", "rows_triton", "memory", "profile", "rows_others", "results", "failures"]

needed.tool(shutil.which("bash") and shutil.which("timeout"), "bash or timeout")
pytestmark = pytest.mark.slow  # each test starts dozens of processes

# Notes its arguments, does what the test asks of the part they belong to, and ends the journal that it is given.
STAND_IN = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
[[ "$*" =~ $BREAKS ]] && eval "$BREAK"
previous=""
for argument in "$@"; do
  [ "$previous" != --journal ] || echo '{"kind": "end"}' >>"$argument"
  [[ "$argument" != --junitxml=* ]] || touch "${argument#--junitxml=}"
  previous=$argument
done
case "$*" in
  *get_device_capability*) echo 9.0 ;;
  *rows.py*--results*) echo "[]" >"$OUT/card.json" ;;
esac
exit 0
"""


@pytest.fixture
def run(tmp_path):
    """run(*arguments, **environment) -> (process, calls of Python in order, $OUT) in a tree of its own."""
    tree = tmp_path / "tree"
    for name in ("benchmarks/gpu", "tests/ops", "fastuda", "kernels"):
        (tree / name).mkdir(parents=True)
    shutil.copy(SCRIPT, tree / "benchmarks")
    shutil.copy(SCRIPT.parent / "gpu" / "parts.sh", tree / "benchmarks" / "gpu")
    marked = {"ops": "", "nn": "@pytest.mark.gpu", "kernels": "@pytest.mark.gpu", "data": ""}
    for room, text in marked.items():  # two of these have tests for a GPU: all operators, and who names the mark
        (tree / "tests" / room).mkdir(parents=True, exist_ok=True)
        (tree / "tests" / room / "test_sinkhorn.py").write_text(text)
    tools = tmp_path / "tools"
    tools.mkdir()
    # the sanitizer's program follows its --log-file FILE
    sanitizer = (
        '#!/usr/bin/env bash\nwhile [ "$1" != --log-file ]; do shift; done\necho clean >"$2"\nshift 2\nexec "$@"\n'
    )
    for name, text in {"python3": STAND_IN, "compute-sanitizer": sanitizer}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def call(*arguments: str, **environment: str):
        calls, out = tmp_path / "calls", tmp_path / "out"
        calls.write_text("")
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        settings = {"PATH": path, "CALLS": str(calls), "OUT": str(out), "BREAKS": "nothing", "BREAK": "true"}
        settings |= {"SHARDS": "2", "JOBS": "2", "SHARDED_FILES": "1"}
        dropped = ("PYTHON", "TORCH_CUDA_ARCH_LIST", "FAKE_CARD_LIBRARY", "PACK", "RESULTS", "TOTAL")
        kept = {k: v for k, v in os.environ.items() if k not in dropped}
        process = subprocess.run(
            ["bash", str(tree / "benchmarks" / "gpu.sh"), *arguments],
            env=kept | settings | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return process, calls.read_text().splitlines(), out

    call.tree, call.out = tree, tmp_path / "out"
    return call


def summary(process: subprocess.CompletedProcess) -> dict[str, str]:
    lines = process.stdout.split("== summary", 1)[1].splitlines()[1:]
    return {line.split()[0]: line.split(maxsplit=2)[2] for line in lines if line.strip()}


def test_the_scripts_parse():
    for path in (SCRIPT, SCRIPT.parent / "gpu" / "parts.sh", SCRIPT.parent / "gpu_pack.sh"):
        subprocess.run(["bash", "-n", str(path)], check=True)


def test_the_boxes_fit_into_the_time_of_each_command():
    """Where nothing has to be built: then the extension's part copies and loads a file, for which 10 s are reckoned."""
    text = SCRIPT.read_text()
    boxes = {name: int(value) for name, value in re.findall(r"BOX_(\w+)=\$\{BOX_\w+:-(\d+)\}", text)}
    fixed = {name: int(value) for name, value in re.findall(r"part (\w+) (\d+) always", text)}
    facts = {name: int(value) for name, value in re.findall(r"(\w+)\) box=\d+ box_facts=(\d+)", text)}
    always = fixed["wheels"] + 10 + fixed["failures"]
    correct = facts["correct"] + always + 2 * boxes["ONCE"] + boxes["TESTS"] + boxes["SANITIZER"] + boxes["TRAINING"]
    measure = facts["measure"] + always + 2 * boxes["ROWS"] + boxes["MEMORY"] + boxes["PROFILE"] + fixed["results"]
    assert "correct) box=400 " in text and correct <= 400
    assert "measure) box=300 " in text and measure <= 300
    assert max(boxes.values()) < 600  # the most that one command may take there


@pytest.mark.parametrize(("command", "parts"), [("correct", CORRECT), ("measure", MEASURE)])
def test_every_part_runs_in_order(run, command, parts):
    process, calls, out = run(command)
    assert process.returncode == 0, process.stdout + process.stderr
    assert list(summary(process)) == parts and "nothing failed" in process.stdout
    text = "\n".join(calls)
    commands = {
        "correct": [
            "profile_ops.py --once --device cuda --scale smoke --providers cuda --shard",
            "profile_ops.py --once --device cuda --scale smoke --providers triton --shard",
            "-m pytest -m gpu tests/",
            "profile_ops.py --once --device cuda --scale smoke --providers cuda --shard",  # under the sanitizer
            "-m fastuda.train --method sdca --amp --device cuda",
        ],
        "measure": [
            "--device cuda --scale full --row-limit 45 --time-limit 60 -k not compile -q --tb=line",
            "--providers triton --journal",
            "-m fastuda.memory --method sdca --amp --card 11g --no-remedies",
            "-m fastuda.memory --method sdca --amp --card 11g --measure --snapshot",
            "profile_ops.py --device cuda --scale quick --providers cuda triton",
            "--providers reference usual --journal",
            "rows_cuda.jsonl",
        ],
    }[command]
    place = -1
    for part in commands:
        place = text.index(part, place + 1)
    times = (out / "times.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in times[1:]] == parts
    assert [f"{part}: exit status" in process.stdout for part in parts].count(False) == 0
    assert "summary" in (out / f"{command}.log").read_text()


def test_each_test_file_is_a_process_of_its_own_and_its_report_waits_for_its_end(run):
    _, calls, out = run("correct")
    ran = sorted(call.split("--junitxml")[0] for call in calls if "-m gpu" in call)
    files = ("tests/ops/test_sinkhorn.py", "tests/nn/test_sinkhorn.py")
    assert len(ran) == 7 and [sum(file in call for call in ran) for file in files] == [
        2,
        5,
    ]  # the larger one is cut into 4
    assert sorted(path.name for path in (out / "tests").glob("*.xml")) == [
        "nn_test_sinkhorn_not_triton.xml",
        *(f"nn_test_sinkhorn_triton_{shard}.xml" for shard in range(4)),
        "ops_test_sinkhorn_not_triton.xml",
        "ops_test_sinkhorn_triton.xml",
    ]


def test_shards_of_a_file_hold_each_of_its_tests_once():
    command = [sys.executable, "-m", "pytest", "tests/test_rooms.py", "--collect-only", "-q", "-p", "no:cacheprovider"]

    def collected(shard: str) -> list[str]:
        run = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"FASTUDA_TEST_SHARD": shard},
            capture_output=True,
            text=True,
            check=True,
        )
        return [line for line in run.stdout.splitlines() if "::" in line]

    shards = [collected(f"{i}/3") for i in range(3)]
    assert sorted(sum(shards, [])) == sorted(collected("0/1")) and min(map(len, shards)) > 0


@pytest.mark.parametrize(
    ("command", "part", "calls_of_it"),
    [
        ("correct", "tests", "-m gpu"),
        ("correct", "once_triton", "--once.*triton"),
        ("correct", "training", "fastuda.train"),
        ("measure", "rows_cuda", "providers cuda --journal"),
        ("measure", "memory", "fastuda.memory"),
        ("measure", "profile", "scale quick"),
    ],
)
def test_a_failing_part_does_not_stop_the_others_but_the_script_fails(run, command, part, calls_of_it):
    process, _, out = run(command, BREAKS=calls_of_it, BREAK="exit 3")
    states = summary(process)
    assert process.returncode == 1 and states.pop(part).startswith("FAILED: exit status")
    assert all(not state.startswith("FAILED") for state in states.values())
    assert f"{command} {part}: FAILED" in (out / "failures.txt").read_text()


def test_a_second_run_leaves_out_what_passed(run):
    first, calls, out = run("correct", BREAKS="nn/test_sinkhorn.*-k triton", BREAK="exit 2")
    assert summary(first)["tests"].startswith("FAILED")
    second, calls, _ = run("correct")
    assert second.returncode == 0 and summary(second)["once_cuda"] == summary(second)["training"] == "passed before"
    assert summary(second)["tests"] == "ok"
    again = [call for call in calls if "-m gpu" in call]  # the parts of the file that had not come to their end
    assert len(again) == 4 and all("nn/test_sinkhorn" in call for call in again)
    third, calls, _ = run("correct", "--again")
    assert "passed before" not in third.stdout and sum("-m gpu" in call for call in calls) == 7


def test_a_row_that_ends_its_process_is_followed_by_the_others(run):
    """The first try dies without the journal's end; the second, given the same journal, goes on."""
    broken = 'n=$(cat "$CALLS.n" 2>/dev/null || echo 0); echo $((n + 1)) >"$CALLS.n"; [ "$n" -ge 2 ] || '
    broken += '{ echo "{}" >>"$OUT/rows_cuda.jsonl"; kill -9 $$; }'
    process, calls, _ = run("measure", BREAKS="providers cuda --journal", BREAK=broken)
    tries = [call for call in calls if "providers cuda --journal" in call]
    assert len(tries) == 3 and len(set(tries)) == 1 and summary(process)["rows_cuda"] == "ok"


def test_a_session_that_does_not_begin_is_not_tried_again(run):
    process, calls, _ = run("measure", BREAKS="providers cuda --journal", BREAK="exit 4")
    assert sum("providers cuda --journal" in call for call in calls) == 1
    assert summary(process)["rows_cuda"] == "FAILED: exit status 4"


def test_a_packed_extension_of_these_sources_is_taken_and_another_is_not(run):
    pack = run.tree / "build" / "gpu" / "pack"
    pack.mkdir(parents=True)
    (run.tree / "csrc").mkdir()
    source = run.tree / "csrc" / "a.cu"
    source.write_text("old")
    (pack / "_C.cpython-312-x86_64-linux-gnu.so").write_text("extension")
    listing = subprocess.run(["sha256sum", "csrc/a.cu"], cwd=run.tree, check=True, capture_output=True, text=True)
    (pack / "SOURCES").write_text(listing.stdout)
    process, calls, _ = run("correct")
    installed = run.tree / "fastuda" / "_C.cpython-312-x86_64-linux-gnu.so"
    assert installed.read_text() == "extension" and not any("build_ext" in call for call in calls)
    assert (run.tree / "fastuda" / "kernels").is_symlink()  # or Triton's kernels would be left out
    installed.unlink()
    source.write_text("new")
    process, calls, _ = run("correct")
    assert not installed.exists() and "of other sources" in process.stdout


def test_without_a_packed_extension_one_is_built_and_triton_is_not_left_out(run):
    load = 'stdin=$(cat); [[ "$stdin" != *build_facts* ]] || [ -e "$CALLS.built" ] || exit 1'
    process, calls, _ = run(
        "correct", BREAKS="^-$|build_ext", BREAK=f'case "$*" in -) {load} ;; *) touch "$CALLS.built" ;; esac'
    )
    assert any("setup.py -q build_ext --inplace" in call for call in calls)
    assert summary(process)["extension"] == "ok" and (run.tree / "fastuda" / "kernels").is_symlink()
    assert any("--providers triton" in call for call in calls)


def test_an_extension_that_cannot_be_had_leaves_triton_to_run(run):
    load = 'stdin=$(cat); [[ "$stdin" != *build_facts* ]] || exit 1'
    process, calls, _ = run("correct", BREAKS="^-$|build_ext", BREAK=f'case "$*" in -) {load} ;; *) exit 1 ;; esac')
    assert summary(process)["extension"].startswith("FAILED") and any("--providers triton" in call for call in calls)


def test_a_part_that_hangs_is_cut_off(run):
    process, _, _ = run("measure", BREAKS="providers cuda --journal", BREAK="sleep 30", BOX_ROWS="1")
    states = summary(process)
    assert process.returncode == 1 and states["rows_cuda"] == "FAILED: out of time" and states["profile"] == "ok"


def test_nothing_runs_past_the_total(run):
    process, _, _ = run("correct", BREAKS="--once", BREAK="sleep 30", TOTAL="2")
    states = summary(process)
    assert process.returncode == 1 and states["once_cuda"] == "FAILED: out of time"
    assert {states[name] for name in CORRECT[4:]} == {"FAILED: no time left"}


def test_what_is_missing_is_left_out_with_a_reason(run):
    process, _, _ = run("correct", SANITIZER="no-such-tool", BREAKS="import kornia_rs", BREAK="exit 1")
    states = summary(process)
    assert process.returncode == 0 and states["sanitizer"] == "left out: no-such-tool is not installed"
    assert states["training"].startswith("left out: the trainer's libraries are not installed")
    assert states["wheels"].startswith("left out: no wheels")


def test_wheels_are_installed_beside_the_interpreter(run):
    folder = run.tree / "build" / "gpu" / "pack" / "wheels"
    folder.mkdir(parents=True)
    (folder / "tyro-1-py3-none-any.whl").touch()
    process, calls, _ = run("correct")
    assert process.returncode == 0 and summary(process)["wheels"] == "ok"
    assert "--no-index --no-deps" in calls[0] and "--target" in calls[0] and calls[0].endswith(".whl")
    process, calls, _ = run("measure")
    assert summary(process)["wheels"] == "ok" and not any("--target" in call for call in calls)  # installed before


def test_a_run_on_a_stand_in_card_says_so_and_writes_no_results(run):
    process, calls, out = run("measure", "--dry-run", FAKE_CARD_LIBRARY="/none/libfake_card.so")
    assert "dry run on the stand-in card /none/libfake_card.so" in (out / "measure.log").read_text()
    assert any("--fake-card" in call and "--scale smoke" in call for call in calls)
    assert not any("--results" in call or "--measure" in call for call in calls)


@pytest.mark.parametrize("arguments", [(), ("both",), ("correct", "--fast")])
def test_an_unknown_command_or_option_is_refused(run, arguments):
    process, calls, _ = run(*arguments)
    assert process.returncode == 2 and "usage" in process.stderr and calls == []


@pytest.mark.parametrize("command", ["correct", "measure"])
def test_dry_run_on_this_machine(tmp_path, command):
    """Every part for real, with tiny shapes on the CPU; one test file stands for all, and skips its GPU tests."""
    for library in ("pytest_benchmark", "hypothesis", "setuptools"):
        needed.module(library)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "FASTUDA_BENCHMARK"))}
    environment |= {"OUT": str(tmp_path), "PYTHON": sys.executable, "TOTAL": "900", "SHARDS": "1", "JOBS": "1"}
    environment |= {f"BOX_{name}": "300" for name in ("ONCE", "TESTS", "TRAINING", "ROWS", "MEMORY", "PROFILE")}
    options = [str(SCRIPT), command, "--dry-run"]
    process = subprocess.run(options, env=environment, capture_output=True, text=True, timeout=950)
    states = summary(process)
    assert process.returncode == 0, process.stdout + process.stderr
    assert states["extension"].startswith("left out") and states["facts"] == "ok"
    for part in {"correct": ("once_cpu", "tests", "training"), "measure": ("rows_cpu", "memory", "profile")}[command]:
        assert states[part] == "ok"
    if command == "measure":
        assert "rows of a dry run are no results" in process.stdout and (tmp_path / "rows_cpu.jsonl").exists()
