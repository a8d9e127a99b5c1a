"""Every layout, with files as users have them, and every way they can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastuda.data.build import build_dataset
from fastuda.data.classes import class_set
from fastuda.data.config import DatasetConfig
from fastuda.data.files import read_label_ids

CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11]


def build(files, classes="cityscapes19", **config):
    return build_dataset(DatasetConfig(root=str(files.root), **config), class_set(classes))


def fails(message, make):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_gta5(files):
    for name, (height, width) in {"00002": (12, 20), "00001": (11, 19)}.items():  # GTA5 has odd sizes
        pixels = files.image(f"images/{name}.png", height, width)
        ids = np.resize([*CITYSCAPES_IDS, 0, 34, 255], (height, width))
        files.label(f"labels/{name}.png", ids, palette=True)
    dataset = build(files, kind="gta5")
    assert len(dataset) == 2 and [dataset.name(i) for i in range(2)] == ["00001", "00002"]
    assert dataset.image(0).dtype == np.uint8 and np.array_equal(dataset.image(0), pixels)
    expected = np.resize([*range(19), 255, 255, 255], (12, 20))
    assert dataset.label(1).dtype == np.uint8 and np.array_equal(dataset.label(1), expected)


def test_list_files_choose_and_order(files):
    files.gta5(".", 4)
    files.text("some.txt", "00003\n\n# a comment\n00001.png\n")
    dataset = build(files, kind="gta5", split="some.txt")
    assert [dataset.name(i) for i in range(len(dataset))] == ["00003", "00001"]
    files.text("some.txt", "00003\n00009\n")
    fails(r"images/00009\.png of the split list does not exist", lambda: build(files, kind="gta5", split="some.txt"))
    files.text("some.txt", "00003\n00003\n")
    fails(r"some\.txt names 00003 twice", lambda: build(files, kind="gta5", split="some.txt"))
    files.text("some.txt", "\n")
    fails(r"the split list .*some\.txt is empty", lambda: build(files, kind="gta5", split="some.txt"))
    fails(r"the split list .*none\.txt cannot be read", lambda: build(files, kind="gta5", split="none.txt"))


def test_synthia_ids_are_the_red_channel_of_16_bits(files):
    files.image("RGB/0000000.png")
    ids = np.resize([*SYNTHIA_IDS, 0, 13, 22], (12, 20)).astype(np.uint16)
    instances = np.arange(240, dtype=np.uint16).reshape(12, 20) * 100
    files.label16("GT/LABELS/0000000.png", np.stack([ids, instances, instances], 2))
    path = files.root / "GT/LABELS/0000000.png"
    assert not np.asarray(Image.open(path))[..., 0].any(), "Pillow reads these now: kornia-rs is no longer needed"
    stored = read_label_ids(path)
    assert stored.dtype == np.uint16 and np.array_equal(stored, ids)
    dataset = build(files, "synthia16", kind="synthia")
    assert np.array_equal(dataset.label(0), np.resize([*range(16), 255, 255, 255], (12, 20)))
    truncated = path.read_bytes()[:60]
    path.write_bytes(truncated)
    fails(r"the label .*0000000\.png cannot be read", lambda: dataset.label(0))


def test_synscapes_labels_have_another_resolution(files):
    files.image("img/rgb-2k/1.png", 32, 64)
    files.label("img/class/1.png", files.ids([7, 26], 24, 48))
    dataset = build(files, kind="synscapes")
    assert dataset.label(0).shape == (24, 48)
    files.label("img/class/1.png", files.ids([7, 26], 24, 40))
    fails(r"1\.png is 64x32 pixels .* 40x24", lambda: dataset.label(0))


def test_cityscapes(files):
    for city in ("ulm", "aachen"):
        stem = f"{city}_000000_000019"
        files.image(f"leftImg8bit/train/{city}/{stem}_leftImg8bit.png")
        files.label(f"gtFine/train/{city}/{stem}_gtFine_labelIds.png", files.ids([7, 8, 0]))
        files.label(f"gtFine/train/{city}/{stem}_gtFine_labelTrainIds.png", files.ids([200]))
    dataset = build(files, kind="cityscapes", split="train")
    assert dataset.name(0) == "aachen/aachen_000000_000019" and len(dataset) == 2
    assert set(np.unique(dataset.label(0))) == {0, 1, 255}
    fails(r"leftImg8bit/val does not exist", lambda: build(files, kind="cityscapes", split="val"))
    fails("needs the field 'split'", lambda: build(files, kind="cityscapes"))


def test_crosscity(files):
    files.image("Rome/Images/Train/a.png")
    files.image("Rome/Images/Test/b.png")
    files.label("Rome/Labels/Test/b_eval.png", files.ids([7, 19, 33]))
    test = build(files, "crosscity13", kind="crosscity", city="Rome", split="Test")
    assert set(np.unique(test.label(0))) == {0, 3, 12}
    assert build(files, kind="crosscity", city="Rome", split="Train", labelled=False).name(0) == "Rome/a"
    fails("labels for the split Test only", lambda: build(files, kind="crosscity", city="Rome", split="Train"))
    fails("field 'city', one of Rio", lambda: build(files, kind="crosscity", city="Oslo", split="Test"))
    fails("field 'split', Train or Test", lambda: build(files, kind="crosscity", city="Rome", split="train"))


def test_folder_with_suffixes_sub_directories_and_a_list(files):
    for stem in ("x/a", "x/b", "y/c"):
        files.image(f"left/{stem}_left.jpg")
        files.label(f"truth/{stem}_ids.png", files.ids([0, 13]))
    files.text("left/readme.txt", "no image")
    folder = {"kind": "folder", "images": "left", "labels": "truth", "label_suffix": "_ids.png"}
    for suffix in ("_left.jpg", "_left"):
        dataset = build(files, **folder, image_suffix=suffix)
        assert [dataset.name(i) for i in range(len(dataset))] == ["x/a", "x/b", "y/c"]
        assert set(np.unique(dataset.label(2))) == {0, 13}
    files.text("lists/some.txt", "y/c\nx/a_left.jpg\n")
    dataset = build(files, **folder, image_suffix="_left.jpg", split="lists/some.txt")
    assert [dataset.name(i) for i in range(len(dataset))] == ["y/c", "x/a"]
    assert dataset.label(1).shape == (12, 20)


def test_folder_defaults_and_id_files(files):
    files.image("images/1.jpeg")
    files.label("labels/1.png", np.resize([1, 2, 9, 255], (12, 20)))
    files.text("ids.yaml", "1: 13\n2: 255\n9: 0\n")
    dataset = build(files, "common11", kind="folder", ids="ids.yaml")
    assert np.array_equal(np.unique(dataset.label(0)), [0, 10, 255])
    files.text("ids.yaml", "1: 13\n2: 255\n")
    broken = build(files, "common11", kind="folder", ids="ids.yaml")
    fails(r"labels/1\.png holds the id 9, which the id table '.*ids\.yaml'", lambda: broken.label(0))
    files.text("ids.yaml", "1: 19\n")
    fails(r"ids\.yaml must map ids .* not '1' to '19'", lambda: build(files, kind="folder", ids="ids.yaml"))
    fails("neither trainids, cityscapes or synthia nor a file", lambda: build(files, kind="folder", ids="none.yaml"))


@pytest.mark.parametrize(("ids", "named"), [([7, 77], "id 77"), ([7, 60, 61], "ids 60, 61")])
def test_ids_outside_the_table_name_file_and_id(files, ids, named):
    files.image("images/1.png")
    files.label("labels/1.png", np.resize(ids, (12, 20)))
    dataset = build(files, kind="gta5")
    fails(rf"labels/1\.png holds the {named}, which", lambda: dataset.label(0))


def test_large_ids_outside_the_table(files):
    files.image("images/1.png")
    files.label16("labels/1.png", np.full((12, 20), 263, np.uint16))  # 7 + 256
    fails("holds the id 263", lambda: build(files, kind="gta5").label(0))


def test_size_mismatch_names_both_files_and_sizes(files):
    files.image("images/1.png", 12, 20)
    files.label("labels/1.png", files.ids([7], 20, 12))
    dataset = build(files, kind="gta5")
    fails(r"images/1\.png is 20x12 pixels .*labels/1\.png is 12x20", lambda: dataset.label(0))


def test_a_coloured_drawing_is_no_label(files):
    files.image("images/1.png")
    files.image("labels/1.png")
    fails(r"labels/1\.png is a colour image", lambda: build(files, kind="gta5").label(0))


def test_broken_files(files):
    files.gta5(".", 2)
    dataset = build(files, kind="gta5")
    (files.root / "images/00000.png").write_bytes(b"garbage")
    fails(r"the image .*images/00000\.png cannot be read: it is not an image", lambda: dataset.image(0))
    (files.root / "images/00000.png").unlink()
    fails(r"the image .*images/00000\.png does not exist", lambda: dataset.image(0))
    whole = (files.root / "labels/00001.png").read_bytes()
    (files.root / "labels/00001.png").write_bytes(whole[: len(whole) - 40])
    fails(r"the label .*labels/00001\.png cannot be read", lambda: dataset.label(1))


def test_missing_things_are_named(files, monkeypatch):
    fails(r"directory .*images does not exist", lambda: build(files, kind="gta5"))
    (files.root / "images").mkdir()
    fails(r"images holds no images", lambda: build(files, kind="gta5"))
    for name in "abc":
        files.image(f"images/{name}.png")
    fails(r"the label .*labels/a\.png does not exist \(and 2 more are missing\)", lambda: build(files, kind="gta5"))
    classes = class_set("common11")
    fails("nowhere does not exist", lambda: build_dataset(DatasetConfig("gta5", "nowhere"), classes))
    fails("needs the field 'root'", lambda: build_dataset(DatasetConfig("gta5"), classes))
    monkeypatch.delenv("FASTUDA_NONE", raising=False)
    fails(
        "the environment variable FASTUDA_NONE is not set",
        lambda: build_dataset(DatasetConfig("gta5", "$FASTUDA_NONE/gta5"), classes),
    )
    monkeypatch.setenv("FASTUDA_NONE", str(files.root))
    assert len(build_dataset(DatasetConfig("gta5", "${FASTUDA_NONE}", labelled=False), classes)) == 3


@pytest.mark.parametrize("text", ["a\na\nb\n", "a\na.png\nb\n", "a\n./a\nb\n", "sub/../a\na\n"])
def test_a_list_that_names_an_image_twice(files, text):
    for name in "ab":
        files.image(f"images/{name}.png")
    files.text("list.txt", text)
    fails("twice", lambda: build(files, kind="folder", split="list.txt", labelled=False))


def test_lists_as_editors_and_cameras_leave_them(files):
    files.image("images/DSC_1.JPG")
    files.image("images/b.png")
    for content in ("\ufeffDSC_1\r\nb\r\n".encode(), "\ufeffDSC_1\nb\n".encode("utf-16-le"), b"DSC_1.jpg\nb.png\n"):
        (files.root / "list.txt").write_bytes(content)
        dataset = build(files, kind="folder", split="list.txt", labelled=False)
        assert [dataset.name(i) for i in range(2)] == ["DSC_1", "b"]
        assert dataset.image(0).shape == (12, 20, 3)


def test_hidden_files_are_no_data_and_loops_end(files):
    files.image("images/a.png")
    files.image("images/.thumbnails/a.png")
    files.image("images/._a.png")
    assert len(build(files, kind="folder", labelled=False)) == 1
    (files.root / "images/loop").symlink_to(files.root / "images")
    fails("loop is a symbolic link to one that it lies in", lambda: build(files, kind="folder", labelled=False))


def test_directories_whose_names_look_like_variables_or_patterns(tmp_path, monkeypatch):
    for name in ("team$night", "a[0-9]", "$HOME"):
        root = tmp_path / name
        (root / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "images/a.png")
        monkeypatch.setenv("SOME_DATA", str(root))
        for given in (str(root), "$SOME_DATA", "${SOME_DATA}"):
            config = DatasetConfig(kind="folder", root=given, labelled=False)
            assert len(build_dataset(config, class_set("common11"))) == 1, given
