"""fastuda with every torch that it promises, without a GPU.

    python tests/versions.py --headers              compiles against the headers of the oldest torch
    python tests/versions.py PYTHON [PYTHON ...]    builds with each interpreter's torch, runs tests/ops, prints a table

The headers come from the oldest torch's wheel for macOS: a tenth of the size of the one for Linux, and its folders
pybind11, torch/csrc/stable and torch/headeronly, which are all that csrc includes, hold the same files.

Each build is setup.py's own, of a copy of this tree in a temporary folder.  With --objects FOLDER the CPU operators are
linked from objects that an earlier build made of this csrc/cpu, since the ABI is stable.  Every file is then still
compiled against each torch's headers, but without making code.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFINES = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY", "-DFASTUDA_WITH_CUDA=0"]
SMALL_PLATFORM = ["--platform", "macosx_11_0_arm64", "--python-version", "3.11", "--only-binary=:all:"]
CUDA_FILE = "csrc/cuda/confusion_matrix.cu"
FACTS = """
import json, platform, sysconfig, torch
print(json.dumps({
    "torch": torch.__version__, "python": platform.python_version(), "include": torch.__path__[0] + "/include",
    "python_include": sysconfig.get_paths()["include"],
}))
"""


def oldest_torch() -> str:
    """The lowest release that pyproject.toml promises, as 2.10.0."""
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(found[1] for line in needed if (found := re.fullmatch(r"torch>=([\d.]+)", line))) + ".0"


def fetch_headers(release: str, folder: Path) -> Path:
    """torch's include folder of a release, from its wheel."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *SMALL_PLATFORM, "-d", str(folder)]
    subprocess.run([*command, f"torch=={release}"], check=True)
    (wheel,) = folder.glob("torch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("torch/include/")])
    return folder / "torch/include"


def compile_all(include: Path, python_include: str, nvcc: str | None) -> dict[str, str]:
    """{file: what the compiler said} of the files that do not compile against these headers."""
    folders = [f"-I{folder}" for folder in (ROOT / "csrc", include, include / "torch/csrc/api/include", python_include)]
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    options = ["-std=c++20", *DEFINES, *folders]
    cpp = ["csrc/library.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cpu").glob("*.cpp"))]
    commands = {file: [*compiler, "-fsyntax-only", "-fvisibility=hidden", "-Wno-psabi", *options, file] for file in cpp}
    if nvcc:
        commands[CUDA_FILE] = [nvcc, "-arch=sm_75", "-DUSE_CUDA", *options, "-c", CUDA_FILE, "-o", os.devnull]

    def run(command: list[str]) -> subprocess.CompletedProcess:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(zip(commands, pool.map(run, commands.values()), strict=True))
    return {file: result.stderr for file, result in done.items() if result.returncode}


def check_headers() -> int:
    """Prints which files do not compile against the oldest torch's headers; the exit status."""
    nvcc = shutil.which("nvcc") or sys.exit("nvcc is not on PATH")
    release = oldest_torch()
    with tempfile.TemporaryDirectory() as folder:
        failed = compile_all(fetch_headers(release, Path(folder)), sysconfig.get_paths()["include"], nvcc)
    for file, said in failed.items():
        print(f"{file} does not compile against torch {release}:\n{said[:2000]}")
    if not failed:
        print(f"library.cpp, csrc/cpu and {CUDA_FILE} compile against the headers of torch {release}")
    return int(bool(failed))


def copy_tree(to: Path) -> None:
    """The files of this tree that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    (to / "fastuda/kernels").symlink_to("../kernels")  # what an installation makes of setuptools' package-dir


def build(python: str, tree: Path) -> None:
    """setup.py's extension in a tree, for the CPU: which CUDA each torch needs is not the point here."""
    environment = os.environ | {"FASTUDA_CUDA": "0"}
    command = [python, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the build fails: {(done.stdout + done.stderr)[-3000:]}")


def link(python: str, facts: dict, objects: list[Path], tree: Path) -> None:
    """The extension from objects of csrc/cpu and a library.cpp compiled for this interpreter."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    include = [f"-I{folder}" for folder in (tree / "csrc", facts["include"], facts["python_include"])]
    options = [
        "-std=c++20",
        "-O3",
        "-Wno-psabi",
        "-fPIC",
        "-fvisibility=hidden",
        *DEFINES,
        "-DTORCH_EXTENSION_NAME=_C",
        *include,
    ]
    subprocess.run([*compiler, *options, "-c", "csrc/library.cpp", "-o", "library.o"], cwd=tree, check=True)
    suffix = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    name = subprocess.run([python, "-c", suffix], capture_output=True, text=True, check=True).stdout.strip()
    libraries = [f"-L{facts['include']}/../lib", "-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
    command = ["g++", "-shared", "library.o", *map(str, objects), *libraries, "-o", f"fastuda/_C{name}"]
    subprocess.run(command, cwd=tree, check=True)


def check(python: str, objects: list[Path], tests: list[str]) -> dict[str, object]:
    """A row of the table: builds with the interpreter's torch and runs the tests."""
    asked = subprocess.run([python, "-c", FACTS], capture_output=True, text=True, check=True)
    facts = json.loads(asked.stdout)
    row: dict[str, object] = {"torch": facts["torch"], "python": facts["python"]}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        start = time.monotonic()
        if objects:
            failed = compile_all(Path(facts["include"]), facts["python_include"], shutil.which("nvcc"))
            if failed:
                return row | {"compiles": f"no: {', '.join(failed)}"}
            link(python, facts, objects, tree)
        else:
            build(python, tree)
        row |= {"compiles": "yes", "build s": round(time.monotonic() - start)}
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *tests]
        start = time.monotonic()
        done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True)
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
        counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|errors?|skipped)", last)}
        failures = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return (
            row | counts | {"tests s": round(time.monotonic() - start), "failures": failures, "status": done.returncode}
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreters", nargs="*", metavar="PYTHON", help="of an environment with torch and pytest")
    parser.add_argument("--headers", action="store_true", help="only compile against the oldest torch's headers")
    parser.add_argument("--objects", type=Path, metavar="FOLDER", help="objects of csrc/cpu from an earlier build")
    parser.add_argument("--tests", nargs="+", default=["tests/ops"], help="what pytest runs; default: tests/ops")
    options = parser.parse_args()
    if options.headers:
        return check_headers()
    if not options.interpreters:
        parser.error("name an interpreter, or --headers")
    objects = sorted(options.objects.rglob("cpu/*.o")) if options.objects else []
    if options.objects and not objects:
        parser.error(f"{options.objects} holds no cpu/*.o")
    status = 0
    names = ("torch", "python", "compiles", "passed", "failed", "skipped", "build s", "tests s")
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|", flush=True)
    for python in options.interpreters:
        row = check(python, [path.resolve() for path in objects], options.tests)
        print("| " + " | ".join(str(row.get(name, 0)) for name in names) + " |", flush=True)
        for failure in row.get("failures", []):
            print(f"  {failure}", flush=True)
        status |= int(row.get("status", 1) != 0)
    return status


if __name__ == "__main__":
    sys.exit(main())
