"""What the training check cuts and counts, without a card."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import pytest
from fake_card import card, train

from fastuda.methods import METHODS
from fastuda.methods.config import Schedule
from fastuda.train.config import parse


def schedules(config):
    if isinstance(config, Schedule):
        yield config
    elif dataclasses.is_dataclass(config):
        for item in dataclasses.fields(config):
            yield from schedules(getattr(config, item.name))


@pytest.mark.parametrize("method", METHODS)
def test_every_schedule_of_every_method_is_cut(method):
    config = train.shortened(parse(["--method", method, *train.SMALL]))
    found = list(schedules(config))
    assert len(found) > 5 and {(s.iterations, s.batch) for s in found} == {(train.STEPS, 2)}
    assert max(config.mlsl.rounds, config.drsl.rounds, config.sdca.self_training.rounds) <= 2


def test_waits_are_counted_inside_steps_only():
    waits = Counter()
    steps = train.Steps(SimpleNamespace(record=lambda: card.Record(waits=dict(waits))))
    steps.stage = "adapt"
    waits["cudaMemcpy"] += 5
    with steps.inside():
        waits["cudaStreamSynchronize"] += 2
    with steps.inside():
        pass
    waits["cudaMemcpy"] += 1
    assert steps.waits == {"adapt: cudaStreamSynchronize": 2}
