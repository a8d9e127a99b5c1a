"""Tasks from another directory or machine: relative paths, and roots that lie elsewhere."""

from __future__ import annotations

import pytest
import yaml

from fastuda.cli.data import main
from fastuda.data.build import build_dataset, build_domains
from fastuda.data.check import data_config
from fastuda.data.classes import class_set
from fastuda.data.config import DataConfig, DatasetConfig, find_task, load_task
from fastuda.data.roots import beside, moved
from fastuda.data.strict import from_dict


@pytest.mark.parametrize(
    ("directory", "moves", "expected"),
    [
        ("/data/gta5", ["/data=/mnt/x"], "/mnt/x/gta5"),
        ("/data/gta5/", ["/data/=/mnt/x/"], "/mnt/x/gta5/"),
        ("/data", ["/data=/mnt/x"], "/mnt/x"),
        ("/data2/gta5", ["/data=/mnt/x"], "/data2/gta5"),
        ("/data/gta5", ["/data=/a", "/data/gta5=/b"], "/b"),
        ("/data/gta5", ["/data/gta5=/b", "/data=/a"], "/a/gta5"),
        ("$OLD/gta5", ["$OLD=/mnt"], "/mnt/gta5"),
        ("/gta5", ["/=/mnt"], "/mnt/gta5"),
        ("/data/gta5", ["/data=/data/new"], "/data/new/gta5"),
        ("", ["/data=/mnt"], ""),
        ("/a=b/c", ["/a=b/c"], "/a=b/c"),
    ],
)
def test_whole_components_and_the_last_that_fits(directory, moves, expected):
    assert moved(directory, moves) == expected


def test_beside_a_task_file(tmp_path):
    assert beside("photos", tmp_path) == str(tmp_path / "photos")
    assert beside("../photos/.", tmp_path / "tasks") == str(tmp_path / "photos")
    for kept in ("", "/data", "~/data", "$DATA/x"):
        assert beside(kept, tmp_path) == kept


@pytest.mark.parametrize("move", ["/data", "=/new", "/old=", ""])
def test_a_move_that_is_none(move):
    with pytest.raises(ValueError, match="task.yaml: data: root must be written OLD=NEW"):
        from_dict(DataConfig, {"root": [move]}, "task.yaml: data")


def test_a_data_set_that_lies_elsewhere(files):
    files.gta5("there/gta5", 2)
    files.image("there/copies/00000.png")
    files.image("there/copies/00001.png")
    config = DatasetConfig("gta5", "/old/gta5", translated="/old/copies")
    classes = class_set("cityscapes19")
    with pytest.raises(ValueError, match=r"/old/gta5 does not exist \(--data.root OLD=NEW moves"):
        build_dataset(config, classes)
    moves = (f"/old={files.root / 'there'}",)
    assert len(build_dataset(config, classes, moves)) == 4
    same = DatasetConfig("gta5", "/old/gta5")
    data = DataConfig(source=same, target=DatasetConfig("gta5", "/old/gta5", labelled=False), root=moves)
    assert len(build_domains(data).target) == 2


def test_a_task_in_another_directory(files, capsys, monkeypatch):
    files.gta5("somewhere/data/gta5", 2)
    files.text("somewhere/classes.yaml", "classes: [a, b]\nids: {t: {map: {a: 7, b: [8, 11]}, void: others}}\n")
    part = {"kind": "gta5", "root": "data/gta5"}
    task = {"data": {"classes": "classes.yaml", "source": part, "target": {**part, "labelled": False}}}
    task["model"] = {"weights": "weights.pth"}
    files.text("somewhere/task.yaml", yaml.safe_dump(task))
    (files.root / "elsewhere").mkdir()
    monkeypatch.chdir(files.root / "elsewhere")
    for name in ("../somewhere/task.yaml", str(files.root / "somewhere/task.yaml")):
        config = data_config(name)
        assert config.source.root == str(files.root / "somewhere/data/gta5")
        assert class_set(config.classes).names == ("a", "b")
        assert main(["check", name]) == 0
    assert load_task(files.root / "somewhere/task.yaml")["model"]["weights"] == str(
        files.root / "somewhere/weights.pth"
    )
    capsys.readouterr()
    (files.root / "somewhere/data").rename(files.root / "moved")
    assert main(["check", name]) == 1
    move = f"{files.root / 'somewhere/data'}={files.root / 'moved'}"
    assert main(["check", name, "--data.root", move]) == 0
    assert main(["check", name, "--data.root", "nonsense"]) == 1
    assert "root must be written OLD=NEW" in capsys.readouterr().err


def test_weights_by_name_are_no_file(tmp_path):
    for given, expected in (("imagenet", "imagenet"), ("a.pth", str(tmp_path / "a.pth")), ("", "")):
        (tmp_path / "task.yaml").write_text(yaml.safe_dump({"model": {"weights": given}}))
        assert load_task(tmp_path / "task.yaml")["model"]["weights"] == expected


def test_packaged_tasks_keep_their_variables():
    assert load_task(find_task("carla_camvid"))["data"]["source"]["root"] == "$FASTUDA_DATA/carla"


@pytest.mark.parametrize("content", ["data: 3\n", "data: {source: 3}\n", "model: [1]\n", "data: {source: {root: 3}}\n"])
def test_wrong_types_are_left_to_the_strict_reader(tmp_path, content):
    (tmp_path / "task.yaml").write_text(content)
    load_task(tmp_path / "task.yaml")
