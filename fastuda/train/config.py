"""The configuration of a run: dataclass defaults < preset < task file < command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import tyro

from fastuda.data.config import DataConfig, find_task, load_task
from fastuda.data.strict import from_dict, load_yaml
from fastuda.methods import find_method
from fastuda.methods.config import Recipe
from fastuda.methods.presets import PRESETS


@dataclass(frozen=True)
class Config(Recipe):
    """One training run."""

    task: str = "streets"  # a packaged task (fastuda --list-tasks) or the path of a YAML file of these fields
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0
    amp: bool = False  # mixed precision: bf16 where the machine computes it, fp16 with a loss scale on older GPUs
    pass_batch: int = 4  # images at a time in passes without gradient (statistics, pseudo labels)

    # Batches whose gradients are averaged before an update. The result is the gradient of one large batch if each batch
    # has the same number of valid pixels and no loss depends on its batch as a whole, as with batch norm that is not
    # frozen, the Lovász loss, moving statistics and medians of a batch.
    accumulate: int = 1

    # Settings that fit a card of so many GiB and keep the effective batch (fastuda/train/memory/bundle.py); "" = none.
    memory: Literal["", "8g", "11g", "16g", "24g"] = ""

    # Compile the networks by torch.compile, which changes rounding; "reduce-overhead" uses CUDA graphs; "" = do not.
    compile: Literal["", "default", "reduce-overhead"] = ""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    work_dir: str = ""  # results; "" = a new directory under runs/
    resume: bool = False  # continue the run that work_dir holds, bit for bit
    log_every: int = 20  # iterations between two lines of log.jsonl
    checkpoint_every: int = 500  # iterations between two checkpoints; one is also written after every stage
    predictions: int = 4  # coloured predictions on validation images, written as PNG at the end
    report: bool = True  # write report.html at the end, which predicts the validation images once more
    tensorboard: bool = False  # also write TensorBoard events (needs the extra fastuda[tensorboard])

    def __post_init__(self) -> None:
        for name in ("accumulate", "pass_batch", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seed", "predictions"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")


RUNTIME_FIELDS = frozenset(
    {"work_dir", "resume", "log_every", "checkpoint_every", "predictions", "report", "tensorboard", "device", "compile"}
)
"""Fields that may change when a run is resumed, because the trained weights do not depend on them."""


def parse(arguments: Sequence[str] | None = None) -> Config:
    """The configuration of a command line; with --resume that of the run in --work-dir, changed by the other options.

    Raises ValueError for a bad task, method, preset or file; a bad option prints its usage and exits with 2.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--task", default=Config.task)
    first.add_argument("--method")
    first.add_argument("--preset")
    first.add_argument("--work-dir", "--work_dir", default="")
    first.add_argument("--resume", action="store_true")
    known, _ = first.parse_known_args(arguments)
    if known.resume and known.work_dir:
        saved = Path(known.work_dir).expanduser() / "config.yaml"
        defaults = dataclasses.replace(config_from_dict(load_yaml(saved), str(saved)), work_dir=known.work_dir)
    else:
        defaults = task_config(known.task, known.method, known.preset)
    return tyro.cli(
        type(defaults),
        args=arguments,
        default=defaults,
        prog="python -m fastuda.train",
        description="Train a segmentation network and adapt it from a labelled source to an unlabelled target domain.",
    )


def task_config(task: str, method: str | None = None, preset_name: str | None = None) -> Config:
    """The configuration of a task before the command line's changes.

    method, preset_name: None takes what the task file says, or the defaults.  Raises ValueError for an unknown task,
    method, preset, key or value, naming the file and the key.
    """
    path = find_task(task)
    content = load_task(path)
    # The preset of the method comes below the rest of the file, so both are read from it first.
    chosen = from_dict(Config, {key: content[key] for key in ("method", "preset") if key in content}, str(path))
    method, preset_name = method or chosen.method, preset_name or chosen.preset
    if preset_name not in PRESETS:
        raise ValueError(f"--preset {preset_name!r} is not one of {', '.join(PRESETS)}")
    cls, preset = config_class(method), find_method(method).presets.get(preset_name, {})
    base = from_dict(cls, preset, f"preset {preset_name}", base=cls())
    config = from_dict(cls, content, str(path), base=base)
    return dataclasses.replace(config, task=task, method=method, preset=preset_name)


@cache
def config_class(method: str) -> type[Config]:
    """``Config``, with the section of a method outside this package as one more field.

    Raises ValueError for an unknown method and for a section that has the name of another field.
    """
    found = find_method(method)
    if found.Config is None:
        return Config
    if found.section in {item.name for item in dataclasses.fields(Config)}:
        raise ValueError(f"--method {method}: the section '{found.section}' has the name of a field of fastuda's own")
    section = (found.section, found.Config, field(default_factory=found.Config))
    return dataclasses.make_dataclass(
        "Config", [section], bases=(Config,), frozen=True, namespace={"__doc__": Config.__doc__}
    )


def to_dict(config: Config) -> dict:
    """Plain values, as YAML and the checkpoint keep them (tuples become lists)."""

    def plain(value):
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return plain(dataclasses.asdict(config))


def config_from_dict(values: Mapping, where: str) -> Config:
    """Inverse of ``to_dict``."""
    cls = config_class(str(values.get("method", Config.method)))
    return from_dict(cls, values, where, base=cls())


def difference(saved: Mapping, now: Mapping, prefix: str = "") -> str:
    """The first difference of two ``to_dict`` mappings that would change the trained weights, in words; "" if none."""
    for key in sorted(saved.keys() | now.keys()):
        if not prefix and key in RUNTIME_FIELDS or prefix == "data." and key in ("root", "cache_mib", "workers"):
            continue
        old, new = saved.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if found := difference(old, new, f"{prefix}{key}."):
                return found
        elif old != new:
            return f"{prefix}{key} ({old!r} in the checkpoint, {new!r} now)"
    return ""
