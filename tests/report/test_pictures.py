"""Photo, prediction, truth and error: of a real run's validation images, and of what it saved."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pages
import pytest
from PIL import Image

from fastuda.metrics.confusion import ConfusionMatrix
from fastuda.report import read_run, run_page
from fastuda.report.pictures import WIDEST, WRONG, _chosen, errors, image, of_target, of_validation, reduced, saved
from fastuda.train.restore import restore


def test_the_validation_split_gives_the_scores_of_the_run_and_its_extremes(real_run):
    restored, run = restore(real_run), read_run(real_run)
    pictures = of_validation(restored)
    assert run.confusion == pictures.confusion
    matrix = ConfusionMatrix(restored.classes.num_classes)
    matrix.matrix += matrix.matrix.new_tensor(pictures.confusion)
    assert matrix.scores(restored.classes).miou == pytest.approx(run.stages[-1]["miou"], abs=1e-12)
    ranks = [shown.caption.split(":")[0] for shown in pictures.shown]
    right = [float(re.search(r"([\d.]+)% of", shown.caption)[1]) for shown in pictures.shown]
    assert ranks == ["best", "best", "median", "median", "worst", "worst"] and right == sorted(right, reverse=True)
    titles = [title for title, _ in pictures.shown[0].panels]
    assert titles == ["photo", "prediction", "truth", "error"]
    for shown, share in zip(pictures.shown, right, strict=True):
        panels = dict(shown.panels)
        wrong, void = ((panels["error"] == rgb).all(2).mean() for rgb in (WRONG, (0, 0, 0)))
        assert 100 * (1 - wrong / (1 - void)) == pytest.approx(share, abs=0.06)
    root = pages.checked(run_page(run, pictures))
    images = list(pages.sections(root)["Images"].iter("img"))
    assert len(images) == 24 and len(pages.cells(pages.sections(root)["Confusion matrix"])) == 12
    assert "labels" in pages.words(pages.sections(root)["Pseudo labels"])


def test_without_labels_the_target_is_shown_with_its_confidence(real_run):
    shown = of_target(restore(real_run), count=3).shown
    assert len(shown) == 3 and [title.split(",")[0] for title, _ in shown[0].panels] == [
        "photo",
        "prediction",
        "confidence",
    ]
    grey = shown[0].panels[2][1]
    assert (grey[..., 0] == grey[..., 1]).all() and grey.max() > 0


def test_saved_comparisons_are_split_and_their_errors_drawn(make_run):
    (shown,) = saved(read_run(make_run()).pictures).shown
    assert shown.caption == "00000.png: 75.0% of its labelled pixels are right"
    error = dict(shown.panels)["error"]
    assert (error[0, :4] == WRONG).all() and (error[:, 4:] == 0).all() and (error[1:, :4] == error[1, 0]).all()


def test_a_picture_that_is_no_comparison_is_named(make_run):
    directory = make_run()
    Image.new("RGB", (7, 4)).save(directory / "predictions" / "00001.png")
    with pytest.raises(ValueError, match="00001.png is no comparison"):
        saved(read_run(directory).pictures)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 9])
def test_no_image_is_shown_twice(count):
    scores = [(number / 10, number) for number in range(count)]
    found = _chosen(scores)
    assert len({number for _, _, number in found}) == len(found) == min(count, 6)
    assert [score for _, score, _ in found] == sorted((score for _, score, _ in found), reverse=True)
    if count >= 2:
        assert found[0][0] == "best" and found[-1][2] == 0


def test_an_error_map_keeps_the_photo_pale():
    photo = np.zeros((1, 3, 3), np.uint8)
    wrong, labelled = np.array([[False, True, False]]), np.array([[True, True, False]])
    assert errors(photo, wrong, labelled).tolist() == [[[160] * 3, list(WRONG), [0] * 3]]


def test_panels_are_small_and_mix_no_colours():
    pixels = np.random.default_rng(0).integers(0, 2, (10, 3 * WIDEST, 3), np.uint8) * 255
    small = reduced(pixels)
    assert small.shape == (4, WIDEST, 3) and set(np.unique(small)) <= {0, 255}
    source = re.search(r'src="data:image/png;base64,([^"]*)"', image("truth", small))[1]
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) == small).all()
    assert "data:image/jpeg" in image("photo", small)
