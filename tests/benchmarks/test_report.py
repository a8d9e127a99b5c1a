"""The generated parts of README and docs from planted results files."""

from __future__ import annotations

import json

import _costs
import _forecasts
import _headlines
import _results
import pytest
import report

TIMES = {"cpu": 2.0, "reference": 8.0, "compile": 6.0, "usual": 400.0, "index_add": 9.0, "one_hot_matmul": 7.0}


@pytest.fixture
def folder(row, tmp_path, monkeypatch):
    """Results of a CPU: a diagonal case with every provider and a full one where only ours could run."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    rows = [row | {"provider": n, "ms": t, "ms_20": 0.9 * t, "ms_80": 1.2 * t} for n, t in TIMES.items()]
    _results.write(tmp_path / "cpu.json", [*rows, row | {"case": "full A=256"}])
    return tmp_path


def test_nothing_measured_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = report.operators()
    assert "**CPU**: not measured yet." in text and "**GPU**: not measured yet." in text and "|" not in text


def test_the_table_states_ratios_of_the_run(folder):
    text = report.operators()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if "`class_moments`" in line]
    assert len(cells) == 2 and len(cells[0]) == len(report.HEADER)
    first = dict(zip(report.HEADER, cells[0], strict=True))
    assert first["ms (20–80 %)"] == "2 (1.8–2.4)" and first["of ceiling"] == "50%"
    assert (first["vs usual"], first["vs reference"], first["vs compile"]) == ("200x", "4x", "3x")
    assert first["vs best rewrite"] == "3.5x (one_hot_matmul)"
    assert first["extra MiB"] == "3.5" and first["error (fp64)"] == "1.0e-07"
    second = dict(zip(report.HEADER, cells[1], strict=True))
    assert second["case"] == "full A=256" and second["vs usual"] == second["vs best rewrite"] == "–"
    assert "**Some CPU, 1 pinned thread** (torch 2.13)" in text and first["tree"] == "abc"
    assert "not committed" not in text
    assert "**GPU**: not measured yet." in text and "**CPU**: not measured" not in text


def test_a_gpu_file_ends_not_measured_yet(folder, row):
    card = {"device": "NVIDIA Card", "device_type": "cuda", "provider": "triton", "launches": 2}
    _results.write(folder / "card.json", [row | card])
    text = report.operators()
    assert "**NVIDIA Card** (" in text and "| triton |" in text and "not measured yet" not in text
    own, of_gpu = (next(line for line in text.splitlines() if part in line) for part in ("| cpu |", "| triton |"))
    assert "ms in a row" in text and of_gpu.count("|") == own.count("|") + 1 and "| 2 (1.9–2.2) | 2.1 | 50% |" in of_gpu


def test_no_share_above_100_percent_is_published(folder, row):
    """An older row was held against a matrix library's rate, which is no bound: its share says nothing."""
    old = {name: value for name, value in row.items() if name not in ("wall_ms", "bound", "ceilings", "gate")}
    (folder / "cpu.json").write_text(json.dumps([old | {"ceiling_share": 3.03}]))
    (line,) = [line for line in report.operators().splitlines() if "`class_moments`" in line]
    assert "303" not in line and "| 2 (1.9–2.2) | – |" in line
    with pytest.raises(ValueError, match="less time than its floor: 303"):
        _results.write(folder / "cpu.json", [row | {"ceiling_share": 3.03}])


def test_ungated_rows_are_left_out(folder, row):
    card = {"device": "NVIDIA Card", "device_type": "cuda", "provider": "cuda"}
    card |= {"gated": False, "gate": "refused: busy"}
    _results.write(folder / "card.json", [row | card])
    assert "**GPU**: not measured yet." in report.operators() and "NVIDIA Card" not in report.operators()


def test_where_we_lose_is_published(folder, row):
    _results.write(folder / "cpu.json", [row, row | {"provider": "compile", "ms": 1.0, "ms_20": 1.0, "ms_80": 1.0}])
    assert "| 0.5x |" in report.operators()


def test_rows_of_an_uncommitted_tree_are_marked_and_counted(folder, row):
    _results.write(folder / "cpu.json", [row | {"commit": "abc-dirty", "case": "changed"}])
    text = report.operators()
    marked = [line for line in text.splitlines() if line.endswith("| abc + changes |")]
    assert len(marked) == 1 and "| changed |" in marked[0]
    assert "**1 of the 8 rows behind this table" in text and text.count("| abc |") == 2


def test_plots(folder):
    pytest.importorskip("matplotlib")
    (path,) = report.plots()
    assert path == folder / "operators_some_cpu.png" and path.read_bytes()[:4] == b"\x89PNG"
    assert "![Some CPU](../benchmarks/results/operators_some_cpu.png)" in report.operators()


def test_check_reports_and_main_writes_every_page(folder, monkeypatch, capsys):
    page = "a\n<!-- generated: operators -->\nold\n<!-- /generated: operators -->\nb\n"
    (folder / "docs").mkdir()
    for name in ("README.md", "docs/results.md", "docs/other.md"):
        (folder / name).write_text(page if name != "docs/other.md" else "nothing generated\n")
    monkeypatch.setattr(report, "ROOT", folder)
    monkeypatch.setattr(report, "plots", list)
    monkeypatch.setattr("sys.argv", ["report.py", "--check"])
    assert report.main() == 1
    said = capsys.readouterr().err
    assert "README.md is out of date" in said and "docs/results.md is out of date" in said and "other" not in said
    assert "old" in (folder / "README.md").read_text()
    monkeypatch.setattr("sys.argv", ["report.py"])
    assert report.main() == 0
    for name in ("README.md", "docs/results.md"):
        text = (folder / name).read_text()
        assert text.startswith("a\n<!-- generated: operators -->\n**Some CPU") and text.endswith("operators -->\nb\n")
    monkeypatch.setattr("sys.argv", ["report.py", "--check"])
    assert report.main() == 0
    (folder / "docs/results.md").write_text(page)
    assert report.main() == 1 and "README" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- generated: nonsense -->\n<!-- /generated: nonsense -->", "page.md .*'nonsense'"),
        ("<!-- generated: operators -->\n", "page.md: .*'operators' does not end"),
    ],
)
def test_bad_markers_are_named(folder, text, message):
    with pytest.raises(ValueError, match=message):
        report.render(text, "page.md")


def test_the_terminal_table_names_every_provider(row, idle):
    rows = [row, row | {"provider": "usual", "ms": 1.95, "deterministic": False, "extra_mib": None, "launches": 7}]
    text = report.lines(rows, idle())
    assert "read 20.0, copy 10.0 and write 8.0 GB/s" in text[0] and text[1] == "class_moments, diag A=256, forward:"
    assert text[2].split()[0] == "usual" and "not deterministic" in text[2] and "7 launches" in text[2]
    assert text[3].split()[0] == "cpu" and "2.100 in a row   50.0% of read" in text[3]


def test_a_run_that_waited_for_the_processor_states_what_it_used():
    assert report.spent({"seconds": 600.0}) == "10 min"  # of before processor time was recorded
    assert report.spent({"seconds": 600.0, "cpu_seconds": 590.0}) == "10 min"
    assert report.spent({"seconds": 900.0, "cpu_seconds": 540.0}) == "9 min of CPU"
    assert report.spent({"seconds": None}) == "–"


def test_records_say_at_which_commits_they_were_measured():
    old, clean, changed = {}, {"commit": "abc"}, {"commit": "def-dirty"}
    assert report.commits([clean, clean]) == " at abc"
    assert report.commits([clean, changed]) == " at abc, def + changes"
    assert report.commits([old, clean]) == " at abc (1 of the 2 runs are older than the noting of commits)"


def test_forecasts_and_measured_steps_stand_in_their_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(_forecasts, "FORECASTS", tmp_path / "forecast.json")
    monkeypatch.setattr(_forecasts, "STEPS", tmp_path / "steps.json")
    assert _forecasts.part() == "Not forecast yet." and _forecasts.steps() == "Not measured yet."
    row = {"method": "sdca", "form": "ours", "peak_mib": 2048, "card_mib": 3072, "phase": "adapt backward 2"}
    usual = row | {"settings": "batch 1+1", "form": "usual", "card_mib": 12288, "peak_mib": 11264}
    rows = [row | {"settings": "memory 11g"}, row | {"settings": "batch 1+1"}, usual]
    _forecasts.FORECASTS.write_text(json.dumps(rows))
    text = _forecasts.part()
    assert "| `sdca` | not run yet | 3.0 (2.0) | not run yet | not run yet | adapt backward 2 |" in text
    assert "at once: 3.0 (2.0); with" in text and "usually written: 12.0 (11.0)." in text and "no GPU" in text
    step = {"method": "sdca", "form": "usual", "covariance": "full", "precision": "bf16 (why)", "checkpointing": True}
    _forecasts.STEPS.write_text(json.dumps([step | {"model": "r", "source": [2, 3], "target": [4, 5], "peak_mib": 7}]))
    line = "| `sdca`, usual statistics, full covariance | r | 3x2 + 5x4 | bf16, checkpointing | 7 |"
    assert line in _forecasts.steps()


def test_the_share_of_a_step_outside_the_network_stands_in_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr(_forecasts, "SHARES", tmp_path / "shares.json")
    assert _forecasts.shares() == "Not measured yet."
    seconds = {"step": 20.0, "network forward": 3.0, "network backward": 6.5, "optimiser": 0.5, "log": 10.0}
    record = {"method": "sdca", "form": "usual", "outside_share": 0.5, "seconds": seconds, "threads": 2, "machine": "m"}
    _forecasts.SHARES.write_text(json.dumps([record, record | {"form": "ours"}]))
    ours, usual = (line for line in _forecasts.shares().splitlines() if "sdca" in line)
    assert ours == "| `sdca` | 20.0 | 9.5 | 10.00 | 50.0% |" and usual.startswith("| `sdca`, usual statistics | ")


def test_the_methods_are_compared_by_what_they_gain_and_cost(tmp_path, monkeypatch):
    for module, name in ((_costs, "RECORDS"), (_forecasts, "STEPS"), (_forecasts, "FORECASTS")):
        monkeypatch.setattr(module, name, tmp_path / f"{name}.json")
    assert _costs.part() == "Not measured yet."
    run = {"task": "carla_camvid", "method": "sdca", "threads": 1, "seconds": 900.0, "cpu_seconds": 600.0}
    scores = [{"name": "target_statistics", "miou": 0.30}, {"name": "adapted", "miou": 0.32}]
    other = run | {"cpu_seconds": 840.0, "rows": [scores[0], {"name": "adapted", "miou": 0.34}]}
    oracle = run | {"method": "oracle", "rows": [{"name": "oracle", "miou": 0.9}]}
    two_threads = run | {"task": "streets", "threads": 2, "rows": scores}
    _costs.RECORDS.write_text(json.dumps([run | {"rows": scores}, other, oracle, two_threads]))
    step = {"method": "sdca", "form": "ours", "precision": "bf16 (why)", "checkpointing": False, "peak_mib": 77}
    _forecasts.STEPS.write_text(json.dumps([step, step | {"precision": "fp32", "peak_mib": 99}]))
    _forecasts.FORECASTS.write_text(
        json.dumps([{"method": "sdca", "form": "ours", "settings": "memory 8g", "card_mib": 2048}])
    )
    (line,) = [line for line in _costs.part().splitlines() if line.startswith("| `")]
    assert line == "| `sdca` | +2.0 | +3.0 | – | 12 | 77 | 2.0 |"


def test_the_headlines_are_measured_and_of_a_committed_tree(folder, row, monkeypatch):
    monkeypatch.setattr(_results, "RESULTS", folder)
    monkeypatch.setattr(_headlines, "RECORDS", folder / "train_cpu.json")
    monkeypatch.setattr(_forecasts, "STEPS", folder / "steps.json")
    dirty = [row | {"case": "dirty", "commit": "abc-dirty", "provider": name} for name in ("cpu", "usual")]
    _results.write(folder / "cpu.json", dirty)
    text = _headlines.part()
    assert "Adaptation: not measured yet." in text and "Memory: not measured yet." in text
    assert "**200x faster**" in text and "the median of 1 cases of `class_moments` (200.0x to 200.0x)" in text
    run = {"task": "streets", "method": "sdca"}
    rows = [{"name": "source", "miou": 0.30}, {"name": "adapted", "miou": 0.41}]
    oracle = run | {"method": "oracle", "rows": [{"name": "oracle", "miou": 0.7}]}
    _headlines.RECORDS.write_text(json.dumps([run | {"rows": rows}, run | {"rows": rows}, oracle]))
    step = {"method": "sdca", "covariance": "diag", "precision": "fp32", "checkpointing": False}
    steps = [step | {"form": "ours", "peak_mib": 1024}, step | {"form": "usual", "peak_mib": 3072}]
    _forecasts.STEPS.write_text(json.dumps(steps))
    text = _headlines.part()
    assert "**30.0 → 41.0 % mIoU**" in text and "2 seeds" in text and "labels: 70.0 %." in text
    assert "**1.0 instead of 3.0 GiB**" in text and text.endswith("- On a GPU: not measured yet.")
