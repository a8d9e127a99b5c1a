"""The command: reports on demand, at a run's end, on a machine without the data; and runs side by side."""

from __future__ import annotations

import shutil
from pathlib import Path

import pages
import pytest
import yaml

from fastuda.cli.report import main
from fastuda.cli.train import main as train
from fastuda.report import comparison_page, read_run


def test_a_report_of_each_run_stands_in_its_directory(make_run, real_run, capsys, tmp_path):
    first, copy = make_run("first"), tmp_path / "copy"
    shutil.copytree(real_run, copy)
    main([str(first), str(copy)])
    assert capsys.readouterr().out.split() == [str(first / "report.html"), str(copy / "report.html")]
    of_first = pages.checked((first / "report.html").read_text())
    assert "Pictures that the run saved" in pages.words(of_first)
    of_copy = pages.checked((copy / "report.html").read_text())
    assert "Of all 7 validation images" in pages.words(of_copy) and "Confusion matrix" in pages.sections(of_copy)
    main([str(copy), "--no-images", "--output", str(tmp_path / "other.html")])
    of_log = pages.checked((tmp_path / "other.html").read_text())  # what the run's evaluations left in its log
    assert "Of all 7 validation images" not in pages.words(of_log) and "Confusion matrix" in pages.sections(of_log)


def test_a_run_copied_to_a_machine_without_the_data_has_a_report(real_run, tmp_path, capsys):
    from fastuda.train.checkpoint import load_checkpoint, save_checkpoint

    copy = tmp_path / "copy"
    shutil.copytree(real_run, copy)
    state = load_checkpoint(copy / "checkpoint.pt")
    state["config"]["data"]["validation"] = {"kind": "folder", "root": str(tmp_path / "gone"), "size": [32, 64]}
    save_checkpoint(copy / "checkpoint.pt", state)
    main([str(copy)])
    assert "Nothing was predicted for this page" in capsys.readouterr().out
    said = pages.words(pages.checked((copy / "report.html").read_text()))
    assert "Nothing was predicted for this page" in said and "gone" in said and "00000.png" in said


def test_training_ends_with_a_report_unless_told_otherwise(real_run, tmp_path, capsys):
    task = real_run.parent / "tiny.yaml"
    content = yaml.safe_load(task.read_text())
    del content["data"]["validation"]
    (tmp_path / "unlabelled.yaml").write_text(yaml.safe_dump(content))
    short = ["--method", "source", "--warm-up.schedule.iterations", "1"]
    train(["--task", str(tmp_path / "unlabelled.yaml"), "--work-dir", str(tmp_path / "a"), *short])
    assert f"report: {tmp_path / 'a' / 'report.html'}" in capsys.readouterr().out
    root = pages.checked((tmp_path / "a" / "report.html").read_text())
    said = pages.words(root)
    assert "It has no scores" in said and "target images without a truth" in said
    table = dict(row for row in pages.cells(pages.sections(root)["How it was run"]) if len(row) == 2)
    assert {"date", "command", "fastuda", "torch", "python", "host", "device"} <= table.keys()
    train(["--task", str(tmp_path / "unlabelled.yaml"), "--work-dir", str(tmp_path / "b"), "--no-report", *short])
    assert not (tmp_path / "b" / "report.html").exists() and (tmp_path / "b" / "result.json").exists()


def test_a_report_that_cannot_be_written_does_not_spoil_the_run(make_run, tmp_path, capsys):
    from fastuda.cli.train import report

    directory = make_run()
    (directory / "config.yaml").unlink()
    report(directory)
    assert "the run is complete, but its report was not written" in capsys.readouterr().out


def test_runs_stand_side_by_side(make_run, tmp_path, capsys):
    one, other = make_run("a/run", seed=3), make_run("b/run", seed=4, log="", finished=False)
    main(["compare", str(one), str(other), "--output", str(tmp_path / "comparison.html")])
    found = pages.sections(pages.checked((tmp_path / "comparison.html").read_text()))
    runs = pages.cells(found["Runs"])
    assert [row[0] for row in runs[1:]] == ["a/run", "b/run"] and runs[1][4] == "62.5" and runs[2][6] == "not finished"
    assert pages.cells(found["Settings that differ"]) == [["setting", "a/run", "b/run"], ["seed", "3", "4"]]
    assert pages.cells(found["Scores"])[-1] == ["mean", "62.5", "-"]
    assert "loss" in pages.words(found["Curves"])


def test_a_comparison_of_equal_runs_says_so(make_run):
    one, other = read_run(make_run("one")), read_run(make_run("other"))
    assert "The runs have the same settings." in pages.words(pages.checked(comparison_page([one, other])))
    with pytest.raises(ValueError, match="at least two"):
        comparison_page([one])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "a"], "compare needs at least two runs"),
        (["a", "b", "--output", "c.html"], "--output names one page"),
    ],
)
def test_a_slip_is_told(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_what_is_no_run_is_one_sentence(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path)])
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"error: {tmp_path} holds no run: there is no config.yaml in it\n"
