"""``python -m fastuda.data check``."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from fastuda.cli.data import main


@pytest.fixture
def task(files):
    for part in ("source", "target", "validation"):
        files.gta5(part, 3)
    data = {name: {"kind": "gta5", "root": str(files.root / name)} for name in ("source", "target", "validation")}
    path = files.root / "task.yaml"
    path.write_text(yaml.safe_dump({"data": {"classes": "common11", **data}, "method": {"anything": 1}}))
    return path


def run(capsys, *arguments):
    code = main(["check", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return code, captured.out, captured.err


def test_good_data(task, capsys):
    code, out, err = run(capsys, task)
    assert code == 0 and not err
    assert out.count("3 images") == 3 and "labels not opened" in out
    assert "ids seen: 0 7 8 11 26" in out and "20x12 (3)" in out and "person never" in out


def test_limit(task, capsys):
    code, out, _ = run(capsys, task, "--limit", 2)
    assert code == 0 and out.count("3 images, 2 looked at") == 3


def test_everything_wrong_is_counted_and_named(task, files, capsys):
    (files.root / "source/images/00000.png").write_bytes(b"garbage")
    files.label("source/labels/00001.png", np.full((12, 20), 99))
    files.label("validation/labels/00002.png", files.ids([7], 5, 5))
    code, out, _ = run(capsys, task)
    assert code == 1
    assert "unreadable files: 1, size mismatches: 0, labels with unknown ids: 1" in out
    assert "source/images/00000.png cannot be read" in out and "holds the id 99" in out
    assert "unreadable files: 0, size mismatches: 1, labels with unknown ids: 0" in out and "is 5x5" in out


def test_garbage_in_target_labels_goes_unseen(task, files, capsys):
    for path in (files.root / "target/labels").iterdir():
        path.write_bytes(b"garbage")
    assert run(capsys, task)[0] == 0
    for path in (files.root / "validation/labels").iterdir():
        path.write_bytes(b"garbage")
    assert run(capsys, task)[0] == 1


def test_a_missing_directory_does_not_hide_the_rest(task, files, capsys):
    (files.root / "source").rename(files.root / "elsewhere")
    code, out, _ = run(capsys, task)
    assert code == 1 and "source: the data directory" in out and out.count("3 images") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: {clases: common11}", "task.yaml: data: unknown field 'clases' (did you mean 'classes'?)"),
        (
            "data: {source: {kind: gta6}}",
            "task.yaml: data.source: there is no data layout 'gta6' (did you mean 'gta5'?)",
        ),
        ("data: {classes: common12}", "unknown class set 'common12'"),
        ("method: {}", "has no section 'data'"),
    ],
)
def test_bad_configs(files, capsys, content, message):
    files.text("task.yaml", content)
    code, _, err = run(capsys, files.root / "task.yaml")
    assert code == 1 and message in err and err.count("\n") == 1


def test_a_task_by_name(capsys):
    code, out, _ = run(capsys, "streets", "--limit", 2)
    assert code == 0 and "source: streets" in out
    code, _, err = run(capsys, "nowhere_land")
    assert code == 1 and err.startswith("error: there is no task 'nowhere_land'")


def test_labels_that_are_ignored_everywhere_are_not_clean(task, files, capsys):
    for i in range(3):
        files.label(f"validation/labels/{i:05d}.png", np.full((12, 20), 255))
    code, out, err = run(capsys, task)
    assert code == 1 and "every labelled pixel is ignored: the id table does not fit these labels" in out
    assert "error: the data of" in err


def test_what_the_file_system_refuses_is_a_sentence(task, files, capsys):
    images = files.root / "target/images"
    text = task.read_text().replace("kind: gta5", "kind: folder")
    task.write_text(text)
    (images / "loop").symlink_to(images)
    code, out, err = run(capsys, task)
    assert code == 1 and "target: the directory" in out and err.startswith("error:")
