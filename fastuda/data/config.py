"""What a run reads: data sets, sizes, augmentation. Also the strict loader from YAML that every config goes through."""

from __future__ import annotations

import dataclasses
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
import yaml

from fastuda._paths import check_regular

T = TypeVar("T")
MOST_NODES = 1_000_000  # values in a YAML file, aliases unfolded: more than an id table of 65,536 lines has

Kind = Literal["none", "streets", "folder", "gta5", "synthia", "synscapes", "cityscapes", "crosscity"]


def _size(name: str, size: tuple[int, int]) -> None:
    if size != (0, 0) and min(size) <= 0:
        raise ValueError(f"{name} must be (height, width) in pixels, both positive or both 0, not {tuple(size)}")


@dataclass(frozen=True)
class DatasetConfig:
    """One data set of one domain."""

    kind: Kind = "streets"  # "none": there is no such data set, which only the validation may be
    root: str = ""  # directory; $VARIABLES and ~ are expanded; relative to the current directory
    split: str = ""  # train | val; Cross-City: Train | Test; folder, gta5, synthia, synscapes: list file below root
    labelled: bool = True  # False: label files are never opened, listed or looked at
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

    def __post_init__(self) -> None:
        _size("size", self.size)
        if self.count < 0:
            raise ValueError(f"count must not be negative, not {self.count}")
        if self.translated and self.kind == "streets":
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
    workers: int = -1  # loading processes per data set; -1 = chosen by the machine, 0 = in the training process

    def __post_init__(self) -> None:
        if isinstance(self.classes, str) and self.classes.endswith((".yaml", ".yml")):
            # The run keeps the classes themselves, so that it can be used where this file is not.
            object.__setattr__(self, "classes", load_yaml(os.path.expanduser(self.classes)))
        if self.cache_mib < 0:
            raise ValueError(f"cache_mib must not be negative, not {self.cache_mib}")
        if self.workers < -1:
            raise ValueError(f"workers must be -1 (automatic) or a number of processes, not {self.workers}")
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


def from_dict(cls: type[T], mapping: Mapping[str, Any] | None, where: str, base: T | None = None) -> T:
    """Build the dataclass ``cls`` from a mapping, strictly.

    Args:
        cls: a dataclass; its fields may be str, int, float, bool, tuple, Literal, Optional or dataclasses.
        mapping: field name -> value as YAML gives it; None counts as empty.
        where: what is being read, such as ``task.yaml``; opens every error message.
        base: values for the fields that the mapping does not name; the class's defaults without it.

    Raises:
        ValueError: unknown field (with the closest one), wrong type or value, missing field; always with its place.
    """
    if mapping is None:
        mapping = {}
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where}: expected a mapping of {cls.__name__} fields, not {mapping!r}")
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in fields:
            raise ValueError(f"{where}: unknown field '{key}'{close_name(key, fields)}")
        default = getattr(base, key) if base is not None else _default(fields[key])
        values[key] = _coerce(hints[key], value, f"{where}.{key}", default)
    missing = [name for name, f in fields.items() if base is None and name not in values and _default(f) is MISSING]
    if missing:
        raise ValueError(f"{where}: the field '{missing[0]}' is missing")
    try:
        return cls(**values) if base is None else dataclasses.replace(base, **values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises ValueError, with the file's name, for a missing or unreadable file, broken YAML or another top-level type.
    """
    try:
        check_regular(path)
        text = Path(path).read_text(encoding="utf-8-sig")
        content = yaml.load(text, Loader=_StrictLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except Exception as error:  # PyYAML raises whatever a wrong tag or depth makes of its constructors
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of fields, not a {type(content).__name__}")
    return content


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


def packaged_tasks() -> dict[str, Path]:
    """The YAML files of the packaged tasks by name."""
    folder = Path(str(resources.files("fastuda"))) / "configs" / "tasks"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


class _StrictLoader(yaml.SafeLoader):
    """PyYAML lets a repeated key silently win, and aliases multiply without bound; here both are errors."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        # Each node is composed once, an alias only refers to it: what counts is how often nodes are reached.
        node = super().compose_node(parent, index)
        if parent is None:
            _count_nodes(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # "<<: *anchor" fills in what the mapping itself does not say
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.append(key)
        return super().construct_mapping(node, deep)


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes below and with ``node``, those behind an alias counted each time; an error where they are too many."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES  # of a node that lies in itself
    parts = node.value if isinstance(node.value, list) else []
    children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
    known[id(node)] = 1 + sum(_count_nodes(child, known) for child in children)
    if known[id(node)] > MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"its aliases unfold to more than {MOST_NODES:,} values", node.start_mark
        )
    return known[id(node)]


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _default(item: dataclasses.Field) -> Any:
    if item.default_factory is not MISSING:
        return item.default_factory()
    return item.default


def close_name(key: Any, known: typing.Iterable[str]) -> str:
    """A hint at the known name that is closest to ``key``; "" where none is close."""
    close = get_close_matches(str(key), list(known), 1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _coerce(hint: Any, value: Any, where: str, default: Any = MISSING) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        return from_dict(hint, value, where, default if isinstance(default, hint) else None)
    if origin is Literal:
        if value not in arguments or type(value) not in {type(a) for a in arguments}:
            choices = ", ".join(str(a) for a in arguments)
            raise ValueError(f"{where}: '{value}' is none of {choices}{close_name(value, map(str, arguments))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(arguments, value, where, default)
    if origin is tuple:
        return _coerce_tuple(arguments, value, where)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    return _coerce_plain(hint, value, where)


def _coerce_union(arguments: tuple, value: Any, where: str, default: Any) -> Any:
    if value is None and type(None) in arguments:
        return None
    message = ""
    for argument in arguments:
        if argument is not type(None):
            try:
                return _coerce(argument, value, where, default)
            except ValueError as error:
                message = message or str(error)
    raise ValueError(message)


def _coerce_tuple(arguments: tuple, value: Any, where: str) -> tuple:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{where}: expected a list, not {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise ValueError(f"{where}: expected {len(arguments)} values, not {list(value)!r}")
    return tuple(_coerce(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(arguments, value, strict=True)))


def _coerce_plain(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and not isinstance(value, bool):
        # YAML 1.1 reads 1e-4 (no point) as text, and 1 as an integer.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif type(value) is hint:
        return value
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    raise ValueError(f"{where}: expected {names.get(hint, getattr(hint, '__name__', str(hint)))}, not {value!r}")
