"""What a run can only be repeated with: versions, machine, time, command and commit."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from fastuda import __version__


def facts(device: torch.device) -> dict[str, str]:
    """Plain values for the log of a run that starts now on ``device``."""
    found = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]]) if sys.orig_argv else "",
        "fastuda": __version__,
        "commit": commit(Path(__file__).resolve().parents[2]),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
    }
    return {name: value for name, value in found.items() if value}


def commit(root: Path) -> str:
    """The commit of the tree that holds the package, with "+ changes" where it differs; "" for an installed package."""
    if not (root / ".git").exists() or not (root / "fastuda").is_dir():
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" + changes" if changes else "")
    except (OSError, subprocess.SubprocessError):
        return ""  # no git here, or a tree that it refuses: the commit stays unknown


def processor() -> str:
    """The processor's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(errors="replace").splitlines() if information.exists() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
