"""Finds the CUDA toolkit that setup.py compiles and links with.

torch takes the folder above the one that holds nvcc for the toolkit. That is wrong where nvcc is a wrapper script, as
in Debian's packages. A toolkit from pip holds no ``libcudart.so`` to link, but ``libcudart.so.13`` alone.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path


def find_toolkit() -> Path | None:
    """The folder that holds ``bin/nvcc`` and its headers: CUDA_HOME, else that of the nvcc on PATH, else a usual place.

    Raises ValueError if CUDA_HOME or CUDA_PATH names a folder without ``bin/nvcc``.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if named := os.environ.get(variable):
            if not Path(named, "bin/nvcc").is_file():
                raise ValueError(f"{variable} is {named}, but {named}/bin/nvcc does not exist")
            return Path(named)
    if nvcc := shutil.which("nvcc"):
        return toolkit_of(nvcc)
    folders = [Path("/usr/local/cuda"), *pip_packages("cu[0-9]*")]
    return next((folder for folder in folders if (folder / "bin/nvcc").is_file()), None)


def toolkit_of(nvcc: str) -> Path:
    """The toolkit of an nvcc, which may be a wrapper: nvcc prints its own root where it lists its steps."""
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    listed = subprocess.run(command, capture_output=True, text=True)
    root = re.search(r"^#\$ TOP=(.+)$", listed.stdout + listed.stderr, re.MULTILINE)
    if root and Path(root[1], "bin/nvcc").is_file():
        return Path(root[1]).resolve()
    return Path(nvcc).resolve().parents[1]


def runtime_library(toolkit: Path, major: int) -> tuple[list[str], str]:
    """(folders to search, name for the linker's -l) of the CUDA runtime library of release ``major``.

    Where only ``libcudart.so.MAJOR`` lies, as in pip's package, the linker is given that file's name. Where there is
    neither, the linker searches its own folders.
    """
    targets = toolkit / "targets" / f"{platform.machine()}-linux"
    folders = [toolkit / "lib64", toolkit / "lib", targets / "lib"]
    folders += [package / "lib" for package in (*pip_packages(f"cu{major}"), *pip_packages("cuda_runtime"))]
    for file, name in (("libcudart.so", "cudart"), (f"libcudart.so.{major}", f":libcudart.so.{major}")):
        for folder in folders:
            if (folder / file).is_file():
                return [str(folder)], name
    return [], "cudart"


def pip_packages(pattern: str) -> list[Path]:
    """The folders of NVIDIA's pip packages whose names match, newest release first."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec else ()
    return [path for place in places for path in sorted(Path(place).glob(pattern), reverse=True)]
