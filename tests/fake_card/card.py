"""A CUDA runtime and driver without a card: builds it, puts it in front of a CUDA build of PyTorch, reads its record.

The library of driver/ says that it is an NVIDIA H200, a GTX 1080 Ti or a Tesla T4, keeps device memory in host memory,
checks every launch and runs none: what comes out of a kernel is whatever the memory holds.  It shows launches, streams,
graphs, devices, synchronisation and the host's own time, and nothing about a GPU's.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).with_name("driver")
CARDS = {"h200": (9, 0), "1080ti": (6, 1), "t4": (7, 5)}
LIBRARY = "libfake_card.so"
MARK = "FAKE_CARD_LIBRARY"  # set in a process that runs on the stand-in: where its library lies


@dataclass(frozen=True)
class Launch:
    kind: str  # "cuda", "cooperative" or "triton"
    kernel: str  # mangled
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int  # dynamic, bytes
    device: int
    stream: str
    captured: bool


@dataclass(frozen=True)
class Record:
    """What the driver saw: launches of fastuda's kernels and of others, waits of the host by function, and faults."""

    own: int = 0
    others: int = 0
    waits: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)


def parse_record(text: str) -> Record:
    """The record from the driver's lines; ValueError for a line of another form."""
    own = others = 0
    waits, faults, launches = {}, [], []
    for line in text.splitlines():
        match line.split("\t"):
            case ["counts", first, second]:
                own, others = int(first), int(second)
            case ["wait", function, count]:
                waits[function] = int(count)
            case ["fault", *words]:
                faults.append("\t".join(words))
            case ["launch", kind, kernel, grid, block, shared, device, stream, captured]:
                sides = (tuple(int(n) for n in value.split()) for value in (grid, block))
                launches.append(Launch(kind, kernel, *sides, int(shared), int(device), stream, captured == "1"))
            case _:
                raise ValueError(f"the driver's record holds a line of no known form: {line!r}")
    return Record(own, others, waits, faults, launches)


def missing() -> str:
    """One sentence on what the stand-in lacks here; empty if it can run."""
    spec = importlib.util.find_spec("torch")
    if spec is None:
        return "torch is not installed"
    # Importing torch to ask it takes seconds.
    if not re.search(r"^cuda\b.*= *'", Path(spec.origin).with_name("version.py").read_text(), re.MULTILINE):
        return "torch is not a CUDA build, and only one of those asks a driver for a card"
    if shutil.which("g++") is None:
        return "g++ is not installed, which builds the stand-in driver"
    if headers() is None:
        return "the headers of the CUDA toolkit (cuda_runtime_api.h) are not in CUDA_HOME, /usr/local/cuda or nvidia-*"
    return ""


def headers() -> Path | None:
    """The folder that holds cuda_runtime_api.h: of the toolkit, else of the package that CUDA builds of torch bring."""
    folders = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"]
    spec = importlib.util.find_spec("nvidia")
    for place in spec.submodule_search_locations if spec else []:
        folders += sorted(Path(place).glob("cu*/include")) + [Path(place) / "cuda_runtime/include"]
    return next((folder for folder in folders if (folder / "cuda_runtime_api.h").exists()), None)


def build(folder: Path) -> Path:
    """The driver's library in ``folder``, built again if a source changed; RuntimeError with the compiler's words."""
    sources = sorted(DRIVER.glob("*.cpp"))
    state = hashlib.sha256(b"".join(p.read_bytes() for p in [*sources, *DRIVER.glob("*.h")])).hexdigest()
    library, stamp = folder / LIBRARY, folder / "sources.sha256"
    if not (library.exists() and stamp.exists() and stamp.read_text() == state):
        folder.mkdir(parents=True, exist_ok=True)
        options = ["-std=c++20", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden"]
        command = ["g++", *options, f"-I{headers()}", *map(str, sources), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"g++ fails on the stand-in driver: {done.stderr[-3000:]}")
        stamp.write_text(state)
    # Triton and PyTorch open libcuda.so.1 by that name; as a link it is the library that is loaded already.
    link = folder / "libcuda.so.1"
    link.unlink(missing_ok=True)
    link.symlink_to(LIBRARY)
    return library


def find_cuobjdump() -> str | None:
    """The toolkit's, or the one that Triton's wheel brings."""
    spec = importlib.util.find_spec("triton")
    places = ["/usr/local/cuda/bin"]
    places += [f"{place}/backends/nvidia/bin" for place in (spec.submodule_search_locations if spec else [])]
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=os.pathsep.join(places))


def extract_cubins(folder: Path) -> int:
    """Writes the cubins of this tree's compiled extension to ``folder`` and returns how many; 0 without cuobjdump."""
    extensions = sorted((ROOT / "fastuda").glob("_C" + sysconfig.get_config_var("EXT_SUFFIX")))
    tool = find_cuobjdump()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if extensions and tool:
        subprocess.run([tool, "-xelf", "all", str(extensions[0])], cwd=folder, capture_output=True, check=True)
    return len(list(folder.glob("*.cubin")))


def environment(library: Path, *, name: str = "h200", devices: int = 1, cubins: Path | None = None) -> dict[str, str]:
    """The variables of a process that runs on the stand-in."""
    folder = str(library.parent)
    search = os.pathsep.join(filter(None, [folder, os.environ.get("LD_LIBRARY_PATH", "")]))
    package = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    found = {
        **os.environ, "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": search, "TRITON_LIBCUDA_PATH": folder,
        MARK: str(library), "FAKE_CARD": name, "FAKE_CARD_DEVICES": str(devices), "PYTHONPATH": package,
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(devices))),
    }  # fmt: skip
    return found | ({"FAKE_CARD_CUBINS": str(cubins)} if cubins else {})


def scratch() -> Path:
    """Where the library, the cubins and Triton's kernels are kept between runs."""
    return Path(os.environ.get("FAKE_CARD_SCRATCH", Path(tempfile.gettempdir()) / f"fastuda_fake_card_{os.getuid()}"))


def on_the_card(*, devices: int = 1) -> None:
    """Returns in a process that runs on the stand-in; elsewhere builds it and runs this script again on it.

    FAKE_CARD names the card.  Exits with one sentence where something is missing.
    """
    if MARK in os.environ:
        return
    if lack := missing():
        sys.exit(f"the fake card cannot run here: {lack}")
    name = os.environ.get("FAKE_CARD", "h200")
    if name not in CARDS:
        sys.exit(f"FAKE_CARD must be one of {', '.join(CARDS)}, got {name!r}")
    library = build(scratch())
    cubins = Path(os.environ.get("FAKE_CARD_CUBINS", scratch() / "cubins"))
    if "FAKE_CARD_CUBINS" not in os.environ and not extract_cubins(cubins):
        print("no cubins of fastuda._C (not built with CUDA, or no cuobjdump): registers are not checked", flush=True)
    variables = environment(library, name=name, devices=devices, cubins=cubins)
    os.execve(sys.executable, [sys.executable, *sys.argv], variables)


class Driver:
    """The stand-in of this process."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(os.environ[MARK])
        self.library.fake_card_text.restype = ctypes.c_char_p
        self.library.fake_card_expect.argtypes = (ctypes.c_void_p, ctypes.c_int)

    def begin(self, keep_launches: bool = False) -> None:
        """Empties the record."""
        self.library.fake_card_begin(int(keep_launches))

    def record(self) -> Record:
        return parse_record(self.library.fake_card_text().decode())

    @contextmanager
    def only(self, stream) -> Iterator[None]:
        """Inside, a launch on another stream or device is a fault."""
        self.library.fake_card_expect(stream.cuda_stream, stream.device_index)
        try:
            yield
        finally:
            self.library.fake_card_expect_nothing()
