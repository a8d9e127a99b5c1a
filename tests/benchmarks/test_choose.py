"""benchmarks/choose.py: rows measured on a card rewrite the table of GPU backends, and nothing else does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import choose
import pytest

from fastuda.ops import _table
from fastuda.ops._table import CUDA, TRITON, Row

CARD = "Some Card"


def timed(operator: str, case: str, cuda: float, triton: float, direction: str = "forward", **changes) -> list[dict]:
    """A row of each backend, milliseconds; the columns that choose.py reads."""
    both = {"operator": operator, "case": case, "direction": direction, "device": CARD, "device_type": "cuda"}
    both |= {"scale": "full", "gated": True} | changes
    return [both | {"provider": "cuda", "ms": cuda}, both | {"provider": "triton", "ms": triton}]


@pytest.fixture
def run(tmp_path):
    """run(rows, *options): the rows of a copy of the table after choose.py has rewritten it."""
    table, results = tmp_path / "_table.py", tmp_path / "card.json"
    shutil.copy(_table.__file__, table)

    def rewrite(rows: list[dict], *options: str) -> tuple[Row, ...]:
        results.write_text(json.dumps(rows))
        choose.main([str(results), "--table", str(table), *options])
        return choose.read_table(table)[1]

    return rewrite


def of(rows: tuple[Row, ...], form: str) -> list[tuple]:
    return [tuple(row)[1:] for row in rows if row.form == form]


def test_the_faster_backend_goes_first_on_that_card_and_newer_ones(run):
    rows = timed("sinkhorn", "a", 2.0, 1.0) + timed("sinkhorn", "b", 1.0, 0.5)
    rows += timed("class_moments", "diag A=256", 1.0, 1.5) + timed("class_moments", "full A=256", 1.0, 4.0)
    after = run(rows, "--capability", "9.0")
    first, older = of(after, "sinkhorn")
    assert first == ((9, 0), TRITON, "measured on Some Card, triton 2.0x faster in 2 cases")
    assert older[:2] == ((0, 0), CUDA) and older[2].startswith("not measured")
    assert of(after, "class_moments")[0] == ((9, 0), CUDA, "measured on Some Card, cuda 1.5x faster in 1 case")
    assert [row[0] for row in of(after, "class_moments_full")] == [(9, 0), (8, 0), (0, 0)]
    assert of(after, "class_moments_full")[0][1] == CUDA
    touched = {"sinkhorn", "class_moments", "class_moments_full"}
    kept = [row for row in _table.ROWS if row.form not in touched]
    assert [row for row in after if row.form not in touched] == kept


def test_the_geometric_mean_decides_and_a_second_run_replaces(run):
    after = run(timed("sinkhorn", "a", 1.0, 4.0) + timed("sinkhorn", "b", 2.0, 1.0), "--capability", "9.0")
    assert of(after, "sinkhorn")[0][1:] == (CUDA, "measured on Some Card, cuda 1.4x faster in 1 of 2 cases")
    after = run(timed("sinkhorn", "a", 8.0, 4.0), "--capability", "9.0")
    assert len(of(after, "sinkhorn")) == 2 and of(after, "sinkhorn")[0][1] == TRITON
    after = run(timed("sinkhorn", "a", 1.0, 4.0), "--capability", "6.1")
    assert [row[:2] for row in of(after, "sinkhorn")] == [((9, 0), TRITON), ((6, 1), CUDA), ((0, 0), CUDA)]


def test_the_host_counts_where_it_limits(run):
    rows = timed("sinkhorn", "a", 1.0, 0.5)
    rows[1]["wall_ms"] = 3.0
    assert of(run(rows, "--capability", "9.0"), "sinkhorn")[0][1] == CUDA


@pytest.mark.parametrize(
    ("operator", "case", "direction", "form"),
    [
        ("contrastive_bound", "full A=256 N=3600", "backward", "contrastive_bound_full_backward"),
        ("contrastive_bound", "diag A=256 N=14400", "forward", "contrastive_bound_forward"),
        ("contrastive_bound", "None A=256 N=14400", "both", None),
        ("mode_losses", "d=64 N=14400", "backward", "mode_losses_backward"),
        ("triplet_consistency_loss", "T=1024", "forward", "triplet_consistency_forward"),
        ("class_balanced_sample", "per class 4 x 90 x 160, 32", "forward", "sample_per_class"),
        ("class_balanced_sample", "by share 4 x 90 x 160, 512", "forward", "class_balanced_sample"),
        ("upsample_cross_entropy", "1x19x90x160 to 720x1280", "both", "upsample_cross_entropy"),
        ("low_rank", "A=256", "forward", None),
    ],
)
def test_a_row_times_one_form(operator, case, direction, form):
    assert choose.form_of(operator, case, direction) == form


def test_every_form_is_timed_by_a_benchmark():
    """Each row of the table can be decided: a case of benchmarks/ops maps to it."""
    import profile_ops

    found = {
        choose.form_of(operator.name, case, direction)
        for operator in profile_ops.operators()
        for cases in operator.cases.values()
        for case in cases
        for direction in operator.directions
    }
    assert {row.form for row in _table.ROWS} <= found


def test_what_does_not_count_changes_nothing(run, capsys):
    counted = timed("softmax_kl", "N", 1.0, 2.0)
    ignored = timed("sinkhorn", "a", 2.0, 1.0, gated=False) + timed("sinkhorn", "a", 2.0, 1.0, scale="smoke")
    ignored += timed("pseudo_labels", "a", 2.0, 1.0)[1:]  # one backend alone
    ignored += timed("confusion_matrix", "a", 2.0, 1.0, device_type="cpu", device="Some CPU")
    after = run(counted + ignored, "--capability", "9.0")
    assert len(after) == len(_table.ROWS) + 1 and len(of(after, "softmax_kl_forward")) == 2
    assert "1 rows of" in capsys.readouterr().out
    assert len(of(run(counted + ignored, "--capability", "9.0", "--ungated"), "sinkhorn")) == 2


def test_the_file_is_left_formatted(run, tmp_path):
    rows = timed(
        "contrastive_bound", "full A=256", 1.0, 2.0, "backward", device="NVIDIA GeForce GTX 1080 Ti of a long name"
    )
    run(rows, "--capability", "6.1")
    assert "Row(\n" in (tmp_path / "_table.py").read_text(), "no row is too long for a line"
    for command in (["format", "--check"], ["check"]):
        config = ["--config", str(Path(choose.__file__).parents[1] / "pyproject.toml")]
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *config, str(tmp_path / "_table.py")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_to_rewrite_leaves_the_file_as_it_is(run, tmp_path):
    before = (tmp_path / "_table.py").read_text()
    run(timed("low_rank", "A=256", 1.0, 2.0), "--capability", "9.0")
    assert (tmp_path / "_table.py").read_text() == before


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], ["--capability", "9.0"], "hold no row that counts and was measured on a GPU"),
        ({"operator": 1}, ["--capability", "9.0"], "does not hold the rows of operators"),
        (timed("sinkhorn", "a", 1.0, 2.0), [], "Some Card is not a card of this machine"),
        (timed("sinkhorn", "a", 1.0, 2.0), ["--capability", "nine"], "--capability must be as 9.0, got 'nine'"),
        (
            timed("sinkhorn", "a", 1.0, 2.0) + timed("sinkhorn", "a", 1.0, 2.0, device="Other"),
            ["--capability", "9.0"],
            "the rows are of Other, Some Card: name one by --device",
        ),
    ],
)
def test_bad_input_is_one_sentence(run, capsys, tmp_path, rows, options, message):
    before = (tmp_path / "_table.py").read_text()
    with pytest.raises(SystemExit):
        run(rows, *options)
    assert message in capsys.readouterr().err
    assert (tmp_path / "_table.py").read_text() == before
