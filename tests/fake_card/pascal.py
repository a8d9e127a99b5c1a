"""Binary code of all CUDA C++ kernels for a GTX 1080 Ti, which nvcc 13 no longer builds, in a folder.

    python tests/fake_card/pascal.py FOLDER
    FAKE_CARD=1080ti FAKE_CARD_CUBINS=FOLDER python tests/fake_card/operators.py

Compiled by NVRTC 12.9, whose packages are those of the extra ``test``.  The stand-in driver then checks each launch
against the registers, shared memory and parameters that the kernels have on that card, as in a cu126 build.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cuda"))

import compilers  # noqa: E402


def main() -> int:
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/fake_card/pascal.py FOLDER")
    if missing := compilers.missing_nvrtc_packages():
        sys.exit(f"not installed: {', '.join(missing)}; the extra test brings them")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in compilers.SOURCES:
        kernels = compilers.with_nvrtc(name, keep=folder)
        print(f"{name}: {sum(map(len, kernels.values()))} kernels", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
