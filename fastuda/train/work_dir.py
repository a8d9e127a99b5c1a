"""The directory of a run's results."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import yaml

from fastuda.train.checkpoint import remove_unfinished, write_atomically
from fastuda.train.config import Config, to_dict


def choose_work_dir(config: Config) -> Path:
    """The working directory of a run; only the temporary files of a killed run are removed from it yet.

    Raises ValueError when it holds another run that would be overwritten, or nothing to resume.
    """
    path = Path(config.work_dir).expanduser() if config.work_dir else _new_directory(config)
    held = (path / "checkpoint.pt").exists()
    if config.resume and not held:
        raise ValueError(f"--resume: there is no checkpoint in {path}")
    if held and not config.resume:
        raise ValueError(f"{path} already holds a run: continue it with --resume or choose another --work-dir")
    remove_unfinished(path)
    return path


def after_restart(config: Config) -> Config:
    """The configuration, with ``resume`` set if ``torchrun --max-restarts`` restarted a run that had been saved.

    Raises ValueError if restarts are allowed but no directory is named: a restarted run could not find its checkpoint.
    """
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and not config.work_dir:
        raise ValueError("torchrun --max-restarts needs --work-dir: the directory that a restarted run continues in")
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    held = config.work_dir and (Path(config.work_dir).expanduser() / "checkpoint.pt").exists()
    return dataclasses.replace(config, resume=True) if restarted and held else config


def create_work_dir(path: Path, config: Config) -> None:
    """Make the directory and write the resolved config into it; OSError names what cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot create the working directory {path}: {error.strerror}") from error
    text = yaml.safe_dump(to_dict(config), sort_keys=False)
    write_atomically(path / "config.yaml", lambda file: file.write(text.encode()))


def _new_directory(config: Config) -> Path:
    if config.resume:
        raise ValueError("--resume needs --work-dir, the directory of the run to continue")
    base = Path("runs") / f"{Path(config.task).stem}-{config.method.replace(':', '.')}-seed{config.seed}"
    number = 1
    while (path := base if number == 1 else Path(f"{base}-{number}")).exists():
        number += 1
    return path
