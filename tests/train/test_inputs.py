"""The batches of a stage: a function of their place alone, and read without more work than needed."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from fastuda.methods import build_method
from fastuda.methods.protocol import Stage
from fastuda.train import inputs as module
from fastuda.train.config import parse
from fastuda.train.inputs import Inputs


@pytest.fixture
def config(tiny):
    return replace(parse(["--task", str(tiny), "--method", "sdca"]), accumulate=2)


def inputs_and_stage(config, tmp_path) -> tuple[Inputs, Stage]:
    """The inputs of a run and its second stage, which sees both domains."""
    inputs = Inputs(config, torch.device("cpu"), tmp_path)
    return inputs, build_method(config, inputs.classes.num_classes).stages()[1]


def test_a_second_iterator_gives_the_same_batches(config, tmp_path):
    inputs, stage = inputs_and_stage(config, tmp_path)
    first, later = list(inputs.batches(stage, 1, 0)), list(inputs.batches(stage, 1, 2))
    assert len(first) == stage.iterations * 2 and len(later) == (stage.iterations - 2) * 2
    for one, other in zip(first[4:], later, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.equal(a.images, b.images) and torch.equal(a.index, b.index)
    assert not torch.equal(first[0][0].images, first[1][0].images)
    assert first[0][0].labels is not None and first[0][1].labels is None
    assert not torch.equal(first[0][0].images, next(inputs.batches(stage, 2, 0))[0].images)


def test_a_domain_without_a_view_has_no_batch(config, tmp_path):
    inputs, stage = inputs_and_stage(config, tmp_path)
    source, target = next(inputs.batches(replace(stage, target=None), 1, 0))
    assert len(source.images) == 2 and target is None


def test_only_the_loading_is_waited_for(config, tmp_path):
    inputs, stage = inputs_and_stage(config, tmp_path)
    inside: list[int] = []

    @contextmanager
    def waiting():
        inside.append(len(inside))
        yield

    batches = inputs.batches(stage, 1, 0, waiting)
    assert inside == []
    next(batches), next(batches)
    assert inside == [0, 1]


def test_the_labels_are_read_once_for_all_stages(config, tmp_path, monkeypatch):
    """And for a batch that is loaded again: GTA5 has 25,000."""
    inputs, stage = inputs_and_stage(config, tmp_path)
    stage = replace(stage, source=replace(stage.source, rare_first=True))
    computed, own = [], module.image_weights
    monkeypatch.setattr(module, "image_weights", lambda *given: computed.append(given) or own(*given))
    one, other = next(inputs.batches(stage, 1, 0)), next(inputs.batches(stage, 1, 0))
    next(inputs.batches(stage, 2, 0))
    assert len(computed) == 1 and torch.equal(one[0].images, other[0].images)
