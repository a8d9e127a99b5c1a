"""The page of a run: what it says of finished, unfinished, unlabelled and hostile runs."""

from __future__ import annotations

import json

import pages
import pytest
from report_runs import line, trained

from fastuda.report import read_run, run_page
from fastuda.report.html import Html, table, tag, text
from fastuda.report.pictures import Pictures, saved


def page_of(directory, pictures=None):
    run = read_run(directory)
    return pages.checked(run_page(run, pictures or saved(run.pictures)))


def test_a_finished_run_shows_its_stages_classes_facts_and_settings(make_run):
    root = page_of(make_run())
    found = pages.sections(root)
    assert list(found) == [
        "Stages", "Scores", "Losses", "Classes", "Images", "Speed and memory", "How it was run", "Configuration"
    ]  # fmt: skip
    assert pages.cells(found["Stages"])[1:] == [
        ["source", "25.0", "", "90.0", "80.0"],
        ["adapted", "62.5", "+37.5", "90.0", "80.0"],
    ]
    assert pages.cells(found["Classes"])[1:] == [
        ['road <b>"wet"</b>', "25.0", "50.0"],
        ["car & van", "-", "75.0"],
        ["mean", "25.0", "62.5"],
    ]
    assert ["host", "a<b>c"] in pages.cells(found["How it was run"])
    assert ["seed", "3"] in pages.cells(found["Configuration"])
    about = pages.words(root.find("body/main/ul"))
    assert "62.5mIoU, adapted" in about and "+37.5points since source" in about
    assert "2 minof training" in about and "512 MiBpeak memory" in about
    assert len(list(found["Losses"].iter("svg"))) == 2 and "This run is finished." in pages.words(root)


def test_what_users_name_is_text_and_nothing_else(make_run):
    root = page_of(make_run("a <script> & 'b'"))
    assert "<img src='x' onerror='alert(1)'>" in pages.words(root.find("body/main/h1"))
    assert "a <script> & 'b'" in root.find("head/title").text
    assert text('<a href="x">&\x00\x1b\udc80') == "&lt;a href=&quot;x&quot;&gt;&amp;���"
    assert tag("i", "<", title='"') == '<i title="&quot;">&lt;</i>' and text(Html("<b/>")) == "<b/>"
    assert "&lt;x&gt;" in table(["<x>"], []) and "<x>" not in table(["<x>"], [])


def test_a_run_under_way_says_how_far_it_is(make_run):
    log = line("start", stage=0, iteration=0) + trained("warm_up", 10, 2.0) + trained("warm_up", 20, 1.5)
    root = page_of(make_run(log=log + '{"event": "train", "stage": "warm', finished=False))
    said = pages.words(root)
    assert "This run is not finished; last seen in stage warm_up at iteration 20." in said
    assert "It has no scores" in said and "Stages" not in pages.sections(root)


def test_a_run_that_has_not_logged_yet_and_one_without_pictures_have_a_page(make_run):
    directory = make_run(log="", finished=False)
    root = page_of(directory, Pictures(""))
    assert list(pages.sections(root)) == ["Configuration"]
    (directory / "log.jsonl").unlink()
    assert list(pages.sections(page_of(directory, Pictures("")))) == ["Configuration"]


def test_steps_that_a_resumed_run_logs_again_are_shown_once(make_run):
    first = line("start", stage=0, iteration=0)
    first += "".join(trained("warm_up", step, 9.0) for step in (10, 20, 30))
    again = line("start", stage=0, iteration=15) + "".join(trained("warm_up", step, 1.0) for step in (20, 30, 40))
    run = read_run(make_run(log=first + again + trained("adapt", 10, 0.5)))
    assert run.curves("train")["loss"] == [(10, 9.0), (20, 1.0), (30, 1.0), (40, 1.0), (50, 0.5)]
    assert run.stage_ends == [(40, "warm_up"), (50, "adapt")]
    assert run.facts["iteration"] == 15


def test_scores_that_are_logged_at_steps_make_curves(make_run):
    log = trained("warm_up", 10, 1.0) + line("evaluation", name="warm_up", miou=0.2, iou={"a": 0.1}, iteration=10)
    log += trained("warm_up", 20, 1.0) + line("evaluation", name="warm_up", miou=0.3, iou={"a": None}, iteration=20)
    log += line("pseudo_labels", stage="self", coverage=0.4, shares={"a": 0.7})
    run = read_run(make_run(log=log, finished=False))
    assert run.curves("evaluation") == {"miou": [(10, 0.2), (20, 0.3)], "iou: a": [(10, 0.1)]}
    assert [row["miou"] for row in run.stages] == [0.3]
    assert run.curves("pseudo_labels") == {"coverage": [(20, 0.4)], "shares: a": [(20, 0.7)]}
    assert "coverage" in pages.words(pages.sections(page_of(run.directory))["Pseudo labels"])


def test_a_confusion_matrix_is_shares_of_each_true_class(make_run):
    pictures = Pictures("", [], [[30, 10, 0], [0, 0, 0]])
    table = pages.cells(pages.sections(page_of(make_run(), pictures))["Confusion matrix"])
    expected = [['road <b>"wet"</b>', "75", "25", "", "40"], ["car & van", "", "", "", "0"]]
    assert table[1:] == expected
    log = line("evaluation", name="source", miou=0.1, iou={}, confusion=[[9, 9, 9], [9, 9, 9]])
    log += line("evaluation", name="adapted", miou=0.1, iou={}, confusion=pictures.confusion)
    copied = page_of(make_run("copied", log=log), Pictures(""))  # a machine without the data
    assert pages.cells(pages.sections(copied)["Confusion matrix"])[1:] == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", None, "holds no run: there is no config.yaml"),
        ("config.yaml", "method: sdca", "config.yaml is not the configuration of a run"),
        ("log.jsonl", '{"event": "start"}\nnonsense\n', "log.jsonl is damaged: line 2 is no JSON"),
        ("log.jsonl", "[1]\n", "line 1 is no JSON object"),
        ("log.jsonl", '{"stage": 1}\n', "line 1 names no event"),
        ("log.jsonl", '{"event": "train", "loss": 1}\n', "line 1 names no stage and iteration"),
        ("result.json", "{", "result.json is damaged"),
        ("result.json", json.dumps({"stages": 3}), "result.json is not the result of a run"),
    ],
)
def test_a_directory_that_is_no_run_or_damaged_is_named(make_run, file, content, message):
    directory = make_run()
    (directory / file).unlink()
    if content is not None:
        (directory / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_run(directory)
