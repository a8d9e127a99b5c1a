"""``fastuda data init``: what it proposes for folders as people have them, and what it refuses."""

from __future__ import annotations

import os

import numpy as np
import pytest
import yaml
from PIL import Image

from fastuda.cli.data import main
from fastuda.data.build import build_domains
from fastuda.data.check import data_config
from fastuda.data.classes import class_set
from fastuda.data.survey import pairings
from fastuda.train.config import task_config

SIZE = (36, 64)  # height, width of the photos


def regions(ids, size=SIZE):
    """A label map of vertical stripes, as wide as can be."""
    return np.repeat(np.array(ids), -(-size[1] // len(ids)))[: size[1]] * np.ones((size[0], 1), int)


def photos(files, folder, names, suffix=".jpg", size=SIZE):
    for name in names:
        files.image(f"{folder}/{name}{suffix}", *size)


def save(files, path, pixels, **options):
    (files.root / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(files.root / path, **options)


def propose(files, capsys, *arguments):
    """Exit status, output lines, error; folders are below the root."""
    given = [str(a) if str(a).startswith("--") else str(files.root / a) for a in arguments]
    code = main(["init", *given, "--output", str(files.root / "task.yaml")])
    done = capsys.readouterr()
    return code, done.out.splitlines(), done.err


def accepted(files):
    """The proposal as training reads it: (data section as written, data sets)."""
    path = files.root / "task.yaml"
    config = task_config(str(path))
    domains = build_domains(config.data)
    for part in domains:
        if part is not None:
            part.image(0)
            if part.labelled:
                label = np.concatenate([part.label(i).ravel() for i in range(len(part))])
                assert (label != 255).any()
    assert data_config(path) == config.data
    return yaml.safe_load(path.read_text())["data"], domains


def test_carla_frames_and_photos_without_labels(files, capsys):
    for i in range(4):
        photos(files, "sim/rgb", [f"{i:06d}"], ".png")
        ids = regions([0, 1, 14, 24])
        save(files, f"sim/semantic/{i:06d}.png", np.stack([ids, 0 * ids, 0 * ids, 0 * ids + 255], 2))
    photos(files, "camera/a", ["x", "y"])
    photos(files, "camera/b", ["x"])
    code, lines, _ = propose(files, capsys, "sim", "--target", "camera")
    assert code == 0
    data, domains = accepted(files)
    assert data["classes"]["classes"] == {"road": None, "car": None, "road line": None}
    assert data["classes"]["ids"] == {
        "source": {"read": "red", "map": {"road": 1, "car": 14, "road line": 24}, "void": [0]}
    }
    assert len(domains.source) == 4 and len(domains.target) == 3 and domains.validation is None
    assert not domains.target.labelled and data["source"]["size"] == [180, 320]
    said = "\n".join(lines)
    assert "red value, as in CARLA's: 4 ids in 4 of 4 labels, of which 1 are no classes" in said
    assert "the names of CARLA since 0.9.14" in said and "nothing will be scored" in said
    text = (files.root / "task.yaml").read_text()
    assert "road: # id 1: 25.00 % of the pixels, in 4 of 4 labels" in text


def test_colours_and_a_validation_from_the_targets_labels(files, capsys):
    colours = np.array([[0, 0, 0], [128, 64, 128], [0, 0, 142], [7, 7, 9]])
    for i in range(3):
        photos(files, "old", [f"s{i}"], ".png")
        save(files, f"old/s{i}_mask.png", colours[regions([0, 1, 2, 3])])
        photos(files, "new/img", [f"t{i}"], ".JPG")
        save(files, f"new/gt/t{i}.png", colours[regions([1, 2, 0])])
    code, lines, _ = propose(files, capsys, "old", "new")
    assert code == 0
    data, domains = accepted(files)
    table = data["classes"]["ids"]
    assert table["source"]["map"] == {"class_0": [0, 0, 142], "class_1": [7, 7, 9], "class_2": [128, 64, 128]}
    assert table["source"]["void"] == table["validation"]["void"] == [[0, 0, 0]]
    assert list(table["validation"]["map"]) == ["class_0", "class_2"]
    assert data["classes"]["classes"]["class_2"] == [128, 64, 128]
    assert len(domains.source) == len(domains.target) == len(domains.validation) == 3
    assert any("never shows class_1" in line for line in lines)
    # One folder holds photos and labels: the list keeps the labels from being photos.
    assert (files.root / "task_source.txt").read_text().splitlines() == ["s0.png", "s1.png", "s2.png"]


def test_cityscapes_names_of_files(files, capsys):
    for city in ("ulm", "aachen"):
        stem = f"{city}_000000_000019"
        files.image(f"cs/leftImg8bit/train/{city}/{stem}_leftImg8bit.png", *SIZE)
        ids = regions([0, 7, 11, 26])
        save(files, f"cs/gtFine/train/{city}/{stem}_gtFine_labelIds.png", ids)
        save(files, f"cs/gtFine/train/{city}/{stem}_gtFine_color.png", np.stack([ids, 9 * ids, ids], 2))
        files.label16(f"cs/gtFine/train/{city}/{stem}_gtFine_instanceIds.png", (ids * 1000 + 1).astype(np.uint16))
    photos(files, "target", ["a"])
    code, lines, _ = propose(files, capsys, "cs", "--target", "target")
    assert code == 0
    data, domains = accepted(files)
    assert data["source"]["images"] == "leftImg8bit" and data["source"]["label_suffix"] == "_gtFine_labelIds.png"
    assert data["classes"]["ids"]["source"]["map"] == {"road": 7, "building": 11, "car": 26}
    assert domains.source.name(0) == "train/aachen/aachen_000000_000019"
    assert any("kind: cityscapes, which may fit better" in line for line in lines)


def test_folders_of_images_and_of_labels_given_apart(files, capsys):
    photos(files, "rgb", ["1", "2"])
    for name in ("1", "2"):
        files.label(f"seg/{name}.png", regions([3, 9]), palette=True)
    photos(files, "photos", ["p"])
    assert propose(files, capsys, "rgb", "seg", "--target", "photos")[0] == 0
    data, domains = accepted(files)
    assert (data["source"]["images"], data["source"]["labels"]) == ("rgb", "seg")
    assert data["classes"]["ids"]["source"] == {"read": "id", "map": {"class_3": 3, "class_9": 9}, "void": []}
    (files.root / "task.yaml").unlink()
    code, _, error = propose(files, capsys, "rgb", "seg")
    assert code == 1 and "name the photos to adapt to with --target DIR" in error


def test_odd_files_beside_the_data(files, capsys):
    photos(files, "src/images", ["a", "b", "c"])
    photos(files, "src/images", ["d"], size=(20, 30))
    files.label16("src/labels/a.png", regions([5, 300]).astype(np.uint16))
    files.label16("src/labels/b.png", regions([5, 255]).astype(np.uint16))
    photos(files, "src/images/.thumbs", ["a"])
    files.text("src/readme.txt", "no image")
    files.text("src/images/._a.jpg", "hidden")
    photos(files, "elsewhere", ["p", "q"])
    (files.root / "cam").mkdir()
    os.symlink(files.root / "elsewhere", files.root / "cam/link")
    code, lines, _ = propose(files, capsys, "src", "--target", "cam")
    assert code == 0
    data, domains = accepted(files)
    assert len(domains.source) == 2 and len(domains.target) == 2
    assert data["classes"]["ids"]["source"]["map"] == {"class_5": 5, "class_300": 300}
    assert any("2 images without a label are left out" in line for line in lines)


def test_few_of_many_files_are_read(files, capsys, monkeypatch):
    import fastuda.data.survey as survey

    photos(files, "src/images", [f"{i:03d}" for i in range(30)], size=(8, 16))
    for i in range(30):
        save(files, f"src/labels/{i:03d}.png", regions([1, 2], (8, 16)))
    photos(files, "cam", [f"{i:03d}" for i in range(30)], size=(8, 16))
    for name, value in (("LABELS_READ", 4), ("SIZES_READ", 5), ("PROBED", 2)):
        monkeypatch.setattr(survey, name, value)
    opened = []
    read = survey.read_label_ids
    monkeypatch.setattr(survey, "read_label_ids", lambda path, *a: opened.append(path) or read(path, *a))
    assert propose(files, capsys, "src", "--target", "cam")[0] == 0
    assert len(set(opened)) <= 6
    data, _ = accepted(files)
    assert data["classes"]["ids"]["source"]["void"] == "others"
    first = (files.root / "task.yaml").read_text()
    (files.root / "task.yaml").unlink()
    assert propose(files, capsys, "src", "--target", "cam")[0] == 0
    assert (files.root / "task.yaml").read_text() == first


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda files: (files.root / "src").mkdir(), "src holds no images"),
        (lambda files: None, "src does not exist"),
        (lambda files: photos(files, "src", ["only"]), "no labels were found in"),
        (lambda files: [photos(files, f"src/{d}", "ab") for d in ("images", "labels")], "values, as photos have"),
        (
            lambda files: [photos(files, "src/images", "ab")]
            + [save(files, f"src/labels/{n}.jpg", 60 * regions([0, 1, 2, 3])) for n in "ab"],
            "a.jpg is a lossy JPEG file, whose codec changes ids along every border",
        ),
        (
            lambda files: [photos(files, "src/images", "ab", size=(64, 400))]
            + [files.label16(f"src/labels/{n}.png", regions(range(k, k + 400), (64, 400)).astype(np.uint16) * 9)
               for k, n in enumerate("ab")],
            "values, as photos have",
        ),
        (
            lambda files: [photos(files, "src/images", "a"), files.text("src/labels/a.png", "garbage")],
            "no labels were found in",
        ),
        (
            lambda files: [photos(files, "src/images", "a"), save(files, "src/labels/a.png", regions([255]))],
            "hold no class: every pixel looked at is ignored",
        ),
        (lambda files: (photos(files, "src", "a"), os.symlink(files.root, files.root / "src/loop")), "symbolic link"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence_and_leave_nothing(files, capsys, make, message):
    photos(files, "cam", ["p"])
    make(files)
    code, lines, error = propose(files, capsys, "src", "--target", "cam")
    assert code == 1 and message in error and error.count("\n") == 1 and not lines
    assert not list(files.root.glob("task*"))


def test_an_existing_file_is_kept(files, capsys):
    photos(files, "src/images", ["a"])
    save(files, "src/labels/a.png", regions([0, 1]))
    photos(files, "cam", ["p"])
    files.text("task.yaml", "mine")
    code, _, error = propose(files, capsys, "src", "--target", "cam")
    assert code == 1 and "task.yaml exists and is never overwritten" in error
    assert (files.root / "task.yaml").read_text() == "mine"
    (files.root / "task.yaml").unlink()
    assert propose(files, capsys, "src", "--target", "cam")[0] == 0
    assert main(["init", str(files.root / "src"), "--target", "x", "--output", str(files.root / "task.txt")]) == 1
    assert "must be called *.yaml" in capsys.readouterr().err


def test_one_folder_needs_a_target(files, capsys):
    photos(files, "src/images", ["a"])
    code, _, error = propose(files, capsys, "src")
    assert code == 1 and "name their folder with --target DIR" in error


def test_strange_names_survive_the_file(files, capsys):
    folder = 'it\'s "mine": #1 $x'
    photos(files, f"{folder}/images", ["ä b", "c"])
    for name in ("ä b", "c"):
        save(files, f"{folder}/labels/{name}.png", regions([0, 1]))
    photos(files, "cam", ["p"])
    assert propose(files, capsys, folder, "--target", "cam")[0] == 0
    accepted(files)


def test_labels_of_other_ids_are_no_validation(files, capsys):
    photos(files, "src/images", ["a"])
    save(files, "src/labels/a.png", regions([0, 1]))
    photos(files, "cam/images", ["p"])
    save(files, "cam/labels/p.png", regions([7, 8]))
    code, lines, _ = propose(files, capsys, "src", "--target", "cam")
    assert code == 0 and any("its labels hold none of the source's ids" in line for line in lines)
    _, domains = accepted(files)
    assert domains.validation is None and len(domains.target) == 1


def test_train_and_validation_folders_of_the_target(files, capsys):
    photos(files, "src/images", ["a"])
    save(files, "src/labels/a.png", regions([0, 1]))
    for split, names in (("train", "ab"), ("val", "cd")):
        photos(files, f"cam/{split}/images", names)
        for name in names:
            save(files, f"cam/{split}/labels/{name}.png", regions([0, 1]))
    code, lines, _ = propose(files, capsys, "src", "--target", "cam")
    assert code == 0 and not any("flatters" in line for line in lines)
    data, domains = accepted(files)
    assert (data["target"]["images"], data["validation"]["images"]) == ("train/images", "val/images")
    assert [domains.target.name(i) for i in range(2)] == ["a", "b"] and domains.validation.name(0) == "c"


def test_a_second_look_sees_what_changed(files, capsys):
    photos(files, "src/images", ["a"])
    photos(files, "src/labels", ["a"])
    photos(files, "cam", ["p"])
    assert propose(files, capsys, "src", "--target", "cam")[0] == 1
    (files.root / "src/labels/a.jpg").unlink()
    save(files, "src/labels/a.png", regions([0, 1]))
    assert propose(files, capsys, "src", "--target", "cam")[0] == 0


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["images/1.jpg", "labels/1.png"], ("images", "labels", ".jpg", ".png", 1)),
        (["1.jpg", "1.png", "2.jpg", "2.png"], ("", "", ".jpg", ".png", 2)),
        (["t/images/a.png", "t/labels/a_L.png"], ("t/images", "t/labels", ".png", "_L.png", 1)),
        (
            ["x/rgb/s1/1.png", "x/seg/s1/1.png", "x/rgb/s2/1.png", "x/seg/s2/1.png"],
            ("x/rgb", "x/seg", ".png", ".png", 2),
        ),
    ],
)
def test_pairing_by_names(names, expected):
    found = {(p.images, p.labels, p.image_suffix, p.label_suffix, len(p.stems)) for p in pairings(sorted(names))}
    assert expected in found


def test_frames_of_a_film_do_not_pair():
    assert pairings([f"img_{i:04d}.png" for i in range(20)]) == []
    assert class_set("common11").num_classes == 11
