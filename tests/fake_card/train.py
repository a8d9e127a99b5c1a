"""fastuda.train on the fake card, every method: a few steps of each stage, the reference forbidden, waits counted.

    python tests/fake_card/train.py [--output train.json] [--methods sdca cpsl] [--no-amp]

Convolutions, matrix products and Fourier transforms are replaced by empty results, as cuDNN, cuBLAS and cuFFT need a
card; all else is the trainer's own.  A step of a method fails if an operator that has a GPU kernel runs as plain
PyTorch, if the driver refuses or objects to a launch, or if the host waits for the device between the batch's arrival
and the optimiser's step.  Numbers that the host reads from the device (scores, shares) are made up, as no kernel wrote
them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_card import card  # noqa: E402

STEPS = 3
# A network and images so small that loading them takes no time; every schedule is cut to STEPS.
SMALL = [
    "--device", "cuda", "--model.name", "deeplab_resnet18", "--model.width", "0.125", "--model.weights", "",
    "--data.source.size", "64", "96", "--data.target.size", "64", "96", "--data.validation.size", "64", "96",
    "--data.source.count", "6", "--data.target.count", "6", "--data.validation.count", "2", "--data.workers", "0",
    "--views.source.crop", "0", "0", "--views.target.crop", "0", "0", "--views.self-training.crop", "0", "0",
    "--cpsl.bank", "600", "--spcl.adversarial.depth", "2", "--mlsl.head-width", "8", "--drsl.channels", "8",
    "--log-every", "100", "--predictions", "0",
]  # fmt: skip


def shortened(config):
    """The configuration with every schedule cut to STEPS iterations of two images, and at most two rounds."""
    import dataclasses

    from fastuda.methods.config import Schedule

    changes = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Schedule):
            changes[item.name] = dataclasses.replace(value, iterations=STEPS, batch=2)
        elif dataclasses.is_dataclass(value):
            changes[item.name] = shortened(value)
        elif item.name == "rounds":
            changes[item.name] = min(value, 2)
    return dataclasses.replace(config, **changes)


def replace_products() -> list:
    """Convolutions, products and Fourier transforms of CUDA tensors give empty results, as wide as the real ones."""
    import torch

    library = torch.library.Library("aten", "IMPL")
    aten = torch.ops.aten

    def on_meta(value):
        if not isinstance(value, torch.Tensor):
            return value
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")

    def like_meta(operator: Callable) -> Callable:
        def run(*arguments, **options):
            result = operator(*map(on_meta, arguments), **options)
            device = next(x.device for x in arguments if isinstance(x, torch.Tensor))
            return torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=device)

        return run

    def convolution_backward(grad, image, weight, bias_sizes, *options):
        wanted = options[-1]
        shapes = (image, weight, image.new_empty(bias_sizes or [grad.shape[1]], dtype=weight.dtype))
        return tuple(torch.empty_like(x) if want else None for x, want in zip(shapes, wanted, strict=True))

    library.impl("convolution", like_meta(aten.convolution.default), "CUDA")
    library.impl("convolution_backward", convolution_backward, "CUDA")
    library.impl("dot", like_meta(aten.dot.default), "CUDA")

    def magnitude(x):
        return torch.empty_like(x, dtype=x.dtype.to_real()) if x.is_complex() else x * x.sign()

    # PyTorch compiles these for complex numbers at run time, which needs more of a driver than a stand-in has.
    library.impl("abs", magnitude, "CUDA")
    library.impl("angle", magnitude, "CUDA")
    for name in ("_fft_r2c", "_fft_c2r", "_fft_c2c"):
        library.impl(name, like_meta(getattr(aten, name).default), "CUDA")
    for name in ("mm", "bmm", "addmm", "baddbmm"):
        library.impl(name, like_meta(getattr(aten, name).default), "CUDA")
        library.impl(f"{name}.out", lambda *arguments, out, **options: out, "CUDA")
    torch.backends.cudnn.enabled = False
    return [library]


def make_up_numbers() -> None:
    """Scores, counts and flags that the host reads: no kernel has written them."""
    import torch

    from fastuda.metrics.confusion import ConfusionMatrix
    from fastuda.train.nonfinite import Watch
    from fastuda.train.optimisers import Optimisers
    from fastuda.train.passes import DataPasses

    scores = ConfusionMatrix.scores

    def some_scores(self, classes):
        self.matrix.copy_(torch.ones(self.matrix.shape, dtype=self.matrix.dtype))
        return scores(self, classes)

    save, first_bad = DataPasses.save_pseudo_labels, Watch.first_bad

    def save_some_labels(self, index, labels):
        save(self, index, labels.cpu().fill_(0))

    def none_bad(self, wait):
        first_bad(self, wait)

    ConfusionMatrix.scores = some_scores
    DataPasses.save_pseudo_labels = save_some_labels
    Watch.first_bad = none_bad
    Optimisers.check = lambda self, *position: None


def pretend_pascal_build() -> None:
    """PyTorch says that it holds code for a GTX 1080 Ti, as its cu126 builds do; without it training must not start."""
    import torch

    from fastuda.train.precision import choose_device

    own = torch.cuda.get_arch_list()
    if not any(arch in own for arch in ("sm_60", "sm_61")):
        try:
            choose_device("cuda")
        except ValueError as error:
            print(f"as it should be, a build without code for the card is refused: {error}", flush=True)
        else:
            raise RuntimeError("a build of PyTorch without code for the card was not refused")
    torch.cuda.get_arch_list = lambda: ["sm_61", *own]


class Steps:
    """Counts waits of the host inside the steps of each stage, apart from everything around them."""

    def __init__(self, driver: card.Driver) -> None:
        self.driver = driver
        self.waits: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.stage = ""

    @contextmanager
    def inside(self) -> Iterator[None]:
        before = Counter(self.driver.record().waits)
        try:
            yield
        finally:
            after = Counter(self.driver.record().waits)
            for function, count in (after - before).items():
                self.waits[f"{self.stage}: {function}"] += count

    @contextmanager
    def watched(self) -> Iterator[None]:
        """The trainer's parts of a step are counted inside the block."""
        from fastuda.train import loop

        run, optimisers, counting = loop.Run, loop.Optimisers, self
        own_losses, own_backward, own_step = run.losses, optimisers.backward, optimisers.step

        def losses(self, stage, draw, batches):
            counting.stage = stage.name
            parts = own_losses(self, stage, draw, batches)
            while True:
                with counting.inside():
                    item = next(parts, None)
                if item is None:
                    return
                yield item

        def backward(self, *arguments):
            with counting.inside():
                own_backward(self, *arguments)

        def step(self):
            counting.taken[counting.stage] += 1
            with counting.inside():
                return own_step(self)

        run.losses, optimisers.backward, optimisers.step = losses, backward, step
        try:
            yield
        finally:
            run.losses, optimisers.backward, optimisers.step = own_losses, own_backward, own_step


def one_method(name: str, amp: bool, folder: Path, driver: card.Driver) -> dict[str, object]:
    """What was seen of one method, from the first stage to the last evaluation."""
    from fake_card import served
    from rich.console import Console

    from fastuda.ops._dispatch import TABLE
    from fastuda.train.config import parse
    from fastuda.train.loop import train

    given = ["--method", name, "--work-dir", str(folder / name), *SMALL, *(["--amp"] if amp else [])]
    config = shortened(parse(given))
    steps, wrong = Steps(driver), []
    driver.begin()
    with warnings.catch_warnings(record=True) as warned, served.served() as found, steps.watched():
        warnings.simplefilter("always")
        try:
            train(config, Console(quiet=True))
        except Exception as error:
            traceback.print_exc()
            wrong.append(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    record = driver.record()
    fell = sorted(form for form, backends in found.items() if "reference" in backends and form in TABLE)
    wrong += [f"{form} runs as plain PyTorch" for form in fell]
    wrong += [f"the host waits in stage {where} ({count} times)" for where, count in steps.waits.items()]
    wrong += list(dict.fromkeys(record.faults))
    return {
        "method": name,
        "amp": amp,
        "steps": dict(steps.taken),
        "launches of ours": record.own,
        "launches of torch": record.others,
        "waits of the whole run": record.waits,
        "forms": {form: sorted(backends) for form, backends in sorted(found.items())},
        "warnings": sorted({str(w.message).splitlines()[0] for w in warned if issubclass(w.category, UserWarning)}),
        "faults": wrong,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file of what was seen")
    parser.add_argument("--methods", nargs="+", help="all of fastuda.methods.METHODS unless given")
    parser.add_argument("--no-amp", action="store_true")
    options = parser.parse_args()
    card.on_the_card()
    from fake_card import served

    from fastuda.methods import METHODS

    served.check_that_falls_are_seen()
    if os.environ["FAKE_CARD"] == "1080ti":
        pretend_pascal_build()
    kept = replace_products()
    make_up_numbers()
    driver, rows = card.Driver(), []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.methods or METHODS:
            row = one_method(name, not options.no_amp, Path(folder), driver)
            rows.append(row)
            print(f"{name}: {sum(row['steps'].values())} steps, {row['launches of ours']} launches of ours", flush=True)
            for fault in row["faults"]:
                print(f"WRONG     {name}: {fault}", flush=True)
    del kept
    if options.output:
        options.output.write_text(json.dumps(rows, indent=1) + "\n")
    return int(any(row["faults"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
