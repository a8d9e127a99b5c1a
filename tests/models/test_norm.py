import pytest
import torch
from torch import nn

from fastuda.models import (
    BatchNorm,
    load_statistics_state,
    recompute_statistics,
    statistics_state,
    untracked,
    use_domain,
)
from fastuda.models.norm import norm_factory


def images(seed: int, count: int = 2, channels: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3.0 + 2.0 * torch.randn(count, channels, 6, 7, generator=generator)


def small_net(mode: str) -> nn.Sequential:
    torch.manual_seed(0)
    norm = norm_factory(mode)
    return nn.Sequential(nn.Conv2d(5, 4, 3), norm(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1), norm(3))


def test_trained_is_torchs_batch_norm():
    ours, theirs = BatchNorm(5, "trained"), nn.BatchNorm2d(5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for seed in range(3):
        torch.testing.assert_close(ours(images(seed)), theirs(images(seed)))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    torch.testing.assert_close(ours.eval()(images(9)), theirs.eval()(images(9)))


def test_frozen_uses_running_statistics_in_training_and_takes_no_gradient():
    layer = BatchNorm(5, "frozen", eps=0.0)
    layer.running_mean.copy_(torch.arange(5.0))
    layer.running_var.copy_(torch.arange(1.0, 6.0))
    x = images(0).requires_grad_()
    out = layer.train()(x)
    expected = (x - torch.arange(5.0)[:, None, None]) / torch.arange(1.0, 6.0).sqrt()[:, None, None]
    torch.testing.assert_close(out, expected)
    out.sum().backward()
    assert x.grad is not None and layer.weight.grad is None
    assert not any(parameter.requires_grad for parameter in layer.parameters())
    assert layer.running_mean.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0] and layer.num_batches_tracked == 0


@pytest.mark.parametrize("mode", ["trained", "per_domain"])
def test_untracked_computes_the_same_and_moves_nothing(mode):
    net, images_ = small_net(mode), images(0)
    net[3].p = 0.0
    before = statistics_state(net)
    with untracked(net), use_domain(net, "target"):
        out = net(images_)
    assert all(torch.equal(value, before[key]) for key, value in statistics_state(net).items())
    with use_domain(net, "target"):
        assert torch.equal(net(images_), out)
    assert any(not torch.equal(value, before[key]) for key, value in statistics_state(net).items())


def test_per_domain_keeps_the_domains_apart():
    layer = BatchNorm(5, "per_domain")
    layer(images(0))
    source = [value.clone() for value in layer.statistics("source")]
    with use_domain(layer, "target"):
        layer(images(1) * 4)
    for now, before in zip(layer.statistics("source"), source, strict=True):
        assert torch.equal(now, before)
    assert layer.target_num_batches_tracked == 1
    torch.testing.assert_close(layer.target_running_mean, 0.1 * (images(1) * 4).mean((0, 2, 3)))
    layer.eval()
    on_source = layer(images(2))
    with use_domain(layer, "target"):
        on_target = layer(images(2))
    assert (on_source - on_target).abs().max() > 0.1
    assert torch.equal(layer(images(2)), on_source)


def test_use_domain_restores_after_an_error_and_nests():
    model = small_net("per_domain")
    with pytest.raises(RuntimeError), use_domain(model, "target"), use_domain(model, "source"):
        raise RuntimeError
    assert {model[1].domain, model[5].domain} == {"source"}
    with pytest.raises(ValueError, match="domain"), use_domain(model, "night"):
        pass


@pytest.mark.parametrize("mode", ["trained", "frozen", "per_domain"])
def test_recomputed_statistics_are_those_of_all_pixels(mode):
    model = small_net(mode)
    model[3].eval()
    batches = [images(0, 2), images(1, 3), images(2, 1) * 3]
    recompute_statistics(model, batches, "target")
    mean, var, count = model[1].statistics("target")
    everything = model[0](torch.cat(batches)).detach()
    torch.testing.assert_close(mean, everything.mean((0, 2, 3)))
    torch.testing.assert_close(var, everything.var((0, 2, 3), correction=0))
    assert count == 3
    second = []
    for batch in batches:
        hidden = model[0](batch).detach()
        hidden = torch.nn.functional.batch_norm(hidden, None, None, training=True)
        second.append(model[4](hidden.relu()).detach())
    torch.testing.assert_close(model[5].statistics("target")[0], torch.cat(second).mean((0, 2, 3)))
    assert model.training and model[5].training and not model[3].training
    if mode == "per_domain":
        assert model[1].running_mean.abs().max() == 0 and model[1].num_batches_tracked == 0


def test_statistics_state_undoes_recompute_and_refuses_another_model():
    model = small_net("trained")
    before = statistics_state(model)
    recompute_statistics(model, [images(0)], "target")
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    load_statistics_state(model, before)
    assert torch.equal(model[1].running_mean, before["1.running_mean"])
    with pytest.raises(ValueError, match="another model"):
        load_statistics_state(small_net("per_domain"), before)


def test_recompute_without_batches_changes_nothing():
    model = small_net("trained")
    with pytest.raises(ValueError, match="at least one batch"):
        recompute_statistics(model, [], "target")
    assert model[1].running_var.tolist() == [1.0] * 4 and model.training


def test_statistics_stay_float32_under_autocast():
    layer = BatchNorm(5, "per_domain")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(images(0).bfloat16()).dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32


def test_unknown_mode():
    with pytest.raises(ValueError, match="norm must be"):
        BatchNorm(4, "shared")
