"""The values of each method's presets that differ from the dataclasses' defaults.

``paper``: where a method's paper departs from the defaults that all methods share.  ``released``: where the authors'
published code departs from their paper.  A task file overrides these, and the command line overrides both.  Faults of
published code are not reproduced.
"""

from __future__ import annotations

_RELEASED_SDCA = {
    "model": {"norm": "frozen"},
    "optimiser": {"weight_decay": 5e-4},
    "views": {
        "rare_first": True,
        "self_training": {"scale": [0.5, 1.5], "crop": [512, 1024], "flip": 0.5},
    },
    "warm_up": {"schedule": {"learning_rate": 5e-4, "batch": 1}},
    "sdca": {
        "covariance": "diag",
        "schedule": {"horizon": 1.5625, "batch": 1},
        "self_training": {
            "schedule": {"learning_rate": 5e-4, "batch": 1},
            "threshold_cap": 0.9,
            "restart": True,
            "norm": "trained",
        },
    },
}

_RELEASED_SUPERVISED = {key: value for key, value in _RELEASED_SDCA.items() if key != "sdca"}

_PAPER_SPCL = {"warm_up": {"lovasz": 0.0}}  # L_seg is the cross entropy alone

_PAPER_CPSL = {
    "optimiser": {"weight_decay": 2e-4, "classifier_factor": 5.0},
    "views": {"target": {"crop": [512, 896]}, "source": {"crop": [512, 896]}},
    "warm_up": {"lovasz": 0.0},
}

_RELEASED_CPSL = _PAPER_CPSL | {
    "model": {"decoder": "aspp_se"},
    "cpsl": {
        "samples": 256,
        "balanced": False,
        "share_momentum": 1.0,
        "cross_entropy": 0.1,
        "reverse_cross_entropy": 1.0,
        "regularise": "assignments",
    },
}

_PAPER_MLSL = {
    "model": {"name": "resnet38"},
    "warm_up": {"lovasz": 0.0, "schedule": {"learning_rate": 1e-4, "batch": 2}},
}

_RELEASED_MLSL = _PAPER_MLSL | {"mlsl": {"patches": 25, "whole_image": True, "portion": 0.15}}

# No code of it was released: both presets are the paper's.
_PAPER_DRSL = {
    "optimiser": {"weight_decay": 5e-4},
    "views": {
        "source": {"scale": [0.5, 1.5], "crop": [512, 512], "flip": 0.5},
        "self_training": {"scale": [0.5, 1.5], "crop": [512, 512], "flip": 0.5},
    },
    "warm_up": {"lovasz": 0.0},
}

_RELEASED_SPCL = {
    "model": {"norm": "frozen"},
    "optimiser": {"weight_decay": 5e-4},
    "warm_up": {"lovasz": 0.0, "schedule": {"batch": 1}},
    "spcl": {
        "adversarial": {"depth": 5, "schedule": {"batch": 1}},
        "schedule": {"batch": 1},
        "right_only": True,
        "self_training": {"schedule": {"batch": 1}},
    },
}

PRESETS = ("paper", "released")

SUPERVISED = {"released": _RELEASED_SUPERVISED}
SDCA = {"released": _RELEASED_SDCA}
SPCL = {"paper": _PAPER_SPCL, "released": _RELEASED_SPCL}
CPSL = {"paper": _PAPER_CPSL, "released": _RELEASED_CPSL}
MLSL = {"paper": _PAPER_MLSL, "released": _RELEASED_MLSL}
DRSL = {"paper": _PAPER_DRSL, "released": _PAPER_DRSL}
