"""The text of a proposed task file, with comments that say what to edit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from fastuda.data.config import packaged_tasks
from fastuda.data.propose import EVERY, Films, Labelled, Photos, Survey
from fastuda.data.survey import Ids

SCHEDULE = "carla_camvid"  # the packaged task whose network and schedules a proposal has: minutes on a CPU


def task_text(found: Survey, lists: Mapping[str, str]) -> str:
    """The task file. lists: path of the split list by the name of each data set that needs one."""
    return "\n".join([*_head(found), *_classes(found), *_data_sets(found, lists), "", *_schedule()]) + "\n"


def _head(found: Survey) -> Iterator[str]:
    yield "# A proposal of `fastuda data init`. Edit the names of the classes, then look it over and train:"
    yield "#   fastuda data check THIS_FILE"
    yield "#   fastuda train --task THIS_FILE"
    yield "# What was assumed:"
    for line in found.said:
        yield f"# - {line}"


def _classes(found: Survey) -> Iterator[str]:
    source = found.source
    yield "data:"
    yield "  classes:"
    yield "    # Name of each class: its colour in pictures, [red, green, blue]; left empty, one is chosen."
    yield "    # Rename a class here and below under 'map'. To join classes, delete all but one of them here, and give"
    yield "    # its name a list of their ids under 'map'. To ignore one, delete it here and move its id from 'map' to"
    yield "    # 'void'."
    yield "    classes:"
    for label_id, name in source.names.items():
        colour = f" {_shown(label_id, source.ids)}" if source.ids.read == "colour" else ""
        yield f"      {_key(name)}:{colour} # {_count(label_id, source.ids)}"
    yield "    ids: # how label files become classes; a data set's field 'ids' names one of these tables"
    yield from _table(source)
    if found.validation is not None:
        yield from _table(found.validation)


def _table(part: Labelled) -> Iterator[str]:
    yield f"      {part.name}:"
    yield f"        read: {part.ids.read} # what of a label file is the id: id, red, green, blue or colour"
    yield "        map:"
    for label_id, name in part.names.items():
        yield f"          {_key(name)}: {_shown(label_id, part.ids)}"
    yield "        # Ids that are ignored: 'others' are all that 'map' does not name; with a list, another id is an"
    yield "        # error that names the file."
    if part.complete:
        yield f"        void: [{', '.join(_shown(label_id, part.ids) for label_id in sorted(part.void))}]"
        return
    for label_id in sorted(part.void):
        yield f"        # {_shown(label_id, part.ids)}: {_count(label_id, part.ids)}"
    yield f"        void: others # {part.ids.looked} of {part.count} labels were read, others may hold more"


def _data_sets(found: Survey, lists: Mapping[str, str]) -> Iterator[str]:
    for part in (found.source, found.target, found.validation):
        if part is None:
            yield "  # There is no 'validation', so nothing is scored: it would hold labelled target photos."
            continue
        yield f"  {part.name}:"
        yield f"    kind: {part.kind}"
        for field, value in _fields(part, lists):
            yield f"    {field}: {value}"


def _fields(part: Photos, lists: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    yield "root", _text(str(part.root))
    if part.name in lists:
        yield "split", _text(lists[part.name])
    yield "size", f"{list(part.size)} # (height, width) in pixels that images are resized to"
    if isinstance(part, Films):
        yield "every", f"{EVERY:g} # seconds between two frames"
    else:
        yield "images", _text(part.images or ".")
    if part.image_suffix:
        yield "image_suffix", _text(part.image_suffix)
    if isinstance(part, Labelled):
        yield "labels", _text(part.pairing.labels or ".")
        yield "label_suffix", _text(part.pairing.label_suffix)
        yield "ids", part.name
    else:
        yield "labelled", "false # training never opens labels of these photos"


def _schedule() -> Iterator[str]:
    """The network and the schedules of the packaged task, as they stand in its file."""
    lines = packaged_tasks()[SCHEDULE].read_text(encoding="utf-8").splitlines()
    after = next(i for i, line in enumerate(lines) if i and re.match(r"\w", line) and not line.startswith("data:"))
    yield f"# Network and schedules of the packaged task {SCHEDULE}: a small network from scratch, minutes on a CPU."
    yield "# For a GPU and a network that starts from ImageNet see docs/data.md."
    yield from lines[after:]


def _count(label_id: int, ids: Ids) -> str:
    share = 100 * ids.pixels[label_id] / ids.total
    return f"id {_shown(label_id, ids)}: {share:.2f} % of the pixels, in {ids.files[label_id]} of {ids.looked} labels"


def _shown(label_id: int, ids: Ids) -> str:
    if ids.read != "colour":
        return str(label_id)
    return str([label_id >> 16, label_id >> 8 & 255, label_id & 255])


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z]\w*( \w+)*", name) else _text(name)
