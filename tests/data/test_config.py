"""The strict loader."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import pytest

from fastuda.data.config import Augment, DataConfig, DatasetConfig, find_task
from fastuda.data.strict import from_dict, load_yaml


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    needed: int
    mode: Literal["fast", "slow"] = "fast"
    flag: bool = False
    path: str | None = None
    inner: Inner = Inner(rate=0.5)


def test_values_are_coerced():
    got = from_dict(Outer, {"needed": 3, "path": None, "inner": {"sizes": [1, 2]}}, "x")
    assert got == Outer(3, inner=Inner(0.5, (1, 2)))
    assert from_dict(Inner, {"rate": "1e-4"}, "x").rate == 1e-4
    assert isinstance(from_dict(Inner, {"rate": 1}, "x").rate, float)
    assert from_dict(Outer, {"flag": True}, "x", base=got) == Outer(3, flag=True, inner=Inner(0.5, (1, 2)))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"needed": 1, "mood": "fast"}, r"file: unknown field 'mood' \(did you mean 'mode'\?\)"),
        ({"needed": 1, "inner": {"rat": 1}}, r"file\.inner: unknown field 'rat' \(did you mean 'rate'\?\)"),
        ({"needed": 1, "mode": "fats"}, r"file\.mode: 'fats' is none of fast, slow"),
        ({"needed": "1"}, r"file\.needed: expected a whole number, not '1'"),
        ({"needed": True}, r"file\.needed: expected a whole number"),
        ({"needed": 1, "flag": 1}, r"file\.flag: expected true or false"),
        ({"needed": 1, "path": 5}, r"file\.path: expected text"),
        ({"needed": 1, "inner": {"sizes": [1, "a"]}}, r"file\.inner\.sizes\[1\]: expected a whole number"),
        ({"needed": 1, "inner": {"sizes": 4}}, r"file\.inner\.sizes: expected a list"),
        ({"needed": 1, "inner": {"rate": "much"}}, r"file\.inner\.rate: expected a number, not 'much'"),
        ({"needed": 1, "inner": [1]}, r"file\.inner: expected a mapping"),
        ({}, r"file: the field 'needed' is missing"),
    ],
)
def test_bad_values_are_one_sentence_with_a_place(mapping, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_dict(Outer, mapping, "file")
    assert "\n" not in str(caught.value)


def test_the_target_is_unlabelled_unless_the_file_says_otherwise():
    config = from_dict(DataConfig, {"target": {"kind": "gta5", "root": "x"}}, "x")
    assert config.target == DatasetConfig(kind="gta5", root="x", labelled=False)
    assert config.source.labelled


@pytest.mark.parametrize(
    "bad",
    [{"crop": [0, 5]}, {"scale": [1.5, 0.5]}, {"flip": 1.5}, {"hue": 0.6}, {"brightness": -1}, {"crop": [1, 2, 3]}],
)
def test_augment_refuses_nonsense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        from_dict(Augment, bad, "x")


def test_yaml_files(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data:\n  classes: common11\n  classes: common10\n")
    with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML: .*'classes' stands twice"):
        load_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="must hold a mapping"):
        load_yaml(path)
    path.write_text("a: [1\n")
    with pytest.raises(ValueError, match="is not valid YAML"):
        load_yaml(path)
    with pytest.raises(ValueError, match=r"cannot read .*none\.yaml: No such file"):
        load_yaml(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: !!int ''",
        "a: !!float ''",
        "a: !!bool b",
        "a: !!timestamp b",
        "a: 2001-99-99",
        "!!map [a]",
        "a: " + "[" * 3000,
    ],
)
def test_what_trips_the_yaml_library_itself_is_one_sentence(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.yaml is not valid YAML: ") as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_yaml_as_people_and_editors_write_it(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load_yaml(path) == {"a": 1, "b": 2}
    path.write_text("one: &one {lovasz: 0.5, more: 0}\nother:\n  <<: *one\n  more: 1\n")
    assert load_yaml(path)["other"] == {"lovasz": 0.5, "more": 1}


def test_yaml_that_never_ends_is_refused(tmp_path):
    bomb = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"a{i}: &a{i} [" + ", ".join([f"*a{i - 1}"] * 10) + "]" for i in range(1, 12)]
    bomb.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"bomb\.yaml is not valid YAML: .*aliases unfold to more than 1,000,000"):
        load_yaml(bomb)
    bomb.write_text("a: &a [*a]\n")
    with pytest.raises(ValueError, match="aliases unfold"):
        load_yaml(bomb)
    os.mkfifo(tmp_path / "fifo.yaml")
    with pytest.raises(ValueError, match="not a regular file"):
        load_yaml(tmp_path / "fifo.yaml")


def test_find_task(tmp_path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(ValueError, match=r"mine\.yaml does not exist"):
        find_task(path)
    path.write_text("data: {}\n")
    assert find_task(str(path)) == path
    with pytest.raises(ValueError, match=r"no task 'street' \(did you mean 'streets'\?\); there are .*day_dusk"):
        find_task("street")


def test_every_packaged_task_loads():
    for path in find_task("streets").parent.glob("*.yaml"):
        config = from_dict(DataConfig, load_yaml(path)["data"], path.name)
        assert config.source.labelled and config.validation.labelled and not config.target.labelled, path.name
        assert all(min(part.size) > 0 for part in (config.source, config.target, config.validation)), path.name
