"""Strict reading of YAML into dataclasses: the one way from a file or a mapping to a config."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from fastuda._paths import check_regular

T = TypeVar("T")
MOST_NODES = 1_000_000  # values in a YAML file, aliases unfolded: more than an id table of 65,536 lines has


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


class _StrictLoader(yaml.SafeLoader):
    """PyYAML lets a repeated key silently win, and aliases multiply without bound; here both are errors."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        # An alias refers to a node that is composed once, so nodes are counted by how often they are reached.
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


def _count_nodes(node: yaml.Node, counts: dict[int, int]) -> int:
    """How many nodes ``node`` and all below it are, those behind an alias counted each time; an error for too many."""
    if id(node) in counts:
        return counts[id(node)]
    counts[id(node)] = MOST_NODES  # read only where a node lies inside itself
    parts = node.value if isinstance(node.value, list) else []
    children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
    counts[id(node)] = 1 + sum(_count_nodes(child, counts) for child in children)
    if counts[id(node)] > MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"its aliases unfold to more than {MOST_NODES:,} values", node.start_mark
        )
    return counts[id(node)]


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
