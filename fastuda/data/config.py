"""What a run reads: data sets, sizes, augmentation; and the packaged tasks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastuda.data.layouts import LAYOUTS, find_layout
from fastuda.data.roots import beside, check_moves
from fastuda.data.strict import close_name, load_yaml

_KINDS = "|".join(("none", *LAYOUTS, "MODULE:LAYOUT"))


def _size(name: str, size: tuple[int, int]) -> None:
    if size != (0, 0) and min(size) <= 0:
        raise ValueError(f"{name} must be (height, width) in pixels, both positive or both 0, not {tuple(size)}")


@dataclass(frozen=True)
class DatasetConfig:
    """One data set of one domain."""

    # Layout of the files, also one outside this package as package.module:Class; "none" = there is no such data set,
    # which only the validation may be.
    kind: Annotated[str, tyro.conf.arg(metavar=_KINDS)] = "streets"

    # Directory of the data set; $VARIABLES and ~ are expanded; a relative one lies beside the task file that names it.
    root: str = ""
    split: str = ""  # train | val; Cross-City: Train | Test; folder, gta5, synthia, synscapes: list file below root
    labelled: bool = True  # False: label files are never opened or listed
    size: tuple[int, int] = (0, 0)  # (height, width) in pixels that images are resized to; (0, 0) = native
    images: str = "images"  # folder: image directory below root
    labels: str = "labels"  # folder: label directory below root
    image_suffix: str = ""  # folder: end of an image's file name, such as _leftImg8bit.jpg; "" = any image file
    label_suffix: str = ""  # folder: replaces the image suffix in the label's file name; "" = .png

    # Label id -> class: trainids | cityscapes | synthia, a YAML file of "id: train id", or with your own classes the
    # name of one of their tables; "" = that of the kind, or the only one.
    ids: str = ""

    translated: str = ""  # source: directory of its images in the target's style (CycleGAN ...), shown beside them
    city: str = ""  # crosscity: Rio, Rome, Taipei or Tokyo
    look: Literal["rendered", "camera"] = "rendered"  # streets: how the world is drawn
    count: int = 0  # streets: number of scenes
    seed: int = 0  # streets: seed of the world
    every: float = 1.0  # video: seconds between two frames

    def __post_init__(self) -> None:
        _size("size", self.size)
        if self.count < 0:
            raise ValueError(f"count must not be negative, not {self.count}")
        if not 0 < self.every < float("inf"):
            raise ValueError(f"every must be a positive number of seconds, not {self.every}")
        if self.kind == "none" or ":" in self.kind:
            return  # a layout outside this package is imported when its data are opened, and not for a prediction
        if not find_layout(self.kind).in_files and self.translated:
            raise ValueError("translated needs source images in files, and those of streets are drawn")


@dataclass(frozen=True)
class Augment:
    """Augmentation of one domain's training images. Everything off by default."""

    crop: tuple[int, int] = (0, 0)  # (height, width) in pixels of a random crop; (0, 0) = no crop
    scale: tuple[float, float] = (1.0, 1.0)  # range of the random scale factor, drawn before the crop
    flip: float = 0.0  # probability of a horizontal flip
    brightness: float = 0.0  # b: factor uniform in [max(0, 1 - b), 1 + b]
    contrast: float = 0.0  # as brightness
    saturation: float = 0.0  # as brightness
    hue: float = 0.0  # h <= 0.5: shift uniform in [-h, h] turns of the colour wheel
    greyscale: float = 0.0  # probability
    blur: float = 0.0  # probability of a Gaussian blur

    def __post_init__(self) -> None:
        _size("crop", self.crop)
        low, high = self.scale
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"scale must be two factors 0 < low <= high, not {self.scale}")
        for name in ("flip", "greyscale", "blur"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a probability between 0 and 1, not {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"hue must lie between 0 and 0.5 turns, not {self.hue}")


@dataclass(frozen=True)
class DataConfig:
    """The three data sets of an adaptation task."""

    # Class set: a name (see fastuda.data.classes), or your own as a YAML file or, in a task file, the mapping itself.
    classes: Annotated[str | dict[str, Any], tyro.conf.arg(constructor=str, metavar="NAME|FILE.yaml")] = "common11"

    source: DatasetConfig = DatasetConfig()
    target: DatasetConfig = DatasetConfig(labelled=False)
    validation: DatasetConfig = DatasetConfig(kind="none")  # labelled images of the target; without them, no scores
    cache_mib: int = 512  # RAM for decoded images, MiB, shared by the data sets of a run

    # OLD=NEW: roots that begin with the directory OLD, as a task or run from another machine has them, lie in NEW here.
    root: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="OLD=NEW")] = ()

    workers: int = -1  # loading processes per data set; -1 = chosen by the machine, 0 = in the training process

    def __post_init__(self) -> None:
        if isinstance(self.classes, str) and self.classes.endswith((".yaml", ".yml")):
            # The run keeps the classes themselves, so that it can be used where this file is not.
            object.__setattr__(self, "classes", load_yaml(os.path.expanduser(self.classes)))
        if self.cache_mib < 0:
            raise ValueError(f"cache_mib must not be negative, not {self.cache_mib}")
        if self.workers < -1:
            raise ValueError(f"workers must be -1 (automatic) or a number of processes, not {self.workers}")
        check_moves(self.root)
        for name in ("source", "target"):
            if getattr(self, name).kind == "none":
                raise ValueError(f"{name}.kind must name a data set: only the validation may be left out")
        for name in ("source", "validation"):
            if not getattr(self, name).labelled:
                raise ValueError(
                    f"{name}.labelled must be true: without labels it can neither be learnt from nor scored"
                )
        for name in ("target", "validation"):
            if getattr(self, name).translated:
                raise ValueError(f"{name}.translated must be empty: translated images are copies of the source's")


def find_task(name_or_path: str | Path) -> Path:
    """Path of a task's YAML file: the path given, or the packaged task of that name.

    Raises ValueError, with the names there are, when it is neither.
    """
    path = Path(name_or_path).expanduser()
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise ValueError(f"the config file {path} does not exist")
    packaged = packaged_tasks()
    if str(name_or_path) in packaged:
        return packaged[str(name_or_path)]
    raise ValueError(
        f"there is no task '{name_or_path}'{close_name(str(name_or_path), packaged)}; there are {', '.join(packaged)}"
    )


def load_task(path: Path) -> dict[str, Any]:
    """The content of a task's file. The relative paths in it, of data, classes and weights, lie beside the file.

    Raises ValueError as ``load_yaml`` does; what the fields hold is not checked here.
    """
    content = load_yaml(path)
    data, model = content.get("data"), content.get("model")
    parts = [data.get(name) for name in ("source", "target", "validation")] if isinstance(data, dict) else []
    named = [(part, field) for part in parts for field in ("root", "translated")]
    if isinstance(data, dict) and str(data.get("classes")).endswith((".yaml", ".yml")):
        named.append((data, "classes"))
    if isinstance(model, dict) and os.path.splitext(str(model.get("weights")))[1]:
        named.append((model, "weights"))  # one without an extension is a name, such as imagenet
    for mapping, field in named:
        if isinstance(mapping, dict) and isinstance(mapping.get(field), str):
            mapping[field] = beside(mapping[field], path.parent)
    return content


def packaged_tasks() -> dict[str, Path]:
    """The YAML files of the packaged tasks by name."""
    folder = Path(str(resources.files("fastuda"))) / "configs" / "tasks"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
