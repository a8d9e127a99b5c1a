"""Translated source images beside the originals, and every way their directory can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from fastuda.cli.data import main
from fastuda.data.build import build_dataset
from fastuda.data.classes import class_set
from fastuda.data.config import Augment, DataConfig, DatasetConfig
from fastuda.data.dataset import Dataset
from fastuda.data.stream import TrainStream, image_weights
from fastuda.data.strict import from_dict


@pytest.fixture
def source(files):
    """Three images of 24x40, and the names they have."""
    for name in ("a", "b", "c"):
        files.image(f"source/images/{name}.png", 24, 40)
        files.label(f"source/labels/{name}.png", files.ids([7, 8, 11], 24, 40), palette=True)
    return files


def build(files, translated="fake", **config):
    root, fake = files.root / "source", files.root / translated
    config = {"kind": "gta5", "root": str(root), "translated": str(fake), **config}
    return build_dataset(DatasetConfig(**config), class_set("cityscapes19"))


def fails(message, make):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_originals_then_copies_with_the_same_labels(source):
    copies = [source.image(f"fake/{name}.png", 24, 40) for name in "abc"]
    dataset = build(source)
    assert isinstance(dataset, Dataset) and dataset.labelled and len(dataset) == 6
    plain = build_dataset(DatasetConfig("gta5", str(source.root / "source")), class_set("cityscapes19"))
    assert len(plain) == 3
    for index in range(3):
        assert np.array_equal(dataset.image(index), plain.image(index))
        assert np.array_equal(dataset.image(3 + index), copies[index])
        assert not np.array_equal(dataset.image(index), dataset.image(3 + index))
        assert np.array_equal(dataset.label(index), plain.label(index))
        assert np.array_equal(dataset.label(3 + index), plain.label(index))
        assert dataset.image_size(index) == dataset.image_size(3 + index) == (24, 40)
    assert len({dataset.name(index) for index in range(6)}) == 6
    assert np.allclose(image_weights(dataset)[:3], image_weights(dataset)[3:])


def test_both_are_seen_once_an_epoch(source):
    copies = [source.image(f"fake/{name}.png", 24, 40) for name in "abc"]
    dataset = build(source)
    options = {"size": (24, 40), "batch": 2, "seed": 0, "stage": 0, "domain": 0, "augment": Augment()}
    stream = TrainStream(dataset, **options)
    seen = {}
    for batch in (stream[t] for t in range(3)):
        for slot, index in enumerate(batch.index.tolist()):
            seen[index] = batch.images[slot].numpy().transpose(1, 2, 0), batch.labels[slot].numpy()
    assert sorted(seen) == list(range(6))
    for number, copy in enumerate(copies):
        assert np.array_equal(seen[3 + number][0], copy)
        assert np.array_equal(seen[3 + number][1], seen[number][1])


def test_a_copy_of_another_resolution_keeps_its_labels_in_place(source):
    for name in "ab":
        source.image(f"fake/{name}.jpg", 48, 80)
    source.image("fake/c.jpeg", 12, 20)
    dataset = build(source)
    options = {"batch": 6, "seed": 0, "stage": 0, "domain": 0, "augment": Augment()}
    batch = TrainStream(dataset, size=(24, 40), **options)[0]
    labels = dict(zip(batch.index.tolist(), batch.labels.numpy(), strict=True))
    assert all(np.array_equal(labels[i], labels[3 + i]) for i in range(3))


def test_sides_rounded_to_multiples_of_four_are_no_crop(source):
    for name, size in (("a", (24, 40)), ("b", (26, 42)), ("c", (22, 40))):
        source.image(f"fake/{name}.png", *size)
    assert len(build(source)) == 6


def test_a_path_below_the_image_directory_or_a_file_name(files):
    names = {"ulm/ulm_000": "fake/ulm/ulm_000_leftImg8bit.png", "bonn/bonn_000": "fake/bonn_000_leftImg8bit.jpg"}
    for name, copy in names.items():
        files.image(f"source/leftImg8bit/train/{name}_leftImg8bit.png")
        files.label(f"source/gtFine/train/{name}_gtFine_labelIds.png", files.ids([7]))
        files.image(copy)
    dataset = build(files, kind="cityscapes", split="train")
    assert [dataset.name(i) for i in range(4)] == [
        "bonn/bonn_000", "ulm/ulm_000", "bonn/bonn_000 (translated)", "ulm/ulm_000 (translated)"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "image", "label", "extra"),
    [
        ("synthia", "RGB/a.png", "GT/LABELS/a.png", {}),
        ("synscapes", "img/rgb-2k/a.png", "img/class/a.png", {}),
        ("crosscity", "Rome/Images/Test/a.png", "Rome/Labels/Test/a_eval.png", {"city": "Rome", "split": "Test"}),
        ("folder", "pictures/x/a.png", "labels/x/a.png", {"images": "pictures"}),
    ],
)
def test_every_layout(files, kind, image, label, extra):
    files.image(f"source/{image}")
    files.label(f"source/{label}", files.ids([7]))
    copy = files.image(f"fake/{'x/' if kind == 'folder' else ''}a.png")
    dataset = build(files, kind=kind, **extra)
    assert len(dataset) == 2 and np.array_equal(dataset.image(1), copy)


def test_what_is_wrong_is_one_sentence_that_names_it(source):
    fails(r"the directory .*fake does not exist", lambda: build(source))
    (source.root / "fake").mkdir()
    fails(r"directory of translated images .*fake holds no images", lambda: build(source))
    source.image("fake/b.png", 24, 40)
    fails(r"fake holds no translated image of .*images/a\.png \(and of 1 more\)", lambda: build(source))
    source.image("fake/a.png", 24, 40)
    fails(r"fake holds no translated image of .*images/c\.png$", lambda: build(source))
    source.image("fake/c.png", 24, 24)
    fails(r"fake/c\.png is 24x24 pixels .* of .*images/c\.png with 40x24", lambda: build(source))
    source.text("fake/c.png", "garbage")
    fails(r"fake/c\.png cannot be read", lambda: build(source))
    fails("environment variable NOWHERE_SET", lambda: build(source, translated="x", root="$NOWHERE_SET/x"))
    fails("NOWHERE_SET", lambda: build_dataset(
        DatasetConfig("gta5", str(source.root / "source"), translated="$NOWHERE_SET/x"), class_set("cityscapes19")
    ))  # fmt: skip


def test_one_copy_is_not_two_images(files):
    for city in ("x", "y"):
        files.image(f"source/images/{city}/a.png")
        files.label(f"source/labels/{city}/a.png", files.ids([0]))
    files.image("fake/a.png")
    fails(r"fake/a\.png would be that of both .*x/a\.png and .*y/a\.png", lambda: build(files, kind="folder"))


@pytest.mark.parametrize("part", ["target", "validation"])
def test_only_a_source_in_files_has_translated_images(part):
    fake = {"kind": "gta5", "root": "x", "translated": "fake"}
    fails(rf"task: {part}\.translated must be empty", lambda: from_dict(DataConfig, {part: fake}, "task"))
    fails(
        r"task\.source: translated needs source images in files",
        lambda: from_dict(DataConfig, {"source": {"kind": "streets", "count": 3, "translated": "fake"}}, "task"),
    )


def test_check_reports_them_on_their_own(source, capsys):
    for name in "abc":
        source.image(f"fake/{name}.png", 24, 40)
    plain = {"kind": "gta5", "root": str(source.root / "source")}
    data = {"source": plain | {"translated": str(source.root / "fake")}, "target": plain, "validation": plain}
    source.text("task.yaml", yaml.safe_dump({"data": {"classes": "common11", **data}}))

    def check():
        code = main(["check", str(source.root / "task.yaml")])
        return code, capsys.readouterr().out

    code, out = check()
    assert code == 0 and f"source, translated: {source.root / 'fake'}, 3 images, labels not opened" in out
    path = source.root / "fake/b.png"
    path.write_bytes(path.read_bytes()[:300])
    code, out = check()
    assert code == 1 and "fake/b.png cannot be read" in out and out.count("3 images") == 4
