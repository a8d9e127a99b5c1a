"""Films as a target: which frames are taken, what they show, and what is no film."""

from __future__ import annotations

import math
import os
import struct
from fractions import Fraction

import numpy as np
import pytest

from fastuda.cli.data import main
from fastuda.data import Augment, DatasetConfig, TrainStream, build_dataset, class_set, loader
from fastuda.data.build import build_domains
from fastuda.data.check import data_config
from fastuda.data.config import DataConfig
from fastuda.data.strict import from_dict
from fastuda.data.video import _every

av = pytest.importorskip("av")
CLASSES = class_set("common11")


def film(path, count=40, rate=10, size=(48, 64), codec="mpeg4", key=12, shown=lambda i: 4 * i):
    """A film of grey pictures whose brightness is their number, a few of them key frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={"g": str(key)})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.bit_rate = 4_000_000
        for i in range(count):
            picture = np.broadcast_to(shown(i), (*size, 3)).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def build(root, every=1.0):
    return build_dataset(DatasetConfig("video", str(root), labelled=False, every=every), CLASSES)


def numbers(dataset):
    return [round(float(dataset.image(i).mean()) / 4) for i in range(len(dataset))]


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [("a.mp4", "mpeg4", 10), ("a.mkv", "mpeg4", 10), ("a.avi", "mpeg4", 10), ("a.ts", "mpeg2video", 25)],
)
def test_a_frame_every_so_many_seconds(tmp_path, name, codec, rate):
    film(tmp_path / name, rate=rate, count=40, codec=codec)
    for every in (1.0, 0.5, 100.0):
        dataset = build(tmp_path / name, every)
        step = every * rate
        expected = [math.ceil(k * step) for k in range(math.ceil(40 / step))]
        assert numbers(dataset) == pytest.approx([number for number in expected if number < 40], abs=1), every
    assert dataset.image(0).shape == (48, 64, 3) and dataset.image_size(0) == (48, 64) and not dataset.labelled


def test_a_phone_held_upright(tmp_path):
    """The display matrix of the file turns the pictures clockwise: what was on the left is on top."""
    path = tmp_path / "phone.mp4"
    film(path, 3, shown=lambda i: np.repeat([20, 220], 32)[None, :, None])
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    dataset = build(path)
    image = dataset.image(0).astype(int)
    assert image.shape == (64, 48, 3) and dataset.image_size(0) == (64, 48)
    assert image[:28].mean() < 60 and image[36:].mean() > 180


def test_a_folder_of_films_in_any_order_and_in_workers(tmp_path):
    film(tmp_path / "films/b/day.MP4", 30)
    film(tmp_path / "films/a.mkv", 20, shown=lambda i: 4 * i + 100)
    (tmp_path / "films/.hidden.mp4").write_text("no film")
    (tmp_path / "films/notes.txt").write_text("no film")
    dataset = build(tmp_path / "films")
    assert [dataset.name(i) for i in range(len(dataset))] == [
        "a.mkv@0.000s", "a.mkv@1.000s", "b/day.MP4@0.000s", "b/day.MP4@1.000s", "b/day.MP4@2.000s"
    ]  # fmt: skip
    assert numbers(dataset) == pytest.approx([25, 35, 0, 10, 20], abs=1)
    assert np.array_equal(dataset.image(3), dataset.image(3))
    stream = TrainStream(dataset, size=(24, 32), batch=2, seed=0, stage=0, domain=1, augment=Augment(flip=0.5))
    own, workers = (list(loader(stream, 3, 6, workers=count)) for count in (0, 2))
    for one, other in zip(own, workers, strict=True):
        assert one.index.tolist() == other.index.tolist() and (one.images == other.images).all()


def test_gaps_and_fractions():
    step = Fraction(5, 2)
    assert _every([0, 1, 2, 3, 4, 5, 6, 7, 8], step) == [0, 3, 5, 8]
    assert _every([10, 11, 12, 30, 31, 32, 33, 34], step) == [10, 30, 33]


def test_what_is_wrong_is_one_sentence(tmp_path, monkeypatch):
    def fails(message, make):
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)

    fails("nothing does not exist", lambda: build(tmp_path / "nothing"))
    fails("holds no films", lambda: build(tmp_path))
    fails("needs the field 'root'", lambda: build(""))
    (tmp_path / "bad.mp4").write_bytes(b"garbage" * 100)
    fails(r"the film .*bad\.mp4 cannot be read", lambda: build(tmp_path / "bad.mp4"))
    os.mkfifo(tmp_path / "pipe.mp4")
    fails(r"pipe\.mp4 is not a regular file", lambda: build(tmp_path / "pipe.mp4"))
    with pytest.raises(ValueError, match="every must be a positive number of seconds"):
        from_dict(DatasetConfig, {"kind": "video", "every": 0}, "task.yaml")
    fails("has no labels, so it can only be the target", lambda: build_dataset(DatasetConfig("video", "x"), CLASSES))
    film(tmp_path / "cut.mp4", 40)
    whole = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    fails(r"cut\.mp4 cannot be read", lambda: build(tmp_path / "cut.mp4"))
    film(tmp_path / "good.mp4", 10)
    dataset = build(tmp_path / "good.mp4")
    fails("a film has none", lambda: dataset.label(0))
    (tmp_path / "good.mp4").unlink()
    fails(r"the film .*good\.mp4 cannot be read", lambda: dataset.image(0))
    config = from_dict(DataConfig, {"target": {"kind": "video", "root": "x", "every": 2}}, "task.yaml")
    assert config.target.every == 2.0 and not config.target.labelled


def test_a_playlist_in_disguise_opens_nothing_else(tmp_path):
    film(tmp_path / "secret.mp4", 10)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'secret.mp4'}\n")
    (tmp_path / "web.ts").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path / 'secret.mp4'}\n")
    for name in ("list.mp4", "web.ts"):
        with pytest.raises(ValueError, match="cannot be read"):
            build(tmp_path / name)


def test_a_proposal_for_photos_with_labels_and_films(files, capsys):
    files.image("src/images/a.jpg", 36, 64)
    files.label("src/labels/a.png", np.repeat([[0, 1]], 36, 0).repeat(32, 1))
    film(files.root / "films/a.mp4", 30)
    for target in ("films", "films/a.mp4"):
        output = files.root / f"{target.replace('/', '_')}.yaml"
        arguments = ["init", str(files.root / "src"), "--target", str(files.root / target), "--output", str(output)]
        assert main(arguments) == 0
        assert "target: 3 frames of films" in capsys.readouterr().out
        domains = build_domains(data_config(output))
        assert len(domains.target) == 3 and domains.validation is None and not domains.target.labelled
