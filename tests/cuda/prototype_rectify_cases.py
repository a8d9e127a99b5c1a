"""Cases for prototype_rectify.cu under the emulation: labels against float64's products; see cases.py."""

from __future__ import annotations

import dense_room
import torch
from dense_room import DTYPES, F32, F64, bind
from near_labels import LAYOUTS, SIZES, ULP, assert_labels, lay_out, logits, upsample
from torch import Tensor

from fastuda.reference.prototype_rectify import prototype_rectify as reference


def run(library, scores: Tensor, soft: Tensor, size, temperature=1.0, align_corners=True, seed=1) -> Tensor:
    label = dense_room.nonsense((scores.shape[0], *size), torch.uint8)
    option = dense_room.options(
        scores, size, other=soft, seed=seed, temperature=temperature, align_corners=align_corners
    )
    dense_room.call(library, "prototype_rectify", option, (scores, soft), (label,))
    return label


def soft_labels(*shape: int, dtype: torch.dtype = F32) -> Tensor:
    return logits(*shape, seed=1).softmax(1).to(dtype)


def check(
    library, shape=(2, 7, 9, 13), size=(37, 50), dtype=F32, layout="nchw", *, other=(8, 11), soft_dtype=F32,
    soft_layout="nchw", temperature=1.0, align_corners=True, schedules=(1,), scale=3.0,
) -> None:  # fmt: skip
    """other: the size of the soft labels."""
    scores = lay_out(logits(*shape, scale=scale).to(dtype), layout)
    soft = lay_out(soft_labels(*shape[:2], *other, dtype=soft_dtype), soft_layout)
    labels = [run(library, scores, soft, size, temperature, align_corners, seed) for seed in schedules]
    up, share = (upsample(x, size, align_corners) for x in (scores, soft))
    keys = up / temperature + share.log()
    unit = torch.finfo(F64).eps * 4 if dtype == F64 else ULP
    largest = 1.0
    if up.numel():
        largest = max(1.0, (up.abs().max() / temperature).item() + share[share > 0].log().abs().max().item())
    assert_labels(labels[0], keys, 6 * unit * largest)
    assert all(torch.equal(labels[0], other) for other in labels[1:]), "another schedule gave other labels"


def check_odd(library, value: float, where: int, cls: int) -> None:
    """Values that are not finite in one of the two: no label where the definition has none."""
    pair = [logits(1, 5, 6, 7), soft_labels(1, 5, 6, 7)]
    pair[where][0, cls, 2, 3] = pair[where][0, 3, 4, 5] = pair[where][0, cls, 4, 5] = value
    pair[where][0, :, 5, 0] = value
    for size in ((24, 28), (6, 7), (21, 40)):
        for align_corners in (True, False):
            label = run(library, *pair, size, 1.0, align_corners)
            truth = reference(*pair, *size, 1.0, align_corners)
            assert torch.equal(label == 255, truth == 255), "no label elsewhere"
            assert (label != truth).sum() <= 1, f"{(label != truth).sum()} labels differ"


def check_least(library) -> None:
    """A class without probability never wins over one with, however unlikely; none has any: no label."""
    for least in (1e-3, 1e-38, 1e-44):
        for gap in (10.0, 5000.0):
            scores, soft = torch.zeros(1, 4, 1, 20), torch.zeros(1, 4, 1, 20)
            scores[:, 2] = -gap
            soft[:, 2] = least
            assert (run(library, scores, soft, (3, 41)) == 2).all()
            soft[:, 0] = -0.5
            assert (run(library, scores, soft, (3, 41)) == 2).all(), "a share below 0 wins"
            soft[:, 3] = least
            assert (run(library, scores, soft, (3, 41)) == 3).all()
    soft = soft_labels(1, 4, 6, 8)
    soft[:, :, :3] = 0
    found = run(library, logits(1, 4, 6, 8), soft, (6, 8))
    assert (found[:, :3] == 255).all() and (found[:, 3:] < 4).all()


def check_ties(library) -> None:
    scores = logits(1, 1, 4, 5).expand(-1, 5, -1, -1).clone()
    soft = soft_labels(1, 5, 4, 5)[:, :1].expand(-1, 5, -1, -1).clone()
    scores[:, 0] -= 1
    soft[:, 1] *= 0.5
    assert (run(library, scores, soft, (17, 40)) == 2).all(), "not the lowest of equals"


def _cases():
    for i, dtype in enumerate(DTYPES):
        for j, layout in enumerate(LAYOUTS):
            soft_dtype, soft_layout = DTYPES[(i + j) % 4], LAYOUTS[(j + 1 + i) % len(LAYOUTS)]
            name = f"{str(dtype)[6:]}, {layout}, soft {str(soft_dtype)[6:]}, {soft_layout}"
            case = dict(shape=(2, 19, 5, 8), size=(27, 45), dtype=dtype, layout=layout, align_corners=bool(j % 2))
            yield name, case | dict(soft_dtype=soft_dtype, soft_layout=soft_layout)
    for i, (source, size) in enumerate(SIZES):
        for align_corners in (True, False):
            case = dict(shape=(2, 5, *source), size=size, align_corners=align_corners)
            yield f"{source} to {size}, align {align_corners}", case | dict(other=SIZES[i - 3][0])
    for classes in (1, 2, 150, 255):
        yield f"{classes} classes", dict(shape=(1, classes, 4, 9), size=(11, 23), other=(3, 3), scale=0.5)
    for temperature in (0.08, 30.0):
        yield f"temperature {temperature}", dict(temperature=temperature, scale=0.5)
    for rows in (1, 3, 4, 5, 8):
        yield f"{rows} rows", dict(shape=(2, 3, 4, 3), size=(rows, 5))
    yield "a block and a thread", dict(shape=(1, 3, 2, 30), size=(4, 129))
    yield "images", dict(shape=(9, 3, 4, 5), size=(13, 17))
    yield "no image", dict(shape=(0, 3, 4, 5), size=(13, 17))
    yield "schedules", dict(schedules=(1, 2, 3))


RECTIFY = {name: bind(check, case) for name, case in _cases()}
RECTIFY |= {
    f"{value} in {('scores', 'soft')[where]} of class {cls}": bind(check_odd, dict(value=value, where=where, cls=cls))
    for value in (torch.nan, torch.inf, -torch.inf)
    for where in (0, 1)
    for cls in (0, 4)
}
RECTIFY |= {"the least probabilities": check_least, "ties": check_ties}
TABLES = {"prototype_rectify": RECTIFY}
