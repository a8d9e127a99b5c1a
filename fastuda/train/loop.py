"""The training loop: each stage of a method in turn is prepared, trained, evaluated and saved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from fastuda.methods import build_method
from fastuda.methods.protocol import Losses, Stage
from fastuda.metrics.table import iou_table
from fastuda.ranks import rank, world
from fastuda.train import distributed
from fastuda.train.checkpoint import fill_method, load_run, save_checkpoint, write_json
from fastuda.train.compiled import check_compile, compiled
from fastuda.train.config import Config, difference, to_dict
from fastuda.train.facts import facts
from fastuda.train.inputs import Inputs
from fastuda.train.memory.measure import out_of_memory, record_history
from fastuda.train.meter import LiveLine, Log, Meter, one_line, peak_mib
from fastuda.train.nonfinite import Watch, fail
from fastuda.train.optimisers import Optimisers, draw_seed
from fastuda.train.passes import DataPasses
from fastuda.train.pictures import save_comparison
from fastuda.train.precision import choose_device, choose_precision
from fastuda.train.scoring import evaluate, predict_labels
from fastuda.train.signals import Interrupted, Signals
from fastuda.train.step import Batches, StepListener, TrainingStep, losses_of
from fastuda.train.work_dir import after_restart, choose_work_dir, create_work_dir

NOT_FINITE = 1 << 16  # exchanged between ranks in place of a signal's number, which is always smaller


@dataclass
class Position:
    """How far a run has come; part of the checkpoint."""

    stage: int = 0
    iteration: int = 0
    prepared: bool = False
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """The content of result.json; ``stages`` is a list of {name, miou, iou: {class: value}} on the validation split."""

    method: str
    preset: str
    task: str
    seed: int
    seconds: float
    peak_mib: float
    stages: list[dict[str, Any]]


def train(config: Config, console: Console | None = None, on_finish: Callable[[Path], object] | None = None) -> Result:
    """Run, or resume, what ``config`` describes and leave everything in its working directory.

    on_finish: called with that directory when all is written, in the first process alone.
    Raises ValueError for bad input, NonFiniteLoss for a loss that is NaN or infinite, OSError when the directory cannot
    be written, LostRank when another process of the run ended, and Interrupted after a signal; the last checkpoint is
    intact after each of them.
    """
    with distributed.ranks(config.device), Signals() as signals:
        console = (console or Console()) if distributed.is_first() else Console(quiet=True)
        config = distributed.first_decides(lambda: after_restart(config))
        work_dir = distributed.first_decides(lambda: choose_work_dir(config))
        run = distributed.together(lambda: Run(config, work_dir, console, signals))
        console.print(
            f"{config.method} ({config.preset}) on {config.task}, seed {config.seed}: {run.device}"
            f"{f' x {world()}' if world() > 1 else ''}, {run.precision.reason}, results in {work_dir}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
        stages = run.method.stages()
        while run.position.stage < len(stages):
            run.stage(stages[run.position.stage])
        result = run.finish()
        if on_finish is not None and distributed.is_first():
            on_finish(work_dir)
        return result


class Sums(StepListener):
    """Adds the images and losses of each step to the meter and the watch."""

    def __init__(self, meter: Meter, watch: Watch) -> None:
        self.meter, self.watch = meter, watch

    def started(self, batches: Batches) -> None:
        self.meter.count(sum(len(batch.images) for batch in batches if batch is not None))

    def computed(self, losses: Losses) -> None:
        for terms in losses.values():
            self.meter.add(terms)
            self.watch.losses(terms)


class Run:
    """The state of a run and the steps that change it."""

    def __init__(self, config: Config, work_dir: Path, console: Console, signals: Signals) -> None:
        self.config, self.work_dir, self.console, self.signals = config, work_dir, console, signals
        self.device = choose_device(config.device)
        self.precision = choose_precision(self.device, config.amp)
        if self.device.type == "cuda":
            record_history()
        check_compile(config.compile, self.device)
        self.inputs = Inputs(config, self.device, work_dir / "pseudo_labels")
        torch.manual_seed(config.seed)
        self.method = build_method(config, self.inputs.classes.num_classes).to(self.device)
        self.inputs.check_split(self.method.stages())
        self.checkpoint = work_dir / "checkpoint.pt"
        self.position, self.optimisers_state = Position(), {}
        # Errors in the data or the network have been raised above, so that they leave no directory behind.
        if config.resume:
            self.restore()
        elif distributed.is_first():
            create_work_dir(work_dir, config)
        self.clock = time.monotonic() - self.position.seconds
        self.log = Log(work_dir if distributed.is_first() else None, config.tensorboard)
        position = {"stage": self.position.stage, "iteration": self.position.iteration}
        self.log.write("start", position | facts(self.device))
        if not config.resume:
            self.save()

    def restore(self) -> None:
        state = load_run(self.checkpoint)
        if name := difference(state["config"], to_dict(self.config)):
            raise ValueError(f"--resume: {self.checkpoint} is of another run, they differ in {name}")
        fill_method(self.method, state["method"], self.checkpoint)
        self.position = Position(**state["position"])
        self.optimisers_state = state["optimisers"]
        if self.position.prepared:
            stage = self.method.stages()[self.position.stage]
            if self.position.iteration < stage.iterations:
                self.inputs.check_prepared(stage)

    def stage(self, stage: Stage) -> None:
        """Prepare, train and evaluate one stage, continuing at the run's position."""
        position = self.position
        snapshot = self.work_dir / f"out_of_memory_{rank()}.pickle" if self.device.type == "cuda" else None
        with out_of_memory(self.config, lambda: f" in {self.phase(stage)}", snapshot, self.checkpoint):
            if not position.prepared:
                self.prepare(stage)
            if position.iteration < stage.iterations:
                self.steps(stage)
            if stage.row:
                self.evaluate(stage.row)
        position.stage, position.iteration, position.prepared = position.stage + 1, 0, False
        # A run that is resumed after the last step of a stage has restored a state that no step used.
        self.optimisers_state = {}
        self.save()

    def phase(self, stage: Stage) -> str:
        """The current phase of a stage, as part of a sentence."""
        if not self.position.prepared:
            return f"the preparation of stage {stage.name}"
        iteration = self.position.iteration
        doing = f"at iteration {iteration + 1}" if iteration < stage.iterations else "while it is evaluated"
        return f"stage {stage.name} {doing}"

    def prepare(self, stage: Stage) -> None:
        self.method.eval()
        if self.method.prepares(stage):
            passes = DataPasses(self.inputs, stage.name, self.console, self.leave_if_asked)
            # Weights that are initialised here are the same in a resumed run. Iteration -1, since steps count from 0.
            torch.manual_seed(draw_seed(self.config.seed, self.position.stage, -1))
            with torch.no_grad(), self.precision.autocast():
                self.method.prepare(stage, passes)
            distributed.wait()
        if stage.prepared_row:
            self.evaluate(stage.prepared_row)
        self.position.prepared = True

    def steps(self, stage: Stage) -> None:
        """The iterations of a stage."""
        config, position = self.config, self.position
        optimisers = Optimisers(stage, self.precision, self.optimisers_state)
        self.optimisers_state = {}
        meter, watch = Meter(stage.name, self.device), Watch()
        batches = self.inputs.batches(stage, position.stage, position.iteration, meter.waiting)
        averaging, sums = distributed.Averaging(self.method), Sums(meter, watch)
        step = TrainingStep(stage, optimisers, self.precision, config.accumulate, averaging, sums)
        self.method.train()
        with (
            compiled(self.method, config.compile),
            LiveLine(self.console, stage.name, stage.iterations, position.iteration) as line,
        ):
            for iteration in range(position.iteration, stage.iterations):
                # Dropout and all other random numbers follow from the position: a resumed run repeats them.
                torch.manual_seed(draw_seed(config.seed, position.stage, iteration))
                watch.begin(iteration + 1)
                meter.skipped += step.take(iteration, batches)
                watch.end(optimisers.scale.broken)
                position.iteration = iteration + 1
                saves = position.iteration % config.checkpoint_every == 0
                signal = self.agreed_signal(stage, watch, saves)
                self.report(line, meter, optimisers)
                if signal or saves:
                    self.save(optimisers.state())
                self.leave_if_asked(signal)
        # The evaluation that follows can be long: save the trained weights first.
        self.save()

    def agreed_signal(self, stage: Stage, watch: Watch, saves: bool) -> int:
        """The number of a signal that any rank received, or 0; ends the run if any rank has a loss that is not finite.

        All ranks must leave at the same iteration, or some would wait for the others for ever.  saves: a checkpoint
        follows, which must not hold a bad step.
        """
        iteration = self.position.iteration
        wait = saves or iteration % self.config.log_every == 0 or iteration == stage.iterations
        signal = distributed.all_reduce_max(NOT_FINITE if watch.first_bad(wait) else self.signals.received or 0)
        if signal and not wait:
            signal = distributed.all_reduce_max(NOT_FINITE if watch.first_bad(wait=True) else signal)
        if signal == NOT_FINITE:
            about = {"stage": stage.name, "seed": self.config.seed, "precision": self.precision.reason}
            fail(watch, about, partial(self.batches_of, stage), partial(self.recompute, stage), self.checkpoint)
        return signal

    def batches_of(self, stage: Stage, iteration: int) -> Iterator[tuple[int, Batches]]:
        """The batches of an iteration, counted from 1, loaded once more; each with its number in the stage."""
        draws = range((iteration - 1) * self.config.accumulate, iteration * self.config.accumulate)
        return zip(draws, self.inputs.batches(stage, self.position.stage, iteration - 1), strict=False)

    @torch.no_grad()
    def recompute(self, stage: Stage, iteration: int, batches: list[Batches]) -> None:
        """Compute the losses of an iteration, counted from 1, again: with its random numbers, without gradients."""
        torch.manual_seed(draw_seed(self.config.seed, self.position.stage, iteration - 1))
        for batch in batches:
            source, target = (domain and domain.to(self.device) for domain in batch)
            for _ in losses_of(stage, source, target, self.precision):
                pass

    def report(self, line: LiveLine, meter: Meter, optimisers: Optimisers) -> None:
        """Redraw the live line, and log the losses every ``log_every`` iterations."""
        iteration = self.position.iteration
        if iteration % self.config.log_every == 0 or iteration == line.total:
            row = meter.read(iteration) | {"learning_rate": optimisers.learning_rate()}
            self.log.write("train", row, iteration)
            line.update(iteration, one_line(row))
            optimisers.check(meter.stage, iteration, self.checkpoint)
        else:
            line.update(iteration)

    def leave_if_asked(self, agreed: int | None = None) -> None:
        """Raise Interrupted if a signal was received.

        agreed: its number or 0, agreed on by all ranks; None: use what this rank received, where no other rank waits.
        """
        number = self.signals.received if agreed is None else agreed
        if number:
            if agreed:
                distributed.wait()
            where = f"stage {self.position.stage} at iteration {self.position.iteration}"
            raise Interrupted(
                number,
                f"interrupted in {where}; the run is saved, continue it with: "
                f"python -m fastuda.train --work-dir {self.work_dir} --resume",
            )

    def evaluate(self, name: str) -> None:
        """Add a row of scores on the target's validation split, if there is one."""
        inputs = self.inputs
        if not inputs.validated:
            return
        scores = evaluate(
            self.method, inputs.validation_stream(), inputs.classes, self.device, self.precision, self.leave_if_asked
        )
        row = {"name": name, **scores.row()}
        self.position.rows = [r for r in self.position.rows if r["name"] != name] + [row]
        self.log.write("evaluation", row | {"confusion": scores.confusion})
        self.console.print(f"{name}: mIoU {row['miou']:.2%}", highlight=False, markup=False)

    def save(self, optimisers: dict[str, Any] | None = None) -> None:
        self.position.seconds = time.monotonic() - self.clock
        state = {
            "config": to_dict(self.config),
            "method": self.method.state_dict(),
            "position": asdict(self.position),
            "optimisers": optimisers or {},
        }
        if distributed.is_first():
            save_checkpoint(self.checkpoint, state)

    def finish(self) -> Result:
        """result.json, coloured predictions and the table."""
        config = self.config
        result = Result(
            method=config.method,
            preset=config.preset,
            task=config.task,
            seed=config.seed,
            seconds=round(self.position.seconds, 1),
            peak_mib=round(peak_mib(self.device), 1),
            stages=self.position.rows,
        )
        if distributed.is_first():
            write_json(self.work_dir / "result.json", asdict(result))
            self.save_predictions(config.predictions)
        self.log.close()
        if result.stages:
            self.console.print(iou_table(result.stages))
        else:
            self.console.print("no validation labels, so no scores: the last weights are the result", highlight=False)
        return result

    def save_predictions(self, count: int) -> None:
        """Validation image | prediction | truth as PNG, ``count`` of them spread over the split, if there is one."""
        if not self.inputs.validated:
            return
        self.method.eval()
        stream = self.inputs.validation_stream()
        directory = self.work_dir / "predictions"
        directory.mkdir(exist_ok=True)
        for number in sorted({round(i * (len(stream) - 1) / max(count - 1, 1)) for i in range(count)}):
            batch = stream[number].to(self.device)
            truth = batch.labels[0].cpu().numpy()
            prediction = predict_labels(self.method, batch.images, truth.shape, self.precision)[0].cpu().numpy()
            image = batch.images[0].permute(1, 2, 0).cpu().numpy()
            save_comparison(directory / f"{number:05d}.png", image, [prediction, truth], self.inputs.classes)
