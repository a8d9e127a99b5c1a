"""The first loss that is not finite: noticed without waiting for the device, and written to a file with its inputs.

The device holds a flag, ``LossScale.broken``: once a loss is not finite, all later updates are skipped and the weights
stay as they were.  A copy of the flag is sent to the host after each step and read when it has arrived, usually one
step later.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
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
from fastuda.train.step import Batches

FILE = "nonfinite.pt"
PENDING = 4  # steps whose flag may not have arrived yet; one more step waits for the oldest of them
MAX_BYTES = 2**30  # of operators' inputs in the file

Load = Callable[[int], Iterable[tuple[int, Batches]]]
"""Loads the batches of an iteration once more, each with the number that its augmentation is drawn from."""

Recompute = Callable[[int, list[Batches]], None]
"""Computes the losses of an iteration once more, from its batches on the host and without gradients."""


@dataclass
class StepRecord:
    """The losses of a step, summed over its accumulated batches, and its flag.

    iteration: counted from 1.  bad: the flag's copy on the host; it may be read once the event ``arrived`` has passed.
    """

    iteration: int
    losses: dict[str, Tensor] = field(default_factory=dict)
    bad: Tensor | None = None
    arrived: Any = None


class Watch:
    """The last steps of a stage whose flags may not have arrived; a scalar for each loss is all that they hold."""

    def __init__(self) -> None:
        self.steps: deque[StepRecord] = deque(maxlen=PENDING)

    def begin(self, iteration: int) -> None:
        """Step ``iteration``, counted from 1, follows."""
        self.steps.append(StepRecord(iteration))

    def losses(self, losses: Mapping[str, Tensor]) -> None:
        summed = self.steps[-1].losses
        for name, loss in losses.items():
            loss = loss.detach().float()
            summed[name] = summed[name] + loss if name in summed else loss

    def end(self, broken: Tensor) -> None:
        """The step has been taken; broken: its flag on the device."""
        step = self.steps[-1]
        if broken.device.type == "cuda":
            step.bad = torch.empty((), dtype=broken.dtype, pin_memory=True).copy_(broken, non_blocking=True)
            step.arrived = torch.cuda.Event()
            step.arrived.record()
        else:
            step.bad = broken.clone()

    def first_bad(self, wait: bool) -> StepRecord | None:
        """The first step with a loss that is not finite, of those whose flag has arrived; wait: for all flags."""
        # The next step pushes the oldest one out, so that one must be read now.
        if len(self.steps) == PENDING:
            self._has_arrived(self.steps[0], wait=True)
        return next((step for step in self.steps if self._has_arrived(step, wait) and step.bad), None)

    @staticmethod
    def _has_arrived(step: StepRecord, wait: bool) -> bool:
        if step.bad is None:
            return False
        if step.arrived is not None and wait:
            step.arrived.synchronize()
        return step.arrived is None or step.arrived.query()


class Recorder(TorchDispatchMode):
    """Copies the inputs of this package's operators, up to the first call with a number that is not finite."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self.left, self.over = max_bytes, False
        self.calls: list[dict[str, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace != "fastuda" or self.over:
            return func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        given = dict(zip(names, args, strict=False)) | kwargs
        call = {"operator": func._opname, "inputs": {name: self._copy(value) for name, value in given.items()}}
        self.calls.append(call)
        call["finite_inputs"] = all(map(_finite, tree_leaves(given)))
        out = func(*args, **kwargs)
        call["finite_outputs"] = all(map(_finite, tree_leaves(out)))
        self.over = not (call["finite_inputs"] and call["finite_outputs"])
        return out

    def _copy(self, value: Any) -> Any:
        return tree_map(self._copy_leaf, value)

    def _copy_leaf(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value if isinstance(value, int | float | str | None) else str(value)
        size = value.numel() * value.element_size()
        if size > self.left:
            return f"left out: {value.dtype} {tuple(value.shape)}, {size} bytes"
        self.left -= size
        return value.detach().to("cpu", copy=True)


def _is_bad(value: float) -> bool:
    return not math.isfinite(value)


def _finite(value: Any) -> bool:
    floating = isinstance(value, Tensor) and value.is_floating_point()
    return not floating or bool(value.isfinite().all())


def fail(
    watch: Watch,
    about: Mapping[str, Any],
    load: Load,
    recompute: Recompute,
    checkpoint: Path,
) -> None:
    """End the run: write the first bad step to a file beside the checkpoint and raise NonFiniteLoss, on all ranks.

    about: further entries of the file, "stage" among them.
    """
    bad = watch.first_bad(wait=True)
    iteration = -distributed.all_reduce_max(-(bad.iteration if bad else watch.steps[-1].iteration))
    step = next(step for step in watch.steps if step.iteration == iteration)
    mean, local = _mean_over_ranks(step), {name: loss.item() for name, loss in step.losses.items()}
    # A loss over all ranks' images is NaN on every rank; the rank with the most such losses holds the bad image, so it
    # writes the file. Of several, the first one does.
    score = world() * sum(map(_is_bad, local.values())) + world() - 1 - rank()
    writes = score == distributed.all_reduce_max(score)
    # The losses may need sums over the ranks, so that all of them compute them again.
    content = {**about, "iteration": iteration, "losses": local, **_inputs_of(iteration, load, recompute)}
    path = checkpoint.with_name(FILE)
    where = f"the batch, the losses and the inputs of the operators are in {path}"
    if writes:
        try:
            write_atomically(path, lambda file: torch.save(content, file))
        except OSError as error:
            where = str(error)
    name = next((name for name, value in mean.items() if _is_bad(value)), "sum")
    raise NonFiniteLoss(
        f"the loss '{name}' is {mean.get(name, sum(mean.values()))} in stage {about['stage']} at iteration "
        f"{iteration}; the last good state is in {checkpoint}; {where}"
    )


def _inputs_of(iteration: int, load: Load, recompute: Recompute) -> dict[str, Any]:
    """The batches of a step and the inputs of its operators; "error": why they could not all be had again."""
    recorder, found, loaded = Recorder(), {"batches": [], "error": ""}, []
    try:
        for draw, batches in load(iteration):
            loaded.append(tuple(map(_on_host, batches)))
            source, target = map(_as_dict, loaded[-1])
            found["batches"].append({"draw": draw, "source": source, "target": target})
        with recorder:
            recompute(iteration, loaded)
    except Exception as error:
        # Whatever else is wrong with this batch, the loss is what the user has to hear of.
        found["error"] = f"{type(error).__name__}: {error}"
    return found | {"operators": recorder.calls}


def _as_dict(batch: Batch | None) -> dict[str, Tensor] | None:
    if batch is None:
        return None
    parts = {item.name: getattr(batch, item.name) for item in fields(batch)}
    return {name: part for name, part in parts.items() if part is not None}


def _on_host(batch: Batch | None) -> Batch | None:
    # Not Batch.to, which does not wait for the copies to arrive.
    return batch and replace(batch, **{name: part.to("cpu", copy=True) for name, part in _as_dict(batch).items()})


def _mean_over_ranks(step: StepRecord) -> dict[str, float]:
    if not step.losses:
        return {}
    summed = total(torch.stack([*step.losses.values()])) / world()
    return dict(zip(step.losses, summed.tolist(), strict=True))
