"""Peak memory of a training run, forecast without a GPU or measured on one.

    python -m fastuda.memory --method sdca --amp --card 11g

Takes every option of ``python -m fastuda.train`` beside its own; the task is gta5_cityscapes unless another is named.
No data set has to exist.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fastuda.train.checkpoint import write_json
from fastuda.train.config import Config, parse
from fastuda.train.memory.bundle import bundled, split_batches
from fastuda.train.memory.forecast import card_bytes, forecast, remedies
from fastuda.train.memory.measure import measure, measured_json, print_measured
from fastuda.train.memory.report import as_json, headline, print_forecast, save_png
from fastuda.train.restore import one_sentence


def arguments(given: Sequence[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """This command's own options, and the configuration of the run from all others."""
    parser = argparse.ArgumentParser(
        prog="python -m fastuda.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--card", default="11g", help="memory of the card in GiB, such as 8g, 11g, 16g or 24g")
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        help="images of each domain in a batch; more are accumulated to the recipe's batch. 0 = the recipe's batch",
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--png", type=Path, help="draw the forecast memory over time to this picture")
    parser.add_argument("--no-remedies", action="store_true", help="skip the forecasts of what each remedy would save")
    parser.add_argument("--measure", action="store_true", help="run on this machine's GPU, with no more than --card")
    parser.add_argument("--snapshot", type=Path, help="with --measure: write the allocator's history to this file")
    options, others = parser.parse_known_args(given)
    if "--task" not in " ".join(others).replace("=", " ").split():
        others = ["--task", "gta5_cityscapes", *others]
    if options.batch < 0:
        raise ValueError(f"--batch must be at least 1, or 0 for the recipe's, not {options.batch}")
    if options.snapshot and not options.measure:
        raise ValueError("--snapshot needs --measure: a forecast allocates nothing")
    if options.png and options.measure:
        raise ValueError("--png draws a forecast, not --measure: pytorch.org/memory_viz draws a --snapshot")
    card_bytes(options.card)
    config = bundled(parse(others))
    if options.batch and not config.memory:
        config = split_batches(config, options.batch)
    return options, config


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    console = Console()
    with one_sentence():
        options, config = arguments(given)
        if options.measure:
            console.print(headline(config), highlight=False, soft_wrap=True)
            phases = measure(config, options.card, options.snapshot)
            print_measured(console, phases)
            values = {
                "kind": "measured",
                "what": headline(config),
                "card": options.card,
                "phases": measured_json(phases),
            }
        else:
            found = forecast(config)
            changes = [] if options.no_remedies else remedies(config, found.owner)
            print_forecast(console, config, found, options.card, changes)
            values = as_json(config, found, options.card, changes)
            if options.png:
                save_png(options.png, found, options.card, headline(config))
        if options.json:
            write_json(options.json, values)
