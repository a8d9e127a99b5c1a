"""What processes that share a batch compute, against one process that has it all: 2 and 3 gloo processes, forked."""

from __future__ import annotations

import pytest
import torch
from torch import distributed, nn

from fastuda import ops
from fastuda.models.dropout import Dropout, Dropout2d
from fastuda.models.norm import BatchNorm, recompute_statistics
from fastuda.nn.losses import cross_entropy, lovasz_softmax, symmetric_cross_entropy
from fastuda.ranks import gather, share, total
from fastuda.train.distributed import Averaging

K, IMAGES = 4, 6


def images(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(seed))


def labels() -> torch.Tensor:
    """The images hold very different numbers of valid pixels, the first three none of class 3."""
    drawn = torch.randint(0, K, (IMAGES, 8, 12), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    drawn[:3][drawn[:3] == 3] = 255
    for image, rows in enumerate((0, 7, 5, 8, 1, 3)):
        drawn[image, :rows] = 255
    return drawn


def means(features: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every loss with a divisor of its own."""
    logits = features[:, :K]
    centres = torch.randn(K, features.shape[1], generator=torch.Generator().manual_seed(2))
    modes = ops.mode_losses(features, target, torch.stack([centres, centres + 1], 1))
    coarse = target[:, ::2, ::3].contiguous()
    return {
        "cross_entropy": cross_entropy(logits[..., ::2, ::3], target),
        "weighted": ops.upsample_cross_entropy(logits, target, weight=torch.tensor([1.0, 2.0, 0.5, 4.0])),
        "symmetric": symmetric_cross_entropy(logits, target),
        "bound": ops.contrastive_bound(features, target, centres),
        "triplet": modes.triplet,
        "modes": modes.cross_entropy,
        "kl": ops.symmetric_kl(logits, logits.detach().flip(1), mask=target < K),
        "lovasz": lovasz_softmax(logits[..., ::2, ::3], coarse),
        "nothing": cross_entropy(logits, torch.full_like(target, 255)),
    }


def gradients_of_means(features: torch.Tensor, target: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for name in means(features, target):
        leaf = features.clone().requires_grad_()
        loss = means(leaf, target)[name]
        loss.backward()
        found[name] = loss.detach(), leaf.grad
    return found


def normalised(x: torch.Tensor, slope: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two training passes of a batch norm, forward and backward, and a pooled pass over its batches."""
    layer = BatchNorm(3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
    leaf = (5 + 3 * x).requires_grad_()
    out = layer(leaf)
    (out * slope).sum().backward()
    layer(leaf.detach() + 1)
    return {
        "out": out.detach(), "input": leaf.grad, "weight": total(layer.weight.grad), "bias": total(layer.bias.grad),
        "running_mean": layer.running_mean, "running_var": layer.running_var, "batches": layer.num_batches_tracked,
    }  # fmt: skip


def recomputed(batches: list[torch.Tensor]) -> list[torch.Tensor]:
    layer = BatchNorm(3)
    recompute_statistics(layer, batches)
    return list(layer.statistics("target"))


class Step(nn.Module):
    """A step in parts: a network seen twice in one, an adversary that is fixed in another, unused weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network, self.adversary, self.unused = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(3, 1, 1),
            nn.Conv2d(1, 1, 1),
        )

    def parts(self, x: torch.Tensor):
        yield {"network": {"twice": self.network(self.network(x).relu()).square().mean()}}
        self.adversary.requires_grad_(False)
        out = self.network(x)
        yield {"network": {"fooled": self.adversary(out).sigmoid().mean()}}
        self.adversary.requires_grad_(True)
        yield {"adversary": {"told": self.adversary(out.detach()).square().mean()}}
        yield {"network": {"constant": torch.zeros(())}}


def trained(batches: list[torch.Tensor]) -> list[torch.Tensor]:
    """Weights after three steps, each of all ``batches``, whose gradients are accumulated."""
    step = Step()
    optimiser = torch.optim.SGD(step.parameters(), 0.1)
    averaging = Averaging(step)
    for _ in range(3):
        for number, batch in enumerate(batches):
            with averaging.local(until_later=number + 1 < len(batches)):
                for part in step.parts(batch):
                    for terms in averaging(part).values():
                        loss = sum(terms.values()) / len(batches)
                        if loss.requires_grad:
                            loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert step.unused.weight.grad is None
    return [p.detach() for p in step.parameters()]


def dropped(x: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(3)
    return [module(x.contiguous(memory_format=torch.channels_last)) for module in (Dropout(0.4), Dropout2d(0.4))]


def everything(part) -> dict:
    """All results on the rows of the batch that ``part`` takes."""
    x = images(4, 3, 6, 5)
    return {
        "means": gradients_of_means(part(images(0, 6, 8, 12)), part(labels())),
        "norm": normalised(part(x), part(images(5, 3, 6, 5))),
        "weights": trained([part(x), part(images(6, 3, 6, 5))]),
        "dropped": dropped(part(torch.ones(IMAGES, 3, 6, 5))),
    }


def on_a_rank(rank: int, world: int, directory: str) -> None:
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{directory}/store", world)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=world)
    alone = cross_entropy(*(rows.tensor_split(world)[rank] for rows in (images(0, K, 8, 12), labels())))
    with ops.global_batch():
        result = everything(share)
        batches = list(images(7, 3, 4, 4).split(3))  # fewer batches than three ranks
        result["recomputed"] = recomputed(batches[rank::world])
        result["bits"] = [gather(t[rank : rank + 1]) for t in (torch.arange(3) > 1, torch.arange(3.0).bfloat16())]
    assert torch.equal(alone, cross_entropy(*(r.tensor_split(world)[rank] for r in (images(0, K, 8, 12), labels()))))
    torch.save(result, f"{directory}/{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory):
    """(what one process finds of the whole batch, what each of the ranks finds)."""
    world, directory = request.param, str(tmp_path_factory.mktemp("ranks"))
    context = torch.multiprocessing.get_context("fork")
    workers = [context.Process(target=on_a_rank, args=(r, world, directory)) for r in range(world)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * world
    return everything(lambda rows: rows), [torch.load(f"{directory}/{rank}.pt") for rank in range(world)]


def close(found: torch.Tensor, expected: torch.Tensor, where: str) -> None:
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-3)
    assert error < 1e-6, (where, error)


def test_means_over_all_pixels_and_their_gradients(results):
    whole, ranks = results
    for name, (loss, grad) in whole["means"].items():
        close(torch.stack([r["means"][name][0] for r in ranks]).mean(), loss, name)
        close(torch.cat([r["means"][name][1] for r in ranks]) / len(ranks), grad, name)
    # Means of the ranks' own means would be something else.
    parts = zip(images(0, 6, 8, 12).chunk(len(ranks)), labels().chunk(len(ranks)), strict=True)
    naive = [means(*part) for part in parts]
    for name in ("cross_entropy", "bound", "lovasz", "modes"):
        off = torch.stack([values[name] for values in naive]).mean() / whole["means"][name][0] - 1
        assert off.abs() > 1e-5, name


def test_batch_norm_sees_the_batch_of_all(results):
    whole, ranks = results
    for name in ("out", "input"):
        close(torch.cat([r["norm"][name] for r in ranks]), whole["norm"][name], name)
    for name in ("weight", "bias", "running_mean", "running_var", "batches"):
        close(ranks[0]["norm"][name], whole["norm"][name], name)
        assert all(torch.equal(r["norm"][name], ranks[0]["norm"][name]) for r in ranks), name


def test_recomputed_statistics_are_those_of_all_batches(results):
    _, ranks = results
    for number, expected in enumerate(recomputed(list(images(7, 3, 4, 4).split(3)))):
        for r in ranks:
            close(r["recomputed"][number], expected, str(number))


def test_gradients_of_a_step_in_parts_and_accumulated_batches(results):
    whole, ranks = results
    for number, expected in enumerate(whole["weights"]):
        for r in ranks:
            close(r["weights"][number], expected, str(number))
            assert torch.equal(r["weights"][number], ranks[0]["weights"][number])


def test_dropout_masks_are_those_of_the_whole_batch(results):
    whole, ranks = results
    for number, expected in enumerate(whole["dropped"]):
        assert 0 < (expected == 0).sum() < expected.numel()
        assert torch.equal(torch.cat([r["dropped"][number] for r in ranks]), expected)


def test_every_type_is_gathered(results):
    _, ranks = results
    world = len(ranks)
    for r in ranks:
        assert torch.equal(r["bits"][0], torch.arange(world) > 1)
        assert r["bits"][1].dtype == torch.bfloat16 and r["bits"][1].tolist() == [float(i) for i in range(world)]


def test_alone_nothing_changes():
    with ops.global_batch():
        x = torch.ones(2)
        assert gather(x) is x and share(x) is x and total(x) is x
