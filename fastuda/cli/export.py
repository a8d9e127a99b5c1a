"""A run's network as one file of weights: ``python -m fastuda.export WORK_DIR --output weights.safetensors``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastuda.models import save_weights
from fastuda.train.restore import Restored, one_sentence, restore

FORMAT = "1"


def export(restored: Restored, path: Path) -> None:
    """Write the network that predicts as safetensors, which ``model.weights`` and other libraries read.

    The metadata, all text: ``fastuda``, the version of this format; ``method``; ``classes``, a JSON list of names in
    the order of the outputs; ``network``, the settings that build it, as JSON; ``domain``, the one whose running
    statistics predict if batch norm has one set for each domain: "target", or "source" for a run without a target.
    Raises ValueError for a path of another suffix and OSError if it cannot be written; an existing file is then kept.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"--output must be a file named *.safetensors, not {path}")
    config, method = restored.config, restored.method
    about = {
        "fastuda": FORMAT,
        "method": config.method,
        "classes": json.dumps(list(restored.classes.names)),
        "domain": "target" if method.has_target_statistics else "source",
    }
    save_weights(method.networks().student, path, config.model, about)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fastuda.export", description=__doc__)
    parser.add_argument("work_dir", type=Path, help="directory of a training run")
    parser.add_argument("--output", type=Path, default=Path("weights.safetensors"), help="the file to write")
    options = parser.parse_args(arguments)
    with one_sentence():
        export(restore(options.work_dir), options.output)
        print(options.output)
