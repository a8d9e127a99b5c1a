"""Cases of what reads files: whole ones, cut off, with flipped bits, and bytes that were never a file of the kind."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from fuzz.inputs import Inputs
from PIL import Image
from torch import nn

from fastuda.data.config import DataConfig
from fastuda.data.files import image_size, read_image, read_label_ids
from fastuda.data.strict import from_dict, load_yaml
from fastuda.data.tables import id_table
from fastuda.models.weights import load_weights
from fastuda.train.checkpoint import CheckpointError, load_run, save_checkpoint
from fastuda.train.config import Config, config_from_dict, to_dict
from fastuda.train.inputs import Inputs as RunInputs

# DataError, UnreadableFile and CheckpointError are ValueErrors.
REFUSALS = (ValueError, OSError)


def _encoded(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _image(mode: str, kind: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 11, (48, 64, 3) if mode == "RGB" else (48, 64), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette([*range(256)] * 3)
    elif mode in ("1", "I;16", "I", "LA"):
        image = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
    return _encoded(lambda file: image.save(file, kind))


@cache
def _sixteen_bit_colour() -> bytes:
    """As SYNTHIA's labels: PNG of three 16-bit channels, which Pillow does not write."""
    rows = np.random.default_rng(0).integers(0, 23, (24, 32, 3)).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


class Small(nn.Module):
    """The least that load_weights takes."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.classifier = nn.Linear(3, 4), nn.Linear(4, 2)

    def classifier_parameters(self):
        return self.classifier.parameters()


@cache
def _run_inputs(directory: Path) -> RunInputs:
    config = Config(data=DataConfig(cache_mib=0))
    values = to_dict(config)
    for name in ("source", "target", "validation"):
        values["data"][name] |= {"split": "train", "count": 1, "size": [48, 64]}
    return RunInputs(config_from_dict(values, "fuzz"), torch.device("cpu"), directory / "pseudo_labels")


@cache
def _checkpoint(directory: Path) -> bytes:
    path = directory / "whole.pt"
    state = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}
    save_checkpoint(path, {"config": {}, "method": state, "position": {"stage": 1}, "optimisers": {}})
    return path.read_bytes()


def _table(path: Path) -> None:
    id_table(path.name, path.parent)


def _task(path: Path) -> None:
    from_dict(Config, load_yaml(path), str(path), base=Config())


def _weights(path: Path) -> None:
    load_weights(Small(), path)


def _pseudo_label(path: Path) -> None:
    _run_inputs(path.parent.parent).read_pseudo_labels(0)


def _scores(path: Path) -> None:
    _run_inputs(path.parent.parent).read_scores(0)


def _both(path: Path) -> None:
    image_size(path)
    read_image(path)


# Reader -> what it reads, the file's name below the directory, and whole files of the kind.
CASES: dict[str, tuple[Callable[[Path], object], str, Callable[[Path], list[bytes]]]] = {
    "image": (_both, "image.png", lambda d: [_image("RGB", "png"), _image("L", "jpeg"), _image("P", "png"),
                                             _image("RGB", "jpeg"), _image("RGB", "webp"), _image("RGB", "tiff")]),
    "label": (read_label_ids, "label.png", lambda d: [_image(mode, "png") for mode in ("L", "1", "I;16", "LA", "RGB")]),
    "palette label": (read_label_ids, "palette.png", lambda d: [_image("P", "png")]),
    "16-bit colour label": (read_label_ids, "colour.png", lambda d: [_sixteen_bit_colour()]),
    "pseudo label": (_pseudo_label, "pseudo_labels/000000.png", lambda d: [_image("L", "png")]),
    "scores": (_scores, "pseudo_labels/000000.npy",
               lambda d: [_encoded(lambda file: np.save(file, np.zeros((11, 6, 8), np.float16)))]),
    "task": (_task, "task.yaml", lambda d: [yaml.safe_dump(to_dict(Config())).encode()]),
    "id table": (_table, "ids.yaml", lambda d: [b"0: 0\n7: 1\n8: 255\n", b"? [1, 2]\n: !!int '3'\n", b"a: &a [*a]\n"]),
    "checkpoint": (load_run, "checkpoint.pt", lambda d: [_checkpoint(d)]),
    "weights": (_weights, "weights.pth",
                lambda d: [_encoded(lambda file: torch.save(Small().state_dict(), file)),
                           _encoded(lambda file: torch.save(Small().state_dict(), file,
                                                            _use_new_zipfile_serialization=False))]),
    "safetensors": (_weights, "weights.safetensors", lambda d: [safetensors.torch.save(Small().state_dict())]),
}  # fmt: skip

YAML_WORDS = (b"{", b"[", b"&a ", b"*a", b"? ", b": ", b"- ", b"!!int ", b"!!float ", b"!!bool ", b"!!timestamp ",
              b"!!set ", b"!!omap ", b"!!binary ", b"!!python/object:os.system ", b"!!map ", b"<<: ", b"1:60:60", b"'",
              b"2001-99-99", b"\n", b"  ", b"|", b">", b"0x", b"1e999", b"\xef\xbb\xbf", b"\xff\xfe", b"data: ",
              b"---\n", b"%YAML 9.9\n")  # fmt: skip


def _damaged(whole: bytes, given: Inputs, words: tuple[bytes, ...]) -> bytes:
    how = given.option("damage", "none", "cut", "bits", "bits", "bits", "insert", "foreign", "words")
    if how == "cut":
        return whole[: given.number(0, len(whole))]
    if how == "bits":
        content = bytearray(whole)
        for _ in range(given.number(1, 4)):
            # Headers stand first and decide the most.
            place = given.number(0, min(len(content), given.pick(32, 256, len(content))) - 1)
            content[place] ^= 1 << given.number(0, 7)
        return bytes(content)
    if how == "insert":
        place = given.number(0, len(whole))
        return whole[:place] + given.bytes(8) + whole[place + given.number(0, 8) :]
    if how == "foreign":
        return whole[: given.pick(0, 0, 8, 16)] + given.bytes(64)
    if how == "words" and words:
        return b"".join(given.pick(*words, b"x", b"1") for _ in range(given.number(1, 12)))
    return whole


def run(name: str, given: Inputs, directory: Path) -> bool:
    """Read one example; whether it was read, and not refused in one sentence."""
    read, place, wholes = CASES[name]
    path = directory / place
    path.parent.mkdir(exist_ok=True)
    wholes = wholes(directory)
    yaml_words = YAML_WORDS if path.suffix == ".yaml" else ()
    content = _damaged(wholes[given.number(0, len(wholes) - 1)], given, yaml_words)
    path.write_bytes(content)
    given.said.append(repr(content if len(content) < 2000 else content[:64]))
    given.begin(name)
    try:
        read(path)
    except REFUSALS as refusal:
        assert str(refusal).strip() and "\n" not in str(refusal), refusal
        assert path.name in str(refusal), refusal
        if name == "checkpoint":
            assert isinstance(refusal, CheckpointError)
        return False
    return True
