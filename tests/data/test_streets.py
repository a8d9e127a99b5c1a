"""The embedded data: the same pictures everywhere, two looks of one kind of world, rare classes there and rare."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest

from fastuda.data.classes import class_set
from fastuda.data.streets import Streets

COMMON = class_set("common11")

# (look, split, world seed, size, index) -> CRC-32 of image and label. A change here changes every published figure on
# `streets`, so it must be on purpose: print the new table with `python tests/data/test_streets.py`.
GOLDEN = {
    ("rendered", "train", 0, (96, 192), 0): (754996150, 620101054),
    ("rendered", "train", 0, (96, 192), 17): (2450940941, 123598275),
    ("rendered", "val", 3, (61, 130), 5): (86672070, 2331892680),
    ("camera", "train", 0, (96, 192), 0): (2494123668, 3287201432),
    ("camera", "val", 18446744073709551615, (96, 192), 2): (3935487744, 755527953),
    ("camera", "val", 3, (128, 64), 1): (1219945338, 1185841589),
}


def streets(look: str = "rendered", split: str = "train", seed: int = 0, size=(96, 192), count: int = 100) -> Streets:
    return Streets(COMMON, look=look, split=split, count=count, seed=seed, size=size)


def checksums(look: str, split: str, seed: int, size: tuple[int, int], index: int) -> tuple[int, int]:
    scenes = streets(look, split, seed, size)
    return zlib.crc32(scenes.image(index).tobytes()), zlib.crc32(scenes.label(index).tobytes())


@pytest.mark.parametrize("scene", GOLDEN)
def test_pictures_are_the_published_ones(scene):
    assert checksums(*scene) == GOLDEN[scene]


def test_another_process_draws_the_same():
    scene = ("camera", "train", 0, (96, 192), 0)
    code = "import zlib; from fastuda.data.classes import class_set; from fastuda.data.streets import Streets\n"
    code += "print(zlib.crc32(Streets(class_set('common11'), look='camera').image(0).tobytes()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) == checksums(*scene)[0]


@pytest.mark.parametrize("look", ["rendered", "camera"])
def test_a_scene_does_not_depend_on_what_was_asked_before(look):
    forward, backward = streets(look), streets(look, count=7)
    images = [forward.image(i) for i in range(5)]
    labels = [forward.label(i) for i in range(5)]
    for i in reversed(range(5)):
        assert np.array_equal(backward.label(i), labels[i])
        assert np.array_equal(backward.image(i), images[i])
        assert np.array_equal(backward.image(i), images[i])


def test_images_are_the_callers_own():
    scenes = streets()
    before = scenes.image(0).copy(), scenes.label(0).copy()
    scenes.image(0)[:] = 0
    scenes.label(0)[:] = 0
    assert np.array_equal(scenes.image(0), before[0]) and np.array_equal(scenes.label(0), before[1])


def test_splits_looks_seeds_and_indices_never_share_a_scene():
    sets = [
        streets(look, split, seed) for look in ("rendered", "camera") for split in ("train", "val") for seed in (0, 1)
    ]
    labels = [scenes.label(i).tobytes() for scenes in sets for i in range(15)]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("look", ["rendered", "camera"])
@pytest.mark.parametrize("size", [(32, 32), (33, 257), (96, 192), (200, 40)])
def test_shapes_types_and_no_numerical_warning(look, size):
    scenes = streets(look, size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(6):
            image, label = scenes.image(i), scenes.label(i)
            assert image.shape == (*size, 3) and image.dtype == np.uint8
            assert label.shape == size and label.dtype == np.uint8
            assert set(np.unique(label).tolist()) <= {*range(COMMON.num_classes), 255}
            assert image.std() > 15


def test_native_size_and_protocol():
    scenes = Streets(COMMON, look="camera", split="val", count=9, size=(0, 0))
    assert len(scenes) == 9 and scenes.labelled and scenes.classes is COMMON
    assert scenes.image(8).shape == (96, 192, 3)
    assert len({scenes.name(i) for i in range(9)}) == 9
    assert scenes.name(np.int64(3)) == "camera_val_0_000003"


@pytest.mark.parametrize("look", ["rendered", "camera"])
def test_a_larger_size_shows_the_same_street(look):
    small, large = streets(look, size=(96, 192)), streets(look, size=(192, 384))
    for i in range(4):
        agree = np.mean(small.label(i) == large.label(i)[::2, ::2])
        assert agree > 0.85, (i, agree)


@pytest.mark.parametrize("look", ["rendered", "camera"])
def test_all_classes_appear_and_rare_ones_are_rare(look):
    scenes = streets(look)
    labels = np.stack([scenes.label(i) for i in range(50)])
    share = dict(zip(COMMON.names, np.bincount(labels.ravel(), minlength=256)[:11] / labels.size, strict=True))
    assert 0.20 < share["road"] < 0.40
    assert 0.15 < share["building"] < 0.45
    for name in ("sidewalk", "vegetation", "sky", "vehicle"):
        assert 0.02 < share[name] < 0.20, (name, share[name])
    for name in ("fence", "pole", "sign", "person", "rider"):
        assert 0.002 < share[name] < 0.035, (name, share[name])
    ignored = np.mean(labels == 255)
    assert 0.001 < ignored < 0.10


def test_the_two_looks_differ():
    """Brightness in general, hue in particular, fine texture most of all."""
    rendered, camera = (
        np.stack([streets(look).image(i) for i in range(20)]).astype(float) for look in ("rendered", "camera")
    )
    colourful = [np.mean(images.max(-1) - images.min(-1)) for images in (rendered, camera)]
    still = [np.mean(images[:, :, 1:] == images[:, :, :-1]) for images in (rendered, camera)]
    assert colourful[0] > 1.5 * colourful[1]
    assert still[0] > 0.6 and still[1] < 0.3


def test_other_class_sets_take_their_labels_from_the_same_street():
    fine, coarse = Streets(class_set("cityscapes19"), count=5), Streets(COMMON, count=5)
    for i in range(5):
        train_ids = fine.label(i)  # in this set a class index is the train id
        assert np.array_equal(COMMON.lut[train_ids], coarse.label(i))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"look": "painted"}, "look must be one of rendered, camera, not 'painted'"),
        ({"split": "test"}, "split must be one of train, val, not 'test'"),
        ({"split": ""}, "split must be one of train, val, not ''"),
        ({"count": 0}, "count must be between 1 and 1048576 scenes, not 0"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"size": (31, 192)}, "size must be (height, width), each 32 to 8192 pixels, not (31, 192)"),
        ({"size": (96,)}, "size must be (height, width)"),
    ],
)
def test_bad_arguments_are_named(change, words):
    with pytest.raises(ValueError) as error:
        Streets(COMMON, **change)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_bad_index_is_named(index):
    scenes = streets(count=4)
    for ask in (scenes.image, scenes.label, scenes.name):
        with pytest.raises(ValueError, match=f"index must be between 0 and 3, not {index}"):
            ask(index)


if __name__ == "__main__":
    for scene in GOLDEN:
        print(f"    {scene}: {checksums(*scene)},".replace("'", '"'))
