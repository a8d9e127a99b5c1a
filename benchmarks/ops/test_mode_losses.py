"""mode_losses with 19 classes of 3 modes: forward, and the gradients of embeddings and modes.

pytest benchmarks/ops/test_mode_losses.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps

import torch
from _measure import Operator, UnavailableError, compiled, fits, ours
from roofline import Work
from torch import Tensor
from torch.nn import functional as F

from fastuda.ops import mode_losses
from fastuda.reference.mode_losses import mode_losses as formula

CLASSES, MODES, SIGMA2, MARGIN = 19, 3, 0.5, 1.0
TRUTH_ROWS = 8192  # pixels at a time, which bounds the intermediates of the float64 truth
EDGE = 1e-4  # squared distances are about 1 to 10, and float32 is exact to about 1e-6 of them


@dataclass(frozen=True)
class Case:
    images: int
    height: int
    width: int
    channels: int
    dtype: torch.dtype = torch.float32

    @property
    def pixels(self) -> int:
        return self.images * self.height * self.width


CASES = {
    "smoke": {"d=19 N=247": Case(1, 13, 19, 19), "d=16 N=247": Case(1, 13, 19, 16)},
    "quick": {"d=256 N=14400": Case(1, 90, 160, 256), "d=64 N=14400": Case(1, 90, 160, 64)},
    "full": {
        "d=256 N=115200": Case(8, 90, 160, 256),
        "d=64 N=115200": Case(8, 90, 160, 64),
        "d=256 N=115200 bf16": Case(8, 90, 160, 256, torch.bfloat16),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple:
    """channels_last embeddings near modes that are 1.4 apart; a third have the label of another class.

    uint8 labels of which a tenth is ignored; modes (K, M, d), which also require a gradient.
    """
    on = {"generator": generator, "device": generator.device}
    shape, size = (case.images, case.height, case.width), case.channels**-0.5
    modes = size * torch.randn(CLASSES, MODES, case.channels, **on)
    mode = torch.randint(0, CLASSES * MODES, shape, **on)
    e = modes.flatten(0, 1)[mode] + 0.3 * size * torch.randn(*shape, case.channels, **on)
    other = torch.randint(0, CLASSES, shape, **on)
    labels = torch.where(torch.rand(shape, **on) < 0.3, other, mode // MODES).to(torch.uint8)
    labels[torch.rand(shape, **on) < 0.1] = 255
    e = e.to(case.dtype)
    labels[on_the_edge(e, labels, modes)] = 255
    return e.permute(0, 3, 1, 2).requires_grad_(), labels, modes.requires_grad_()


def on_the_edge(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
    """Pixels so near a tie of the hinge or of the nearest mode that rounding may change their gradient."""
    found = []
    for part, y in zip(e.flatten(0, 2).split(TRUTH_ROWS), labels.flatten().split(TRUTH_ROWS), strict=True):
        distances = torch.stack([(part.double() - v.double()).square().sum(1) for v in modes.flatten(0, 1)], 1)
        least = distances.view(-1, CLASSES, MODES).sort(2).values
        label = y.long().clamp(max=CLASSES - 1).unsqueeze(1)
        rivals = least[..., 0].scatter(1, label, torch.inf).sort(1).values
        hinge = least[..., 0].gather(1, label).squeeze(1) - rivals[:, 0] + MARGIN
        gaps = torch.stack([hinge.abs(), rivals[:, 1] - rivals[:, 0], (least[..., 1] - least[..., 0]).amin(1)])
        found.append(gaps.amin(0) < EDGE)
    return torch.cat(found).view(labels.shape)


def work(case: Case, direction: str) -> Work:
    """e read once, its gradient written once; forward a product with every mode, backward two with a mode a class."""
    n, d = case.pixels, case.channels
    read = n * (d * case.dtype.itemsize + 1) + 4 * CLASSES * MODES * d
    written = n * 4 * 2 if direction == "forward" else n * d * case.dtype.itemsize
    forward, backward = 2 * n * d * CLASSES * MODES, 4 * n * d * CLASSES
    flops = {"forward": forward, "backward": backward, "both": forward + backward}[direction]
    return Work(read, written, flops, case.dtype)


def pixel_rows(e: Tensor) -> Tensor:
    return e.permute(0, 2, 3, 1).flatten(0, 2)


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], Tensor]:
    """The definition under autograd in float64, some pixels at a time: their losses do not depend on each other."""
    e, labels, modes = inputs
    labels, valid, modes = labels.flatten(), (labels < CLASSES).sum().clamp(min=1), modes.detach().double()
    total, slopes = 0.0, []
    for part, y in zip(pixel_rows(e.detach()).split(TRUTH_ROWS), labels.split(TRUTH_ROWS), strict=True):
        part = part.double().requires_grad_()
        triplet, cross_entropy, *_ = formula(part, y, modes, SIGMA2, MARGIN)
        loss = (triplet + cross_entropy).sum() / valid
        slopes.append(torch.autograd.grad(loss, part)[0])
        total = total + loss.detach()
    slope = torch.cat(slopes).view(case.images, case.height, case.width, -1).permute(0, 3, 1, 2)
    return (total,), slope


class _WithModes(torch.autograd.Function):
    """A function whose gradient for the embeddings, which the harness takes, is computed with that for the modes."""

    @staticmethod
    def forward(ctx, function, e, labels, modes):
        with torch.enable_grad():
            ctx.leaves = e.detach().requires_grad_(), modes.detach().requires_grad_()
            ctx.loss = function(ctx.leaves[0], labels, ctx.leaves[1])
        return ctx.loss.detach()

    @staticmethod
    def backward(ctx, grad):
        slope, modes_slope = torch.autograd.grad(ctx.loss, ctx.leaves, grad)
        return None, slope, None, modes_slope


def with_modes(function: Callable) -> Callable:
    @wraps(function)  # keeps its attributes, one of which names the backend
    def call(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
        wanted = torch.is_grad_enabled()
        return _WithModes.apply(function, e, labels, modes) if wanted else function(e, labels, modes)

    return call


def operator(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
    out = mode_losses(e, labels, modes, sigma2=SIGMA2, margin=MARGIN)
    return out.triplet + out.cross_entropy


def definition(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
    """This package's differentiable formula under autograd, all pixels at once."""
    triplet, cross_entropy, *_ = formula(pixel_rows(e), labels.flatten(), modes, SIGMA2, MARGIN)
    return (triplet + cross_entropy).sum() / (labels < CLASSES).sum().clamp(min=1)


def mean_loss(distances: Tensor, labels: Tensor) -> Tensor:
    """Both losses of squared distances (P, K M) by minimum, gather and cross entropy."""
    distances = distances.view(len(distances), CLASSES, MODES).min(2).values
    target = labels.flatten().long()
    valid = target < CLASSES
    label = target.where(valid, 0).unsqueeze(1)
    rival = distances.scatter(1, label, torch.inf).min(1).values
    triplet = (distances.gather(1, label).squeeze(1) - rival + MARGIN).clamp(min=0)
    cross_entropy = F.cross_entropy(distances / (-2 * SIGMA2), label.squeeze(1), reduction="none")
    return ((triplet + cross_entropy) * valid).sum() / valid.sum().clamp(min=1)


def usual(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
    return mean_loss(torch.cdist(pixel_rows(e).float(), modes.flatten(0, 1)).square(), labels)


def matmul(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
    """|e|^2 - 2 e.v + |v|^2 by one matrix product, which loses digits where an embedding is near its mode."""
    e, v = pixel_rows(e).float(), modes.flatten(0, 1)
    return mean_loss(e.square().sum(1, keepdim=True) - 2 * e @ v.T + v.square().sum(1), labels)


def faiss_distances(device_type: str) -> Callable | UnavailableError:
    """Squared distances by faiss, the losses by torch; forward alone, because faiss has no gradients."""
    if device_type != "cpu":
        return UnavailableError("faiss-cpu runs on a CPU")
    try:
        import faiss
    except ImportError:
        return UnavailableError("faiss-cpu is not installed")

    def forward(e: Tensor, labels: Tensor, modes: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise UnavailableError("faiss has no gradients")
        faiss.omp_set_num_threads(torch.get_num_threads())
        x = pixel_rows(e).float().contiguous().numpy()
        return mean_loss(torch.from_numpy(faiss.pairwise_distances(x, modes.flatten(0, 1).numpy())), labels)

    return forward


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    found = ours("mode_losses_forward", operator, device_type)
    others = {"reference": definition, "compile": compiled(definition), "usual": usual}
    others |= {"compile_usual": compiled(usual), "matmul": matmul, "compile_matmul": compiled(matmul)}
    nbytes = 4 * case.pixels * (3 * case.channels + 6 * CLASSES * MODES)
    found |= {name: fits(function, nbytes, device_type) for name, function in others.items()}
    found = {k: f if isinstance(f, UnavailableError) else with_modes(f) for k, f in found.items()}
    return found | {"faiss": faiss_distances(device_type)}


OPERATOR = Operator(
    name="mode_losses",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    directions=("forward", "backward", "both"),
    names=(
        *("cpu", "cuda", "triton", "reference", "compile", "usual", "compile_usual", "matmul", "compile_matmul"),
        "faiss",
    ),
)


def test_mode_losses(measure):
    measure(OPERATOR)
