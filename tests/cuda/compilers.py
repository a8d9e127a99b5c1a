"""Compiles csrc/cuda for every card without a GPU and reads what ptxas says about each kernel.

    python tests/cuda/compilers.py          writes tests/cuda/resources.json

nvcc 13 builds the kernels for compute capability 7.5 to 12.0, and the whole file, registration included, for one card.
The tests build for a card of each kind (CI_CARDS and the whole file's), the table holds all.
Pascal (6.1) is built by NVRTC and ptxas 12.9 of the pip packages nvidia-cuda-{nvrtc,runtime,nvcc}-cu12, cuda-bindings.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("resources.json")
CARDS = ("75", "80", "86", "90", "100", "120")
CI_CARDS = ("75", "120")
WHOLE_FILE_CARD = "90"
SOURCES = sorted(p.stem for p in (ROOT / "csrc/cuda").glob("*.cu"))
DEFINES = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY"]
NVRTC_PACKAGES = ("nvidia.cuda_nvrtc", "nvidia.cuda_runtime", "nvidia.cuda_nvcc", "cuda.bindings")

Resources = dict[str, dict[str, dict[str, int]]]  # card -> kernel -> what


def find_nvcc() -> str | None:
    path = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    return path if os.access(path, os.X_OK) else None


def nvcc_release(nvcc: str) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release ([\d.]+)", text)[1]


def missing_nvrtc_packages() -> list[str]:
    def found(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ModuleNotFoundError:
            return False

    return [name for name in NVRTC_PACKAGES if not found(name)]


def nvcc_call(nvcc: str, *arguments: str) -> str:
    """What nvcc and ptxas say; RuntimeError with their words if one of them fails or warns."""
    command = [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", "-Xptxas=-v", "-Werror=all-warnings", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc fails: {(done.stdout + done.stderr)[-3000:]}")
    return done.stdout + done.stderr


def with_nvcc(name: str, nvcc: str, cards: tuple[str, ...] = CARDS) -> Resources:
    """The kernels for all cards, in one call."""
    gencode = [f"-gencode=arch=compute_{card},code=sm_{card}" for card in cards]
    with tempfile.TemporaryDirectory() as folder:
        options = ["-DFASTUDA_KERNELS_ONLY", *gencode, f"--threads={min(2, os.cpu_count() or 1)}"]
        return parse(
            nvcc_call(nvcc, *options, "-fatbin", str(ROOT / f"csrc/cuda/{name}.cu"), "-o", f"{folder}/o.fatbin")
        )


def whole_file(name: str, nvcc: str) -> tuple[set[str], Resources]:
    """Compiles the whole file, as setup.py does, for one card: undefined symbols that are torch's, and its kernels."""
    include = [f"-isystem={torch.__path__[0]}/include{s}" for s in ("", "/torch/csrc/api/include")]
    options = [*DEFINES, *include, f"-arch=sm_{WHOLE_FILE_CARD}"]
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/o.o"
        said = nvcc_call(nvcc, *options, "-c", str(ROOT / f"csrc/cuda/{name}.cu"), "-o", target)
        symbols = subprocess.run(["nm", "-u", target], capture_output=True, text=True, check=True).stdout
    return {s for s in re.findall(r"U (\w+)", symbols) if re.search("torch|c10|at[0-9]", s)}, parse(said)


def with_nvrtc(name: str, card: str = "61", keep: Path | None = None) -> Resources:
    """The kernels alone, as they would be built at run time; RuntimeError with the compiler's words if it fails.

    keep: a folder for the binary code, NAME.sm_CARD.cubin.
    """
    from cuda.bindings import nvrtc

    def package(module: str) -> Path:
        return Path(next(iter(importlib.util.find_spec(module).submodule_search_locations)))

    def checked(result):
        status, *values = result
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"NVRTC says {status}")
        return values[0] if values else None

    source = (ROOT / f"csrc/cuda/{name}.cu").read_text().encode()
    # cooperative_groups.h asks for <nv/target>, whose macros NVRTC has built in, and for C++'s traits unless limited.
    program = checked(nvrtc.nvrtcCreateProgram(source, f"{name}.cu".encode(), 1, [b""], [b"nv/target"]))
    options = [f"--gpu-architecture=compute_{card}", "-std=c++20", "-DFASTUDA_KERNELS_ONLY", f"-I{ROOT / 'csrc'}"]
    options += ["-D_CG_LIMIT_INCLUDED_DEPENDENCIES", f"-I{package('nvidia.cuda_runtime') / 'include'}"]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [o.encode() for o in options])
    log = bytearray(checked(nvrtc.nvrtcGetProgramLogSize(program)))
    checked(nvrtc.nvrtcGetProgramLog(program, log))
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC fails on {name}.cu: {log.decode()[:3000]}")
    ptx = bytearray(checked(nvrtc.nvrtcGetPTXSize(program)))
    checked(nvrtc.nvrtcGetPTX(program, ptx))
    checked(nvrtc.nvrtcDestroyProgram(program))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "k.ptx").write_bytes(bytes(ptx).rstrip(b"\0"))
        command = [str(package("nvidia.cuda_nvcc") / "bin/ptxas"), "-v", f"-arch=sm_{card}", "k.ptx", "-o", "k.cubin"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if keep and not done.returncode:
            shutil.copy(f"{folder}/k.cubin", keep / f"{name}.sm_{card}.cubin")
    if done.returncode:
        raise RuntimeError(f"ptxas fails on {name}.cu: {done.stderr[-3000:]}")
    return parse(done.stderr)


def parse(text: str) -> Resources:
    """What ptxas -v says: registers, static shared memory, stack and spills of each kernel on each card."""
    found: Resources = {}
    blocks = re.split(r"Compiling entry function '", text)[1:]
    names = demangle([b.split("'")[0] for b in blocks])
    for block, name in zip(blocks, names, strict=True):
        card = re.search(r"for 'sm_(\w+)'", block)[1]
        used = re.search(r"Used (\d+) registers", block)
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        shared = re.search(r"(\d+) bytes smem", block)
        found.setdefault(card, {})[name] = {
            "registers": int(used[1]),
            "shared": int(shared[1]) if shared else 0,
            "stack": int(spills[1]),
            "spills": int(spills[2]) + int(spills[3]),
        }
    return found


def demangle(names: list[str]) -> list[str]:
    done = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True)
    short = re.compile(r"^void |fastuda::cuda::|\(.*\)$")
    return [short.sub("", re.sub(r"\((bool|int)\)", "", line)) for line in done.stdout.splitlines()]


def measure(name: str, nvcc: str) -> Resources:
    found = with_nvcc(name, nvcc)
    if not missing_nvrtc_packages():
        found |= with_nvrtc(name)
    return found


def write() -> None:
    nvcc = find_nvcc() or sys.exit("nvcc is not installed")
    if missing := missing_nvrtc_packages():
        sys.exit(f"not installed: {', '.join(missing)}")
    old = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    kept = old.get("dynamic shared memory", {})  # by hand: test_compile.py says what it is
    table: dict[str, object] = {"nvcc": nvcc_release(nvcc), "nvrtc": "12.9", "dynamic shared memory": kept}
    for name in SOURCES:
        table[name] = {
            f"sm_{card}": rows for card, rows in sorted(measure(name, nvcc).items(), key=lambda c: int(c[0]))
        }
    text = json.dumps(table, indent=1)
    flat = re.sub(r"\{[^{}]*\}", lambda m: re.sub(r"\s+", " ", m[0]).replace("{ ", "{").replace(" }", "}"), text)
    TABLE.write_text(flat + "\n")


if __name__ == "__main__":
    write()
