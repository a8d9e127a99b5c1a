"""Every method in 16 bits: no NaN, nothing learnt from pixels that are ignored, no gradient lost below fp16's range."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from methods.small_world import K, batch
from methods.test_bad_input import ADAPTING, Domains, assert_finite, method

from fastuda.data.batch import Batch
from fastuda.methods import build_method
from fastuda.methods.config import Recipe, SDCAConfig
from fastuda.methods.protocol import Method, Stage
from fastuda.models.config import ModelConfig
from fastuda.ops.contrastive_bound import contrastive_bound
from fastuda.train.optimisers import Optimisers
from fastuda.train.precision import Precision

HALF = Precision("cpu", torch.float16, True, "fp16 with a loss scale")
PRECISIONS = {
    "fp32": Precision("cpu", None, False, "fp32"),
    "bf16": Precision("cpu", torch.bfloat16, False, "bf16"),
    "fp16": HALF,
}
HALVES = [pytest.param(name, marks=pytest.mark.slow) for name in ("bf16", "fp16")]
OVER_LABELS = ("pseudo_ce", "modes_target", "mode_classes_target", "consistency", "self_label")


def parts(stage: Stage, source: Batch | None, target: Batch | None, precision: Precision):
    """The losses of a step as the trainer asks for them."""
    found = stage.step(source, target)
    while True:
        with precision.autocast():
            losses = next(found, None)
        if losses is None:
            return
        yield losses


def prepare(what: Method, stage: Stage, domains: Domains, precision: Precision) -> None:
    what.eval()
    with precision.autocast():
        what.prepare(stage, domains)
    what.train()


@pytest.mark.parametrize(
    "precision", ["fp32", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bf16", "fp16"))]
)
@pytest.mark.parametrize("name", ADAPTING)
def test_every_stage_learns_without_nan(name, precision):
    """fp16's scale may leave a first step out, but not two."""
    what, domains, precision = method(name), Domains(), PRECISIONS[precision]
    for stage in what.stages():
        prepare(what, stage, domains, precision)
        if not stage.iterations:
            continue
        optimisers, found, taken = Optimisers(stage, precision, {}), defaultdict(list), 0
        for step in range(2):
            torch.manual_seed(step)
            source = domains.source_batch(step) if stage.source else None
            target = domains.target_batch(stage, step) if stage.target else None
            for losses in parts(stage, source, target, precision):
                for term, value in (pair for terms in losses.values() for pair in terms.items()):
                    found[term].append(value.item())
                optimisers.backward(losses, 1.0)
            taken += optimisers.step() == 0
            if stage.after_step:
                stage.after_step()
        assert taken and found, stage.name
        assert_finite(what, stage, found)


def ignored(name: str, what: Method, domains: Domains) -> tuple[Stage, Batch]:
    """A stage that learns from labels of the target, prepared, and a target batch in which they are all ignored."""
    if name == "cpsl":
        stage = what.stages()[1]
        prepare(what, stage, domains, HALF)
        # Labels are made of what lies inside the image, and nothing does.
        return stage, replace(domains.target_batch(stage, 0), window=torch.tensor([[2.0, 3.0, 2.0, 3.0]] * 2))
    stage = next(s for s in what.stages() if s.target and s.target.labels == "pseudo")
    prepare(what, stage, domains, HALF)
    return stage, replace(batch(1), labels=torch.full((2, 32, 48), 255, dtype=torch.uint8))


@pytest.mark.parametrize("name", ADAPTING)
def test_a_target_batch_that_is_all_ignored(name):
    """In fp16, through the loss scale: losses over its labels are 0, their gradients exactly 0, all others finite."""
    what, domains = method(name), Domains()
    stage, target = ignored(name, what, domains)
    parameters = [p for p in what.parameters() if p.requires_grad]
    optimisers, seen = Optimisers(stage, HALF, {}), 0
    source = domains.source_batch(0) if stage.source else None
    for losses in parts(stage, source, target, HALF):
        for term, value in (pair for terms in losses.values() for pair in terms.items()):
            assert value.isfinite()
            if term in OVER_LABELS and not (name == "cpsl" and term == "consistency"):
                seen += 1
                assert value.item() == 0.0, term
                scaled = optimisers.scale.scale(value)
                gradients = torch.autograd.grad(scaled, parameters, retain_graph=True, allow_unused=True)
                assert all(g is None or not g.any() for g in gradients), term
        optimisers.backward(losses, 1.0)
    assert seen == {"drsl": 3, "drsl+": 4, "cpsl": 2}.get(name, 1)
    assert all(p.grad is None or p.grad.isfinite().all() for p in parameters)


def test_gradients_at_a_temperature_of_100_survive_fp16():
    """Those of the bound on features, in the middle of SDCA's step, are about 1e-11; fp16 knows nothing below 6e-8.

    Rounding a scaled gradient costs half a digit of 11 bits, or of the fixed digits 2^-24 below 2^-14; computing it in
    float32 costs less than as much again.
    """
    torch.manual_seed(0)
    config = SDCAConfig(temperature=100.0, features=2e-5, outputs=0.0)
    what = build_method(Recipe(method="sdca", model=ModelConfig(width=0.25), sdca=config), K)
    stage = what.stages()[1]
    prepare(what, stage, Domains(), HALF)
    seen, own = [], what.bounds

    def watched(output, labels, domain):
        output.features.retain_grad()
        seen.append((output.features, labels))
        return own(output, labels, domain)

    what.bounds = watched
    optimisers = Optimisers(stage, HALF, {})
    losses = next(parts(stage, batch(0), batch(1, labelled=False), HALF))
    optimisers.backward({"network": {"features": losses["network"]["features_source"]}}, 1.0)
    ((features, labels),) = seen
    assert features.dtype == torch.float16
    exact = features.detach().double().requires_grad_()
    statistics = what.feature_statistics
    mean, covariance = statistics.mean.double(), statistics.covariance.double()
    bound = contrastive_bound(exact, labels, mean, covariance, temperature=100.0, normalize=True)
    (config.features * bound).backward()
    scale = optimisers.scale.value.item()
    found, wanted = features.grad.double() / scale, exact.grad
    typical = wanted[wanted != 0].abs().median()
    assert 1e-12 < typical < 1e-10
    error = (found - wanted).abs()
    assert (error <= 2**-10 * wanted.abs() + 2**-24 / scale).all()
    assert (found[wanted.abs() > 2**-24 / scale] != 0).all() and not wanted.half().any()
