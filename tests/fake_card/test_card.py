"""The parts of the fake card that need no CUDA: its record, its tables, and which calls it makes."""

from __future__ import annotations

import pytest
import torch
from fake_card import calls, card, host_time, operators, run
from torch.utils._python_dispatch import TorchDispatchMode

from fastuda.ops._dispatch import TABLE

LINES = (
    "counts\t2\t1\n"
    "wait\tcudaStreamSynchronize\t3\n"
    "fault\tgrid out of range: cuda kernel\twith a tab\n"
    "launch\ttriton\t_count_pairs\t450 1 1\t128 1 1\t2048\t1\t0x5\t1\n"
)


def test_the_record_is_read():
    record = card.parse_record(LINES)
    assert (record.own, record.others, record.waits) == (2, 1, {"cudaStreamSynchronize": 3})
    assert record.faults == ["grid out of range: cuda kernel\twith a tab"]
    assert record.launches == [card.Launch("triton", "_count_pairs", (450, 1, 1), (128, 1, 1), 2048, 1, "0x5", True)]


@pytest.mark.parametrize("line", ["launch\tcuda\tkernel", "sync\t1", "nothing"])
def test_a_line_of_another_form_is_refused(line):
    with pytest.raises(ValueError, match="no known form"):
        card.parse_record(line)


def test_what_is_missing_is_one_sentence():
    said = card.missing()
    if torch.version.cuda is None:
        assert "not a CUDA build" in said
    assert "\n" not in said


class OnMeta(calls.Inputs):
    """Tensors without numbers; generators of the CPU, as "meta" has none."""

    def generator(self) -> torch.Generator:
        return torch.Generator()


class Seen(TorchDispatchMode):
    """The raw operators of fastuda that are called, by the form of the dispatch table that a GPU would run."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "fastuda":
            # A full covariance, (K, A, A), has kernels of its own.
            full = any(isinstance(x, torch.Tensor) and x.shape[-2:] == (calls.CHANNELS,) * 2 for x in args)
            self.forms.add(func._opname.replace("bound_", "bound_full_") if full else func._opname)
        return func(*args, **(kwargs or {}))


def test_the_calls_reach_every_form_of_the_table_and_fit_the_operators():
    inputs = OnMeta(torch.device("meta"), torch.float32)
    with Seen() as seen:
        for call in calls.CALLS:
            calls.forward_of(call, inputs)()
            both = calls.both_of(call, inputs)
            if both is not None:
                _, leaves = call.make(inputs)
                assert [g.shape for g in both()] == [x.shape for x in leaves], call.name
    assert TABLE.keys() <= seen.forms
    assert len({call.name for call in calls.CALLS}) == len(calls.CALLS)


def rows() -> list[dict]:
    shared = {"call": "mode_losses", "direction": "both", "goal": 120}
    return [
        {"call": "torch.add", "direction": "forward", "backend": "torch", "microseconds": 2.0},
        {**shared, "backend": "cuda", "microseconds": 130.4, "own_launches": 3, "torch_launches": 2},
        {**shared, "backend": "triton", "microseconds": None, "note": "does not serve mode_losses with these"},
    ]


def test_the_table_of_host_times():
    lines = host_time.table(rows()).splitlines()
    assert lines[2] == "| torch.add | forward | 2 | 2 |  |"
    assert lines[3] == "| mode_losses | forward + backward | 130 (3 + 2) | – | ≤ 120 |"
    later = [{**row, "microseconds": row["microseconds"] and row["microseconds"] / 2} for row in rows()]
    assert "| 130 (3 + 2) → 65 (3 + 2) | – → – |" in host_time.table(later, rows())


def test_goals_that_no_backend_reaches_are_named():
    assert host_time.missed(rows()) == ["mode_losses: forward + backward take 130 us of the host, more than the goal"]
    reached = [{**row, "microseconds": 119.0} for row in rows()]
    assert host_time.missed(reached) == []


def test_forms_without_a_call_are_named():
    refused = "backend 'triton' was asked for but does not serve a with these arguments"
    found = [
        {"backend": "cuda", "forms": ["a"], "faults": []},
        {"backend": "triton", "unserved": refused, "faults": []},
    ]
    assert operators.unreached(found, {"a": ()}, ["cuda", "triton"]) == []
    assert operators.unreached(found, {"a": (), "b": ()}, ["cuda"]) == ["b: no call reaches its cuda kernel"]


def test_the_committed_page_marks_what_it_is():
    parts = {
        "operators": {"calls": 3, "launches of ours": 7, "faults": ["triton x: grid out of range"], "unreached": []},
        "train": [{"method": "sdca", "steps": {"adapt": 3}, "faults": ["lovasz_softmax runs as plain PyTorch"]}],
        "host time": {"commit": "1234567", "rows": rows()},
    }
    page = run.markdown({"commit": "1234567", "what": run.WHAT, "parts": parts})
    assert "No figure of a GPU" in page and "grid out of range" in page and "130 (3 + 2)" in page
    assert "sdca: lovasz_softmax runs as plain PyTorch" in page
