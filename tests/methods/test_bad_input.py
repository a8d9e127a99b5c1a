"""What the data may lack: a class in either domain, a confident target pixel, a full bank. Every stage goes on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import pytest
import torch
from methods.small_world import K, MemoryPasses, batch
from torch import Tensor

from fastuda.data.batch import Batch
from fastuda.data.config import Augment
from fastuda.methods import METHODS, build_method
from fastuda.methods.config import (
    AdversarialConfig,
    CPSLConfig,
    DRSLConfig,
    MLSLConfig,
    Recipe,
    SPCLConfig,
)
from fastuda.methods.protocol import Method, Stage
from fastuda.models.config import ModelConfig

ADAPTING = [name for name, method in METHODS.items() if method.section]
ABSENT = 3  # the class that one domain lacks
SMALL = {
    "spcl": SPCLConfig(adversarial=AdversarialConfig(width=8, depth=2)),
    "cpsl": CPSLConfig(
        samples=12, bank=64, random_operations=0, cut_mix=0.0, cut_out=0.0, strong=Augment(), distillations=1
    ),
    "mlsl": MLSLConfig(patches=4, patch=(16, 24), head_width=8, rounds=2),
    "drsl": DRSLConfig(channels=8, per_class=20, triplets=64, rounds=2),
}


def method(name: str, **changes) -> Method:
    torch.manual_seed(0)
    key = METHODS[name].section
    configs = SMALL | ({key: replace(SMALL[key], **changes)} if changes else {})
    return build_method(Recipe(method=name, model=ModelConfig(width=0.25), **configs), K)


def without(labels: Tensor) -> Tensor:
    return labels.masked_fill(labels == ABSENT, 0)


class Domains(MemoryPasses):
    """Both domains in memory; ``lacking`` names those in which the class ABSENT never appears."""

    def __init__(self, lacking: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.lacking = lacking
        self.scores: dict[int, Tensor] = {}

    def source(self):
        for one in super().source():
            yield replace(one, labels=without(one.labels)) if "source" in self.lacking else one

    def save_scores(self, index, scores):
        self.scores |= dict(zip(index.tolist(), scores.half(), strict=True))

    def source_batch(self, step: int) -> Batch:
        return list(self.source())[step % 2]

    def target_batch(self, stage: Stage, step: int) -> Batch:
        """With what the stage's preparation saved."""
        one = list(self.target())[step % 2]
        indices = one.index.tolist()
        labels = torch.stack([self.saved[i] for i in indices]) if stage.target.labels == "pseudo" else None
        scores = torch.stack([self.scores[i] for i in indices]) if stage.target.scores else None
        return replace(one, labels=labels, scores=scores)


def run_stage(what: Method, stage: Stage, domains: Domains, target: Batch | None = None) -> dict[str, list[float]]:
    """The preparation and two steps of a stage as the trainer takes them; returns the losses by name."""
    what.eval()
    what.prepare(stage, domains)
    what.train()
    optimisers, found = stage.optimisers(), defaultdict(list)
    for step in range(2):
        torch.manual_seed(step)
        source = domains.source_batch(step) if stage.source else None
        shown = (target or domains.target_batch(stage, step)) if stage.target else None
        for losses in stage.step(source, shown):
            for name, terms in losses.items():
                for term, value in terms.items():
                    found[term].append(value.item())
                sum(terms.values()).backward()
                assert name in optimisers
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad()
        if stage.after_step:
            stage.after_step()
    return found


def assert_finite(what: Method, stage: Stage, losses: dict[str, list[float]]) -> None:
    for term, values in losses.items():
        assert torch.tensor(values).isfinite().all(), (stage.name, term, values)
    for name, value in what.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point():
            assert value.isfinite().all(), (stage.name, name)


@pytest.mark.parametrize("lacking", [("source",), ("target",), ("source", "target")], ids="+".join)
@pytest.mark.parametrize("name", ADAPTING)
def test_a_class_that_never_appears(name, lacking):
    what, domains = method(name), Domains(lacking)
    if "target" in lacking:
        # The target's classes are those that the network predicts.
        what.network.classifier.bias.data[ABSENT] = -100.0
    for stage in what.stages():
        assert_finite(what, stage, run_stage(what, stage, domains))
    if "target" in lacking:
        assert not any((labels == ABSENT).any() for labels in domains.saved.values())


def test_the_world_holds_every_class_unless_one_is_taken_out():
    classes = [set(torch.cat([b.labels for b in Domains(lacking).source()]).unique().tolist())
               for lacking in ((), ("source",))]  # fmt: skip
    assert classes == [{*range(K), 255}, {*range(K), 255} - {ABSENT}]


@pytest.mark.parametrize("name", ["sdca", "spcl", "mlsl", "drsl", "drsl+"])
def test_pseudo_labels_without_a_confident_pixel(name):
    """All pseudo labels are 255: every loss over them is exactly 0, and nothing of it reaches the parameters."""
    what, domains = method(name), Domains()
    stage = next(s for s in what.stages() if s.target and s.target.labels == "pseudo")
    none = replace(batch(1), labels=torch.full((2, 32, 48), 255, dtype=torch.uint8))
    losses = run_stage(what, stage, domains, none)
    assert_finite(what, stage, losses)
    over_labels = [t for t in losses if t in ("pseudo_ce", "modes_target", "mode_classes_target", "consistency")]
    assert "pseudo_ce" in over_labels and len(over_labels) == {"drsl": 3, "drsl+": 4}.get(name, 1)
    for term in over_labels:
        assert losses[term] == [0.0, 0.0], term


def flat(what: Method) -> Method:
    """With a network that finds every class as likely as any other, everywhere."""
    torch.nn.init.zeros_(what.network.classifier.weight)
    torch.nn.init.zeros_(what.network.classifier.bias)
    return what


def test_sdca_without_a_confident_pixel_bounds_the_source_alone():
    what = flat(method("sdca"))
    stage = what.stages()[1]
    what.eval()
    what.prepare(stage, Domains())
    source, target = stage.step(batch(0), batch(1, labelled=False))
    assert all(value.item() > 0 for value in source["network"].values())
    assert {name: value.item() for name, value in target["network"].items()} == {
        "features_target": 0.0, "outputs_target": 0.0
    }  # fmt: skip
    sum(target["network"].values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in what.network.parameters())


@pytest.mark.parametrize("name", ADAPTING)
def test_a_network_that_is_sure_of_nothing(name):
    what, domains = flat(method(name)), Domains()
    for stage in what.stages()[1:]:
        assert_finite(what, stage, run_stage(what, stage, domains))


def test_cpsl_without_a_pixel_inside_the_image():
    """A window beside the image leaves every rectified label 255: the losses over labels are exactly 0."""
    what, domains = method("cpsl").eval(), Domains()
    stage = what.stages()[1]
    what.prepare(stage, domains)
    target = replace(domains.target_batch(stage, 0), window=torch.tensor([[2.0, 3.0, 2.0, 3.0]] * 2))
    share = what.share.clone()
    losses = {
        term: value for part in what.train().self_label(batch(0), target) for term, value in part["network"].items()
    }
    assert losses["self_label"].item() == losses["pseudo_ce"].item() == 0.0
    assert losses["consistency"].isfinite()
    assert torch.equal(what.share, share)
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in what.parameters())


def test_cpsl_with_a_bank_that_is_not_full_yet():
    what, domains = method("cpsl", bank=60), Domains()
    stage = what.stages()[1]
    losses = run_stage(what, stage, domains)
    assert_finite(what, stage, losses)
    # Two images of 12 pixels a step: the first step sees an empty bank, the second one of 24 of its 60 rows.
    assert what.bank.filled == 48
    assert all(value > 0 for value in losses["self_label"])
