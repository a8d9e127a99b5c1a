"""Batch normalisation with statistics of its own for each domain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastuda.ranks import total, world

Mode = Literal["trained", "frozen", "per_domain"]
Domain = Literal["source", "target"]
Norm = Callable[[int], nn.Module]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_DOMAINS = ("source", "target")


class BatchNorm(nn.Module):
    """Batch normalisation over (N, C, H, W), with parameters and buffers named like ``torch.nn.BatchNorm2d``.

    mode:
      "trained": batch statistics while training; one set of running statistics, which sees both domains.
      "frozen": running statistics always, also while training; weight and bias take no gradient.
      "per_domain": shared weight and bias, one set of running statistics a domain (AdaBN, Li et al. 2016). The source
      keeps torch's buffer names, the target has the same ones prefixed ``target_``; ``use_domain`` chooses.

    Statistics stay float32 under autocast. Running variances are unbiased, as torch's are. Inside
    ``fastuda.ops.global_batch`` the batch is that of all processes, as with ``torch.nn.SyncBatchNorm``.
    """

    def __init__(self, channels: int, mode: Mode = "per_domain", eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if mode not in ("trained", "frozen", "per_domain"):
            raise ValueError(f'norm must be "trained", "frozen" or "per_domain", got {mode!r}')
        self.channels, self.mode, self.eps, self.momentum = channels, mode, eps, momentum
        self.domain: Domain = "source"
        self.tracking = True
        self._recorder: _Recorder | None = None
        self.weight = nn.Parameter(torch.ones(channels), requires_grad=mode != "frozen")
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=mode != "frozen")
        for prefix in ("", "target_") if mode == "per_domain" else ("",):
            self.register_buffer(f"{prefix}running_mean", torch.zeros(channels))
            self.register_buffer(f"{prefix}running_var", torch.ones(channels))
            self.register_buffer(f"{prefix}num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def statistics(self, domain: Domain | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Running mean (C,), running variance (C,) and number of batches () of a domain (default: the current one)."""
        target = self.mode == "per_domain" and (domain or self.domain) == "target"
        prefix = "target_" if target else ""
        return tuple(getattr(self, prefix + name) for name in _STATISTICS)

    def forward(self, x: Tensor) -> Tensor:
        if self._recorder is not None:
            return self._recorder(x)
        mean, var, batches = self.statistics()
        if self.mode == "frozen" or not self.training:
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        if self.tracking:
            batches.add_(1)
        else:
            # Clones, not None: gradient checkpointing compares what the two passes saved for backward.
            mean, var = mean.clone(), var.clone()
        if world() > 1:
            return self._over_processes(x, mean, var)
        return F.batch_norm(x, mean, var, self.weight, self.bias, True, self.momentum, self.eps)

    def _over_processes(self, x: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
        out, mean, var, count = _SplitBatchNorm.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            running_mean.lerp_(mean, self.momentum)
            running_var.lerp_(var * (count / (count - 1).clamp(min=1)).to(var.dtype), self.momentum)
        return out

    def extra_repr(self) -> str:
        return f"{self.channels}, mode={self.mode}, eps={self.eps}, momentum={self.momentum}"


class _SplitBatchNorm(torch.autograd.Function):
    """Batch norm by the statistics of the pixels of all processes, on any device; torch's SyncBatchNorm needs GPUs.

        dx = w r (dy - sum dy / n - x^ sum(dy x^) / n),  x^ = r (x - mean),  r = (var + eps)^-1/2

    with the sums over all processes; those of this one alone are the gradients of bias and weight, which are averaged
    with all others.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        count, mean, var = _pooled(x.numel() // x.shape[1], mean, var)
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx, grad, *_):
        x, weight, mean, var, count = ctx.saved_tensors
        slope, weight_slope, bias_slope = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        all_weight, all_bias = (total(torch.stack([weight_slope, bias_slope]).double()) / count).to(mean.dtype)
        scale = (var + ctx.eps).rsqrt()
        factor = scale * scale * weight * all_weight
        offset = scale * weight * all_bias - factor * mean
        slope = slope - torch.addcmul(offset.view(1, -1, 1, 1), x, factor.view(1, -1, 1, 1)).to(slope.dtype)
        return slope, weight_slope, bias_slope, None


def _pooled(pixels: int, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of pixels (), mean and population variance (C,) of all processes' pixels, from this one's."""
    # In float64 the variance survives the subtraction of squares.
    mean64, var64 = mean.double(), var.double()
    pixel, first, second = total(pixels * torch.stack([torch.ones_like(mean64), mean64, var64 + mean64.square()]))
    count = pixel[0]
    first, second = first / count.clamp(min=1), second / count.clamp(min=1)
    return count, first.to(mean.dtype), (second - first.square()).clamp(min=0).to(var.dtype)


class _Recorder:
    """Normalises one layer by its batch statistics and pools them over the batches (Chan et al. 1983)."""

    def __init__(self, layer: BatchNorm) -> None:
        self.layer, self.pixels, self.batches = layer, 0, 0
        self.mean: Tensor | None = None
        self.var: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        layer = self.layer
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        new = x.numel() // x.shape[1]
        if self.mean is None:
            self.mean, self.var = mean, var
        else:
            share = new / (self.pixels + new)
            delta = mean - self.mean
            self.mean = self.mean + share * delta
            self.var = self.var + share * (var - self.var) + share * (1 - share) * delta.square()
        self.pixels, self.batches = self.pixels + new, self.batches + 1
        # An eps of 0 (frozen families) would turn a dead channel of one batch into NaN.
        return F.batch_norm(x, mean, var, layer.weight, layer.bias, False, 0.0, layer.eps or 1e-5)

    def write(self, domain: Domain) -> None:
        if world() > 1:
            self.pool()
        if self.mean is None:
            return
        mean, var, batches = self.layer.statistics(domain)
        mean.copy_(self.mean)
        var.copy_(self.var.clamp(min=torch.finfo(self.var.dtype).tiny))
        batches.fill_(self.batches)

    def pool(self) -> None:
        """Pool the statistics of all processes; with fewer batches than processes some have none."""
        zero = torch.zeros_like(self.layer.weight, dtype=torch.float32)
        mean, var = (zero, zero) if self.mean is None else (self.mean, self.var)
        _, self.mean, self.var = _pooled(self.pixels, mean, var)
        self.batches = total(zero.new_tensor(self.batches, dtype=torch.int64))


def norm_factory(mode: Mode = "per_domain", eps: float = 1e-5) -> Norm:
    """The ``norm(channels)`` that the networks of this package take."""
    return partial(BatchNorm, mode=mode, eps=eps)


def batch_norms(model: nn.Module) -> dict[str, BatchNorm]:
    """Name → layer, for every ``BatchNorm`` of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, BatchNorm)}


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        raise ValueError(f'domain must be "source" or "target", got {domain!r}')


@contextmanager
def _every_layer(model: nn.Module, name: str, value: Domain | bool) -> Iterator[None]:
    """Give the attribute ``name`` of every ``BatchNorm`` of the model that value inside the block."""
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [getattr(layer, name) for layer in layers]
    try:
        for layer in layers:
            setattr(layer, name, value)
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            setattr(layer, name, old)


@contextmanager
def use_domain(model: nn.Module, domain: Domain) -> Iterator[None]:
    """Let every ``BatchNorm`` of the model use the statistics of ``domain`` inside the block.

    Without effect on "trained" and "frozen" layers. Backward may run outside the block.
    """
    _check_domain(domain)
    with _every_layer(model, "domain", domain):
        yield


@contextmanager
def untracked(model: nn.Module) -> Iterator[None]:
    """Let no ``BatchNorm`` of the model move its running statistics inside the block; it computes what it would anyway.

    For views that the network only trains on: statistics gathered from distorted colours are not those of the images
    that it is asked about later.
    """
    with _every_layer(model, "tracking", False):
        yield


@torch.no_grad()
def recompute_statistics(model: nn.Module, batches: Iterable[Tensor], domain: Domain = "target") -> None:
    """Set the running statistics of ``domain`` to those of ``batches`` of images (N, 3, H, W) (AdaBN, Li et al. 2016).

    Every layer sees inputs normalised by their own batch's statistics, dropout off; mean and population variance are
    pooled over all pixels of all batches, so unequal batches weigh by their size. "trained" and "frozen" layers have
    one set, which is replaced: keep ``statistics_state(model)`` to undo that. The model's training flags are restored;
    nothing is written if the iteration fails. Returns at once for a model without batch norm.
    ValueError if there is no batch.
    """
    _check_domain(domain)
    layers = list(batch_norms(model).values())
    if not layers:
        return
    flags = [(module, module.training) for module in model.modules()]
    recorders = [_Recorder(layer) for layer in layers]
    seen = False
    try:
        model.eval()
        for layer, recorder in zip(layers, recorders, strict=True):
            layer._recorder = recorder
        for images in batches:
            model(images)
            seen = True
    finally:
        for layer in layers:
            layer._recorder = None
        for module, training in flags:
            module.training = training
    if not total(torch.tensor(int(seen))):
        raise ValueError(f"batch-norm statistics of the {domain} domain need at least one batch, got none")
    for recorder in recorders:
        recorder.write(domain)


def statistics_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of every running statistic of the model, under its state-dict name."""
    return {
        f"{name}.{key}" if name else key: buffer.clone()
        for name, layer in batch_norms(model).items()
        for key, buffer in layer.named_buffers(recurse=False)
    }


@torch.no_grad()
def load_statistics_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Write back what ``statistics_state`` returned. ValueError if names or shapes are those of another model."""
    buffers = {
        f"{name}.{key}" if name else key: buffer
        for name, layer in batch_norms(model).items()
        for key, buffer in layer.named_buffers(recurse=False)
    }
    wrong = [key for key in buffers.keys() | state.keys() if key not in buffers or key not in state]
    wrong += [key for key in buffers.keys() & state.keys() if buffers[key].shape != state[key].shape]
    if wrong:
        raise ValueError(f"batch-norm statistics are of another model: {len(wrong)} entries differ, e.g. {min(wrong)}")
    for key, buffer in buffers.items():
        buffer.copy_(state[key])


@torch.no_grad()
def copy_source_statistics(layer: BatchNorm) -> None:
    """Start the target's statistics of a "per_domain" layer from the source's."""
    for source, target in zip(layer.statistics("source"), layer.statistics("target"), strict=True):
        target.copy_(source)


@contextmanager
def replay(layers: list[BatchNorm], domains: list[Domain]) -> Iterator[None]:
    """Repeat a forward pass: each layer in the domain it had then, no running statistics updated (checkpointing)."""
    before = [(layer.domain, layer.tracking) for layer in layers]
    try:
        for layer, domain in zip(layers, domains, strict=True):
            layer.domain, layer.tracking = domain, False
        yield
    finally:
        for layer, (domain, tracking) in zip(layers, before, strict=True):
            layer.domain, layer.tracking = domain, tracking
