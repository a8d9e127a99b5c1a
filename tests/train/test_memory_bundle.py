"""--memory: settings for a card that keep the recipe's effective batch."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fastuda.methods import METHODS
from fastuda.train.config import config_from_dict, task_config, to_dict
from fastuda.train.memory.bundle import BUNDLES, batches, bundled, split_batches

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("card", BUNDLES)
@pytest.mark.parametrize("method", METHODS)
def test_the_effective_batch_stays_and_twice_is_once(method, card, preset):
    config = task_config("gta5_cityscapes", method, preset)
    found = bundled(replace(config, memory=card))
    assert [b * found.accumulate for b in batches(found)] == [b * config.accumulate for b in batches(config)]
    assert min(batches(found)) >= 1 and found.amp
    assert bundled(found) == found
    assert config_from_dict(to_dict(found), "there and back") == found


def test_what_a_bundle_sets():
    config = task_config("gta5_cityscapes", "sdca")
    found = bundled(replace(config, memory="8g"))
    assert (found.accumulate, batches(found), found.model.checkpointing, found.pass_batch) == (4, [1, 1, 1], True, 1)
    assert bundled(replace(config, memory="11g")).model.checkpointing is False
    assert (found.mlsl, found.cpsl, found.views, found.optimiser) == (
        config.mlsl,
        config.cpsl,
        config.views,
        config.optimiser,
    )
    assert bundled(config) is config


def test_limits():
    # CutMix makes one image of two.
    assert batches(bundled(replace(task_config("gta5_cityscapes", "cpsl"), memory="8g"))) == [2, 2, 2]
    # The small network recomputes nothing.
    unet = bundled(replace(task_config("streets", "sdca"), memory="8g"))
    assert unet.model.name == "unet" and not unet.model.checkpointing


def test_batches_without_a_common_divisor_stay():
    config = task_config("gta5_cityscapes", "sdca")
    odd = replace(config, warm_up=replace(config.warm_up, schedule=replace(config.warm_up.schedule, batch=3)))
    assert batches(odd)[0] == 3 and split_batches(odd, 1) == odd
    assert batches(split_batches(config, 3)) == [2, 2, 2] and split_batches(config, 8) == config
    assert split_batches(replace(config, accumulate=2), 1).accumulate == 8


def test_the_bundles_are_forecast_to_fit_their_cards():
    rows = json.loads((ROOT / "benchmarks/results/memory_forecast.json").read_text())
    found = {(row["method"], row["settings"]): row for row in rows if row["form"] == "ours"}
    for card in BUNDLES:
        told = [row for (_, name), row in found.items() if name == f"memory {card}"]
        assert told and all(row["card_mib"] <= 0.75 * 1024 * int(card[:-1]) for row in told)
    for method in METHODS.keys() - {"oracle"}:
        assert {(method, "memory 8g"), (method, "memory 11g")} <= set(found)
    usual = next(row for row in rows if row["form"] == "usual")
    assert found["sdca", "memory 11g"]["peak_mib"] <= 8 * 1024 < usual["peak_mib"]
