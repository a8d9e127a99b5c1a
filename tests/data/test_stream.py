"""Streams: the same iteration is the same batch, whoever loads it and when."""

from __future__ import annotations

import multiprocessing
import os

import numpy as np
import pytest
import torch

from fastuda.data.build import build_dataset
from fastuda.data.cache import ImageCache
from fastuda.data.classes import class_set
from fastuda.data.config import Augment, DatasetConfig
from fastuda.data.errors import LostWorker
from fastuda.data.loader import auto_workers, available_cores, loader
from fastuda.data.stream import EvalStream, TrainStream, image_weights

AUGMENT = Augment(crop=(8, 8), scale=(0.7, 1.5), flip=0.5)


@pytest.fixture
def dataset(files):
    files.gta5(".", 7)
    return build_dataset(DatasetConfig("gta5", str(files.root)), class_set("cityscapes19"))


def stream(dataset, **changes):
    options = {"size": (10, 16), "batch": 3, "seed": 0, "stage": 0, "domain": 0, "augment": AUGMENT, **changes}
    return TrainStream(dataset, **options)


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)


def test_batches_have_the_shapes_and_types_of_the_contract(dataset):
    batch = stream(dataset)[0]
    assert batch.images.shape == (3, 3, 8, 8) and batch.images.dtype == torch.uint8
    assert batch.labels.shape == (3, 8, 8) and batch.labels.dtype == torch.uint8
    assert batch.index.shape == (3,) and batch.index.dtype == torch.int64


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_order_of_access_workers_and_cache_change_nothing(dataset):
    expected = [stream(dataset)[t] for t in range(8)]
    backwards = stream(dataset)
    assert all(same(backwards[t], expected[t]) for t in reversed(range(8)))
    for workers in (0, 1, 3):
        for cache in (None, ImageCache(dataset, (10, 16), 0.003), ImageCache(dataset, (10, 16), 1)):
            for _ in range(2 if workers == 0 else 1):
                got = list(loader(stream(dataset, cache=cache), 2, 8, workers))
                assert len(got) == 6
                assert all(same(a, b) for a, b in zip(got, expected[2:], strict=True)), (workers, cache)


def test_every_image_once_an_epoch(dataset):
    ranks = [stream(dataset, rank=r, world=2, batch=2) for r in range(2)]
    seen = [i for t in range(7) for r in ranks for i in r[t].index.tolist()]  # 28 = 4 epochs of 7
    epochs = [seen[k : k + 7] for k in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_data_set(dataset):
    batch = stream(dataset, batch=20)[1]
    assert sorted(stream(dataset, batch=20)[0].index.tolist()[:14]) == sorted([*range(7), *range(7)])
    assert len(batch.index) == 20


@pytest.mark.parametrize("part", ["seed", "stage", "domain"])
def test_every_part_of_the_key_counts(dataset, part):
    a, b = stream(dataset), stream(dataset, **{part: 1})
    assert any(not torch.equal(a[t].index, b[t].index) for t in range(3))


def test_labels_follow_images(dataset):
    plain = stream(dataset, size=(0, 0), augment=Augment())[0]
    for slot, index in enumerate(plain.index.tolist()):
        assert np.array_equal(plain.images[slot].permute(1, 2, 0).numpy(), dataset.image(index))
        assert np.array_equal(plain.labels[slot].numpy(), dataset.label(index))


def test_weights_choose_more_often(dataset):
    weights = np.array([0, 1, 1, 1, 1, 1, 6.0])
    drawn = np.concatenate([stream(dataset, weights=weights).indices(t) for t in range(300)])
    share = np.bincount(drawn, minlength=7) / len(drawn)
    assert share[0] == 0 and 0.45 < share[6] < 0.64
    with pytest.raises(ValueError, match="weights must be 7 finite numbers"):
        stream(dataset, weights=np.ones(6))


def test_image_weights_are_the_formula(files):
    for i, ids in enumerate(([7], [7], [7, 26], [0])):
        files.image(f"images/{i}.png")
        files.label(f"labels/{i}.png", np.resize(ids, (12, 20)))
    dataset = build_dataset(DatasetConfig("gta5", str(files.root)), class_set("cityscapes19"))
    road, car = 1 / np.log(1.01 + 2.5 / 3), 1 / np.log(1.01 + 0.5 / 3)
    rarest_possible = np.log(1.01 + 2.5 / 3)
    expected = np.array([road, road, (road + car) / 2, 1 / rarest_possible])
    for cache in (None, ImageCache(dataset, (12, 20), 1)):
        np.testing.assert_allclose(image_weights(dataset, cache), expected / expected.sum(), rtol=1e-12)


def test_eval_stream_keeps_labels_native(dataset):
    for cache in (None, ImageCache(dataset, (6, 10), 1)):
        evaluation = EvalStream(dataset, (6, 10), cache)
        batches = list(loader(evaluation, 0, len(evaluation), workers=2))
        assert [int(b.index) for b in batches] == list(range(7))
        assert batches[3].images.shape == (1, 3, 6, 10)
        assert np.array_equal(batches[3].labels[0].numpy(), dataset.label(3))


def test_cache_keeps_within_its_budget_and_stops_reading(dataset, files, monkeypatch):
    one = 10 * 16 * 4 / 2**20
    cache = ImageCache(dataset, (10, 16), 2.5 * one)
    for index in range(7):
        cache.load(index)
    read = []
    image = dataset.image
    monkeypatch.setattr(dataset, "image", lambda i: read.append(i) or image(i))
    for index in range(7):
        cache.load(index)
    assert read == [2, 3, 4, 5, 6]
    native = ImageCache(dataset, (0, 0), 1)
    assert native.load(0)[1].shape == (12, 20)
    read.clear()
    assert native.load(0)[0].shape == (12, 20, 3) and read == []
    with pytest.raises(ValueError, match="the cache belongs to another"):
        stream(dataset, size=(4, 4), cache=cache)


def test_a_worker_fills_the_cache_for_everyone(dataset, files):
    cache = ImageCache(dataset, (10, 16), 1)
    list(loader(stream(dataset, cache=cache), 0, 3, workers=2))
    for path in files.root.rglob("*.png"):
        path.unlink()
    assert sum(1 for t in range(3) for _ in stream(dataset, cache=cache)[t].index) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_arrives_as_one_sentence(dataset, files, workers):
    (files.root / "images/00003.png").write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"^the image .*00003\.png cannot be read: it is not an image file$"):
        list(loader(stream(dataset), 0, 4, workers))


def test_a_killed_worker_is_reported_in_a_sentence(dataset):
    class Deadly:
        def __getitem__(self, iteration):
            os.kill(os.getpid(), 9)

    with pytest.raises(LostWorker, match="a data loading process was killed"):
        list(loader(Deadly(), 0, 4, 1))


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "Connection reset by peer"), EOFError(), FileNotFoundError()]
)
def test_a_worker_that_is_killed_while_it_sends(dataset, monkeypatch, error):
    class Cut:
        def __iter__(self):
            return self

        def __next__(self):
            raise error

    monkeypatch.setitem(loader.__globals__, "DataLoader", lambda *_, **__: Cut())
    with pytest.raises(LostWorker, match="a data loading process was killed"):
        list(loader(stream(dataset), 0, 4, 1))


def test_a_mistake_in_a_worker_is_not_taken_for_a_kill(dataset):
    class Wrong:
        def __getitem__(self, iteration):
            raise RuntimeError("a shape of the worker's own")

    with pytest.raises(RuntimeError, match="a shape of the worker's own") as caught:
        list(loader(Wrong(), 0, 4, 1))
    assert not isinstance(caught.value, LostWorker)


def test_leaving_early_ends_the_workers(dataset):
    # Not psutil's children: those include the compiler's workers and the resource tracker of earlier tests, which stay.
    before = set(multiprocessing.active_children())
    batches = loader(stream(dataset), 0, 1000, 2)
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    batches.close()
    for worker in workers:
        worker.join(timeout=60)
    assert not any(worker.is_alive() for worker in workers)


def test_images_of_several_sizes_cannot_share_a_batch(dataset, files):
    files.image("images/00004.png", 9, 9)
    files.label("labels/00004.png", files.ids([7], 9, 9))
    with pytest.raises(ValueError, match="differ in size and cannot share a batch"):
        list(loader(stream(dataset, size=(0, 0), augment=Augment()), 0, 3))
    assert len(list(loader(stream(dataset, size=(0, 0)), 0, 3))) == 3


def test_auto_workers():
    assert auto_workers(-1, "cpu") == 0 and auto_workers(3, "cpu") == 3 and auto_workers(0, "cuda") == 0
    assert auto_workers(-1, "cuda") == min(4, max(0, available_cores() - 1))
    with pytest.raises(ValueError, match="workers must be"):
        auto_workers(-2, "cpu")
