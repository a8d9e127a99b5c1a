"""A user's own classes: names, colours, and how each data set's label files become them.

    classes:
      drivable: [128, 64, 128]          # a colour for pictures; leave it empty to have one chosen
      vehicle: [0, 0, 142]
      person:
    ids:
      carla:                            # a name that a data set's field ``ids`` chooses; one table alone serves all
        read: red                       # what of a label file is the id: id (default), red, green, blue or colour
        map: {drivable: [1, 24], vehicle: [14, 15], person: 12}
        void: others                    # ids that are ignored: a list, or all others
    groups: {moving: [vehicle, person]} # further means beside mIoU

With ``read: colour`` an id is a list [red, green, blue].
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from typing import Any, get_args

from fastuda.data.classes import IGNORE, ClassSet
from fastuda.data.errors import DataError
from fastuda.data.files import Read
from fastuda.data.strict import close_name
from fastuda.data.tables import COLOURS, IDS, IdTable

MOST_CLASSES = 254  # in a byte of labels, 254 marks an id that no table names, and 255 an ignored pixel
_FIELDS, _TABLE_FIELDS = ("classes", "ids", "groups"), ("read", "map", "void")


def own_classes(content: Mapping[str, Any], where: str) -> ClassSet:
    """The class set of such a mapping. Raises DataError, opening with ``where``, for whatever is wrong with it."""
    _fields(content, _FIELDS, where)
    colours = content.get("classes")
    if isinstance(colours, list):
        colours = dict.fromkeys(colours)
    if not isinstance(colours, Mapping) or not colours:
        raise DataError(f"{where}: 'classes' must map each class's name to its colour, or list the names")
    names = tuple(colours)
    if bad := [name for name in names if not isinstance(name, str) or not name.strip()]:
        raise DataError(f"{where}: a class's name must be text, not {bad[0]!r}")
    if len(names) > MOST_CLASSES:
        raise DataError(f"{where}: there are {len(names)} classes, at most {MOST_CLASSES} are possible")
    palette = tuple(
        _colour(colour, f"{where}: the colour of class '{name}'") if colour is not None else _chosen_colour(k)
        for k, (name, colour) in enumerate(colours.items())
    )
    tables = content.get("ids") or {}
    if not isinstance(tables, Mapping):
        raise DataError(f"{where}: 'ids' must map a name to each table of ids, not {tables!r}")
    made = {str(name): _table(str(name), table, names, f"{where}: ids.{name}") for name, table in tables.items()}
    return ClassSet("own", names, colours=palette, tables=made, groups=_groups(content.get("groups"), names, where))


def _table(name: str, table: Any, names: tuple[str, ...], where: str) -> IdTable:
    if not isinstance(table, Mapping):
        raise DataError(f"{where}: expected a table with a field 'map', not {table!r}")
    _fields(table, _TABLE_FIELDS, where)
    read = table.get("read", "id")
    if read not in get_args(Read):
        raise DataError(f"{where}: 'read' must be one of {', '.join(get_args(Read))}, not {read!r}")
    classes = table.get("map")
    if not isinstance(classes, Mapping) or not classes:
        raise DataError(f"{where}: 'map' must name the ids of each class")
    mapping: dict[int, int] = {}
    for class_name, ids in classes.items():
        if class_name not in names:
            raise DataError(f"{where}: there is no class '{class_name}'{close_name(class_name, names)}")
        _add_ids(mapping, ids, names.index(class_name), read, f"{where}: class '{class_name}'")
    void = table.get("void", [])
    if void != "others":
        _add_ids(mapping, void, IGNORE, read, f"{where}: void")
    return IdTable(name, mapping, read=read, of_classes=True, others_void=void == "others")


def _add_ids(mapping: dict[int, int], ids: Any, index: int, read: Read, where: str) -> None:
    single = not isinstance(ids, list) or (read == "colour" and bool(ids) and not isinstance(ids[0], list))
    for label_id in [ids] if single else ids:
        key = _colour_id(_colour(label_id, where)) if read == "colour" else label_id
        if type(key) is not int or not 0 <= key < (COLOURS if read == "colour" else IDS):
            raise DataError(f"{where}: an id must be a whole number 0..65535, not {label_id!r}")
        if mapping.setdefault(key, index) != index:
            raise DataError(f"{where}: the id {label_id} belongs to another class already")


def _groups(groups: Any, names: tuple[str, ...], where: str) -> dict[str, tuple[str, ...]]:
    if groups is None:
        return {}
    if not isinstance(groups, Mapping) or not all(isinstance(members, list) for members in groups.values()):
        raise DataError(f"{where}: 'groups' must map a name to a list of classes, not {groups!r}")
    for group, members in groups.items():
        if unknown := [name for name in members if name not in names]:
            raise DataError(f"{where}: group '{group}' names no class '{unknown[0]}'{close_name(unknown[0], names)}")
        if not members:
            raise DataError(f"{where}: group '{group}' is empty")
    return {str(group): tuple(members) for group, members in groups.items()}


def _fields(content: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    if unknown := [key for key in content if key not in known]:
        raise DataError(f"{where}: unknown field '{unknown[0]}'{close_name(unknown[0], known)}")


def _colour(colour: Any, where: str) -> tuple[int, int, int]:
    if isinstance(colour, str) and len(colour) == 7 and colour.startswith("#"):
        try:
            return tuple(bytes.fromhex(colour[1:]))
        except ValueError:
            pass
    fits = isinstance(colour, (list, tuple)) and len(colour) == 3
    if not fits or not all(type(part) is int and 0 <= part <= 255 for part in colour):
        raise DataError(f"{where} must be [red, green, blue] of 0..255 or '#rrggbb', not {colour!r}")
    return tuple(colour)


def _colour_id(colour: tuple[int, int, int]) -> int:
    return colour[0] * 65536 + colour[1] * 256 + colour[2]


def _chosen_colour(index: int) -> tuple[int, int, int]:
    """A colour for class ``index``: hues by the golden ratio, so that neighbours differ."""
    hue, ring = (0.618034 * index) % 1.0, index % 3
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.2 * (ring == 1), 0.9 - 0.25 * (ring == 2))
    return round(255 * red), round(255 * green), round(255 * blue)
