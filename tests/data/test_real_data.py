"""T1 and T3 on the real images, where they are."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fastuda.data.build import build_domains
from fastuda.data.check import data_config
from fastuda.data.config import Augment
from fastuda.data.loader import loader
from fastuda.data.stream import EvalStream, TrainStream

_GIVEN = os.environ.get("FASTUDA_DATA", "")
DATA = Path(_GIVEN) if _GIVEN else Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not (DATA / "camvid").is_dir() or not (DATA / "carla").is_dir(),
    reason="the real data are neither in $FASTUDA_DATA nor in ../shared/data",
)


@pytest.fixture(autouse=True)
def _root(monkeypatch):
    monkeypatch.setenv("FASTUDA_DATA", str(DATA))


@pytest.mark.parametrize(
    ("task", "counts", "source_shape"),
    [("carla_camvid", (415, 305, 171), (496, 800)), ("day_dusk", (476, 58, 62), (360, 480))],
)
def test_tasks(task, counts, source_shape):
    config = data_config(task)
    domains = build_domains(config)
    assert tuple(len(d) for d in domains) == counts
    assert domains.source.image(0).shape == (*source_shape, 3) and domains.source.label(0).shape == source_shape
    assert not domains.target.labelled
    options = {"batch": 4, "seed": 0, "stage": 0, "augment": Augment(crop=(160, 160), scale=(0.75, 1.25), flip=0.5)}
    source = next(loader(TrainStream(domains.source, size=config.source.size, domain=0, **options), 0, 1))
    target = next(loader(TrainStream(domains.target, size=config.target.size, domain=1, **options), 0, 1))
    assert source.images.shape == target.images.shape == (4, 3, 160, 160) and target.labels is None
    seen = set(np.unique(source.labels)) - {255}
    assert len(seen) >= 5 and max(seen) < domains.source.classes.num_classes
    scored = EvalStream(domains.validation, config.validation.size)[0]
    assert scored.images.shape == (1, 3, 180, 240) and scored.labels.shape == (1, 360, 480)
