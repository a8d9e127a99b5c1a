"""Processor time that the C++ sources of csrc/cpu take to compile, a file at a time, with the flags of setup.py.

    python benchmarks/compile_time.py                 every file, and their sum
    python benchmarks/compile_time.py sinkhorn        some of them

Machines differ, so the sum is also given relative to the time of one reference file, ``std::regex`` of the standard
library, which is compiled once before and once after. ccache is turned off, because it would hide the time.
"""

from __future__ import annotations

import argparse
import os
import resource
import runpy
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from unittest import mock

from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = """
#include <regex>
#include <string>
int matches(const std::string& text, const std::string& pattern) {
  int count = 0;
  const std::regex expression(pattern);
  for (std::sregex_iterator i(text.begin(), text.end(), expression), end; i != end; ++i) ++count;
  return count;
}
"""


def compiler_flags() -> list[str]:
    """The flags that setup.py gives to the C++ compiler."""
    before = Path.cwd()
    os.chdir(ROOT)  # setup.py looks for its sources in the current folder
    try:
        with mock.patch("setuptools.setup") as setup:
            runpy.run_path(str(ROOT / "setup.py"))
    finally:
        os.chdir(before)
    extension = setup.call_args.kwargs["ext_modules"][0]
    folders = [str(ROOT / "csrc"), *include_paths(), sysconfig.get_paths()["include"]]
    arguments = extension.extra_compile_args
    flags = arguments["cxx"] if isinstance(arguments, dict) else arguments
    return ["-fPIC", "-DTORCH_EXTENSION_NAME=_C", *flags, *(f"-I{folder}" for folder in folders)]


def processor_seconds(command: list[str]) -> float:
    """User and system time of a command and its children; CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, env={**os.environ, "CCACHE_DISABLE": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", help="files of csrc/cpu without .cpp (default: all)")
    wanted = parser.parse_args().operators
    sources = sorted((ROOT / "csrc/cpu").glob("*.cpp"))
    if unknown := set(wanted) - {source.stem for source in sources}:
        parser.error(f"csrc/cpu has no {', '.join(sorted(unknown))}")
    compiler, flags = os.environ.get("CXX", "g++"), compiler_flags()
    with tempfile.TemporaryDirectory() as folder:
        target, reference = str(Path(folder) / "object.o"), Path(folder) / "reference.cpp"
        reference.write_text(REFERENCE)
        unit = [compiler, "-std=c++20", "-O2", "-c", str(reference), "-o", target]
        units, total = [processor_seconds(unit)], 0.0
        for source in sources:
            if wanted and source.stem not in wanted:
                continue
            seconds = processor_seconds([compiler, *flags, "-c", str(source), "-o", target])
            total += seconds
            print(f"{source.stem:28s} {seconds:7.1f} s", flush=True)
        units.append(processor_seconds(unit))
    mean = sum(units) / len(units)
    print(f"{'reference file':28s} {mean:7.2f} s (before {units[0]:.2f}, after {units[1]:.2f})")
    print(f"{'sum':28s} {total:7.1f} s = {total / mean:.0f} reference files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
