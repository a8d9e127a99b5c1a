"""Lines of a run's log, its scores, classes with hostile names, and a task that takes a second."""

from __future__ import annotations

import json

TINY = {
    "data": {
        "classes": "common11",
        "source": {"kind": "streets", "split": "train", "look": "rendered", "count": 4, "size": [32, 64]},
        "target": {
            "kind": "streets", "split": "train", "look": "camera", "count": 4, "size": [32, 64], "labelled": False
        },
        "validation": {"kind": "streets", "split": "val", "look": "camera", "count": 7, "size": [32, 64]},
    },
    "model": {"name": "unet", "width": 0.25},
    "views": {"source": {"crop": [24, 48]}},
    "warm_up": {"schedule": {"iterations": 4, "learning_rate": 0.01, "batch": 2}},
    "sdca": {
        "schedule": {"iterations": 2, "learning_rate": 0.01, "batch": 2},
        "self_training": {"schedule": {"iterations": 2, "learning_rate": 0.01, "batch": 2}},
    },
    "log_every": 1,
    "predictions": 2,
}  # fmt: skip

NAMES = ('road <b>"wet"</b>', "car & van")
CLASSES = {
    "classes": {NAMES[0]: [128, 64, 128], NAMES[1]: [0, 0, 142]},
    "ids": {"a": {"map": {NAMES[0]: 0, NAMES[1]: 1}}},
}


def line(event: str, **values: object) -> str:
    return json.dumps({"event": event, **values}) + "\n"


def trained(stage: str, iteration: int, loss: float) -> str:
    return line("train", stage=stage, iteration=iteration, loss=loss, loss_ce=loss, images_per_s=9.0, peak_mib=100.0)


def scores(name: str, first: float, second: float | None) -> dict:
    iou = dict(zip(NAMES, (first, second), strict=True))
    miou = first if second is None else (first + second) / 2
    return {"name": name, "miou": miou, "iou": iou, "accuracy": 0.9, "mean_accuracy": 0.8}
