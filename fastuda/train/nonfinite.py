"""The first loss that is not finite: seen without a wait in every step, and left in a file that tells where it is from.

The device holds a flag, ``LossScale.broken``, that no step outlives: from a bad loss on the weights stay as they were.
A step's flag travels to the host behind the step and is looked at once it is there, a step or so later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fastuda.data.batch import Batch
from fastuda.ranks import rank, total, world
from fastuda.train import distributed
from fastuda.train.checkpoint import write_atomically
from fastuda.train.meter import NonFiniteLoss

FILE = "nonfinite.pt"
KEPT = 4  # steps whose flag may be under way; the next one waits for the first of them
MOST = 2**30  # bytes of operators' inputs in the file

Batches = list[Batch | None]
See = Callable[[int, Batches], Batches]  # the batches of a draw as the network sees them


@dataclass
class Taken:
    """A step: what the loaders gave for it, part by part of an accumulated batch, and what came of it.

    bad: the flag on the host, ``ready`` when it is there.
    """

    iteration: int
    batches: list[tuple[int, Batches]] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    bad: Tensor | None = None
    ready: Any = None


class Watch:
    """The last steps of a stage, until their flags are known.

    What it keeps is on the host, as the loaders made it: it costs the device nothing but a number a loss.
    """

    def __init__(self) -> None:
        self.steps: deque[Taken] = deque(maxlen=KEPT)

    def begin(self, iteration: int) -> None:
        """A step follows, the one that makes it ``iteration`` iterations."""
        self.steps.append(Taken(iteration))

    def batches(self, draw: int, batches: Batches) -> None:
        """What a part of the step is about to see; draw: the number that its augmentation follows from."""
        self.steps[-1].batches.append((draw, batches))

    def losses(self, losses: Mapping[str, Tensor]) -> None:
        summed = self.steps[-1].losses
        for name, loss in losses.items():
            loss = loss.detach().float()
            summed[name] = summed[name] + loss if name in summed else loss

    def end(self, broken: Tensor) -> None:
        """The step is over; broken: its flag on the device."""
        step = self.steps[-1]
        if broken.device.type == "cuda":
            step.bad = torch.empty((), dtype=broken.dtype, pin_memory=True).copy_(broken, non_blocking=True)
            step.ready = torch.cuda.Event()
            step.ready.record()
        else:
            step.bad = broken.clone()

    def first_bad(self, wait: bool) -> Taken | None:
        """The first step that is known to be bad; wait: until the flags of all are here."""
        # The oldest is about to be forgotten.
        if len(self.steps) == KEPT:
            self._known(self.steps[0], wait=True)
        return next((step for step in self.steps if self._known(step, wait) and step.bad), None)

    @staticmethod
    def _known(step: Taken, wait: bool) -> bool:
        if step.bad is None:
            return False
        if step.ready is not None and wait:
            step.ready.synchronize()
        return step.ready is None or step.ready.query()


class Recorder(TorchDispatchMode):
    """Copies what goes into the operators of this package, up to the first that takes in or gives out a bad number."""

    def __init__(self, most: int = MOST) -> None:
        super().__init__()
        self.left, self.over = most, False
        self.calls: list[dict[str, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace != "fastuda" or self.over:
            return func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        call = {"operator": func._opname, "inputs": {name: self._kept(value) for name, value in given.items()}}
        self.calls.append(call)
        call["finite_inputs"] = all(map(_finite, tree_leaves(given)))
        out = func(*args, **kwargs)
        call["finite_outputs"] = all(map(_finite, tree_leaves(out)))
        self.over = not (call["finite_inputs"] and call["finite_outputs"])
        return out

    def _kept(self, value: Any) -> Any:
        return tree_map(self._kept_leaf, value)

    def _kept_leaf(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value if isinstance(value, int | float | str | None) else str(value)
        size = value.numel() * value.element_size()
        if size > self.left:
            return f"left out: {value.dtype} {tuple(value.shape)}, {size} bytes"
        self.left -= size
        return value.detach().to("cpu", copy=True)


def _bad(value: float) -> bool:
    return not abs(value) < float("inf")


def _finite(value: Any) -> bool:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return not floating or bool(value.isfinite().all())


def fail(watch: Watch, about: Mapping[str, Any], see: See, again: Callable[[Taken], None], checkpoint: Path) -> None:
    """End the run: write the first bad step down beside the checkpoint and raise NonFiniteLoss, on all ranks.

    about: what else the file tells, "stage" among it; again: takes a step once more, without gradient.
    """
    bad = watch.first_bad(wait=True)
    iteration = -distributed.largest(-(bad.iteration if bad else watch.steps[-1].iteration))
    step = next(step for step in watch.steps if step.iteration == iteration)
    values, own = _values(step), _own(step)
    # A term over the images of all ranks is bad on all of them: it is where most terms are that the bad image is.
    knows = world() * sum(map(_bad, own.values())) + world() - 1 - rank()
    tells = knows == distributed.largest(knows)
    # Ranks talk to each other inside a step: all of them take it again, and one of them writes.
    content = {**about, "iteration": iteration, "losses": own, **_taken_again(step, see, again)}
    path = checkpoint.with_name(FILE)
    told = f"the batch, the losses and what went into the operators are in {path}"
    if tells:
        try:
            write_atomically(path, lambda file: torch.save(content, file))
        except OSError as error:
            told = str(error)
    name = next((name for name, value in values.items() if _bad(value)), "sum")
    raise NonFiniteLoss(
        f"the loss '{name}' is {values.get(name, sum(values.values()))} in stage {about['stage']} at iteration "
        f"{iteration}; the last good state is in {checkpoint}; {told}"
    )


def _taken_again(step: Taken, see: See, again: Callable[[Taken], None]) -> dict[str, Any]:
    """What the step saw and what went into its operators; "error": why it could not be taken to its end again."""
    recorder, found = Recorder(), {"batches": [], "error": ""}
    try:
        for draw, batches in step.batches:
            shown = zip(("source", "target"), see(draw, batches), strict=True)
            found["batches"].append({"draw": draw} | {domain: _plain(batch) for domain, batch in shown})
        with recorder:
            again(step)
    except Exception as error:
        # Whatever else is wrong with this batch, the loss is what the user has to hear of.
        found["error"] = f"{type(error).__name__}: {error}"
    return found | {"operators": recorder.calls}


def _plain(batch: Batch | None) -> dict[str, Tensor] | None:
    if batch is None:
        return None
    parts = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return {name: part.to("cpu", copy=True) for name, part in parts.items() if part is not None}


def _own(step: Taken) -> dict[str, float]:
    return {name: loss.item() for name, loss in step.losses.items()}


def _values(step: Taken) -> dict[str, float]:
    """The losses of the step, the mean over the ranks."""
    if world() == 1 or not step.losses:
        return _own(step)
    summed = total(torch.stack([*step.losses.values()])) / world()
    return dict(zip(step.losses, summed.tolist(), strict=True))
