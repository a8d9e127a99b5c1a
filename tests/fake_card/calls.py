"""Every public operator on CUDA tensors, as the trainer calls it.

Values are whatever the memory holds: no kernel runs on the fake card.  Sizes are those of one step at 720 x 1280.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastuda import ops

CLASSES, MODES, CHANNELS, STRIDE = 19, 3, 256, 8
HEIGHT, WIDTH = 90, 160  # of features and low-resolution logits
ROWS, BANK = 1024, 5700  # of target and source embeddings
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """Tensors on a device, of a floating type where the operator takes several."""

    device: torch.device
    dtype: torch.dtype
    generators: list[torch.Generator] = field(default_factory=list)  # made so far: a graph must be told of them

    def floats(self, *shape: int, dtype: torch.dtype | None = None, channels_last: bool = False) -> Tensor:
        empty = torch.empty(shape, dtype=dtype or self.dtype, device=self.device)
        return empty.contiguous(memory_format=torch.channels_last) if channels_last else empty

    def statistics(self, *shape: int) -> Tensor:
        return self.floats(*shape, dtype=torch.float32)

    def integers(self, *shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def features(self, channels_last: bool = True) -> Tensor:
        return self.floats(2, CHANNELS, HEIGHT, WIDTH, channels_last=channels_last)

    def logits(self) -> Tensor:
        return self.floats(2, CLASSES, HEIGHT, WIDTH)

    def small_labels(self) -> Tensor:
        return self.integers(2, HEIGHT, WIDTH)

    def large_labels(self) -> Tensor:
        return self.integers(2, STRIDE * HEIGHT, STRIDE * WIDTH)

    def generator(self) -> torch.Generator:
        self.generators.append(torch.Generator(device=self.device))
        return self.generators[-1]


@dataclass(frozen=True)
class PublicCall:
    """``make(inputs)``: the call and the tensors that its loss has gradients of, none where it has no backward.

    dtypes: whether fp16 and bf16 are something else than fp32.
    goal: microseconds of host time that forward and backward may take, 0 for none.
    """

    name: str
    make: Callable[[Inputs], tuple[Callable, Sequence[Tensor]]]
    dtypes: bool = True
    goal: int = 0


SIZE = (STRIDE * HEIGHT, STRIDE * WIDTH)


def _bound(statistics: Callable[[Inputs], tuple], channels_last: bool = True, **options) -> Callable:
    def make(x: Inputs):
        given, labels, query = statistics(x), x.small_labels(), x.features(channels_last)
        return (lambda q: ops.contrastive_bound(q, labels, *given, **options)), [query]

    return make


def _moments(channels_last: bool = True, **options) -> Callable:
    def make(x: Inputs):
        features, labels = x.features(channels_last), x.small_labels()
        return (lambda: ops.class_moments(features, labels, CLASSES, **options)), []

    return make


def _modes(reduction: str) -> Callable:
    def make(x: Inputs):
        labels = x.small_labels()
        given = [x.features(), x.statistics(CLASSES, MODES, CHANNELS)]

        def call(e, m):
            losses = ops.mode_losses(e, labels, m, reduction=reduction)
            return losses.triplet, losses.cross_entropy

        return call, given

    return make


def _dense(operator: Callable, **options) -> Callable:
    def make(x: Inputs):
        labels = x.large_labels()
        return (lambda logits: operator(logits, labels, **options)), [x.logits()]

    return make


def _weighted_cross_entropy(x: Inputs):
    labels, weight, pixel_weight = x.large_labels(), x.statistics(CLASSES), x.statistics(2, *SIZE)
    options = {"weight": weight, "pixel_weight": pixel_weight, "label_smoothing": 0.1, "reduction": "none"}
    return (lambda logits: ops.upsample_cross_entropy(logits, labels, **options)), [x.logits()]


def _masked_distillation(x: Inputs):
    teacher, mask = x.logits(), x.integers(2, HEIGHT, WIDTH, dtype=torch.bool)
    return (lambda student: ops.distillation_kl(student, teacher, temperature=2.0, mask=mask)), [x.logits()]


def _scores(operator: Callable, *others: Callable, **options) -> Callable:
    def make(x: Inputs):
        given = [x.logits(), *(other(x) for other in others)]
        return (lambda: operator(*given, size=SIZE, **options)), []

    return make


def _patches(x: Inputs):
    scores = x.floats(2, 9, CLASSES, 64, 64)
    offsets = x.integers(2, 9, 2, dtype=torch.int64)
    full = x.logits()
    return (lambda: ops.aggregate_patches(scores, offsets, SIZE, stride=STRIDE, full=full, bins=64)), []


def _sinkhorn(x: Inputs):
    scores, marginal = x.floats(67584, CLASSES), x.statistics(CLASSES)
    return (lambda: ops.sinkhorn(scores, marginal=marginal, epsilon=0.05, iterations=3)), []


def _triplets(x: Inputs):
    partners = [x.integers(ROWS, dtype=dtype) for dtype in (torch.int64, torch.int64, torch.bool)]
    given = [x.floats(ROWS, CHANNELS), x.floats(BANK, CHANNELS)]
    return (lambda target, source: ops.triplet_consistency_loss(target, source, *partners)), given


def _select_triplets(x: Inputs):
    rows = [x.integers(n, dtype=torch.int64) for n in (BANK, BANK, ROWS, ROWS)]
    generator = x.generator()
    return (lambda: ops.select_triplets(*rows, num_classes=CLASSES, num_modes=MODES, generator=generator)), []


def _draw(operator: Callable, count: int) -> Callable:
    def make(x: Inputs):
        labels, generator = x.small_labels(), x.generator()
        return (lambda: operator(labels, count, CLASSES, generator=generator)), []

    return make


def _thresholds(x: Inputs):
    confidence, labels = x.floats(2, *SIZE), x.large_labels()
    return (lambda: ops.class_thresholds(confidence, labels, CLASSES, rule="portion", portion=0.5)), []


def _confusion(x: Inputs):
    prediction, truth = x.large_labels(), x.large_labels()
    return (lambda: ops.confusion_matrix(prediction, truth, CLASSES)), []


def _diagonal(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.statistics(CLASSES, CHANNELS), x.statistics(CLASSES, CHANNELS)


def _matrices(x: Inputs) -> tuple[Tensor, Tensor]:
    return x.statistics(CLASSES, CHANNELS), x.statistics(CLASSES, CHANNELS, CHANNELS)


CALLS = (
    PublicCall("class_moments", _moments()),
    PublicCall("class_moments NCHW", _moments(False)),
    PublicCall("class_moments full", _moments(covariance="full")),
    PublicCall("contrastive_bound", _bound(_diagonal, normalize=True), goal=120),
    PublicCall("contrastive_bound NCHW no covariance", _bound(lambda x: _diagonal(x)[:1], False), goal=120),
    PublicCall("contrastive_bound full", _bound(_matrices, normalize=True), goal=120),
    PublicCall("contrastive_bound none", _bound(_diagonal, normalize=True, reduction="none")),
    PublicCall("mode_losses", _modes("mean"), goal=120),
    PublicCall("mode_losses none", _modes("none")),
    PublicCall("symmetric_kl", lambda x: (ops.symmetric_kl, [x.logits(), x.logits()])),
    PublicCall("distillation_kl masked", _masked_distillation),
    PublicCall("upsample_cross_entropy", _dense(ops.upsample_cross_entropy)),
    PublicCall("upsample_cross_entropy weighted map", _weighted_cross_entropy),
    PublicCall("lovasz_softmax", _dense(ops.lovasz_softmax)),
    PublicCall("lovasz_softmax 1024 bins", _dense(ops.lovasz_softmax, bins=1024)),
    PublicCall("triplet_consistency_loss", _triplets),
    PublicCall("select_triplets", _select_triplets, dtypes=False),
    PublicCall("class_balanced_sample", _draw(ops.class_balanced_sample, 512), dtypes=False),
    PublicCall("sample_per_class", _draw(ops.sample_per_class, 64), dtypes=False),
    PublicCall("class_thresholds", _thresholds),
    PublicCall("pseudo_labels", _scores(ops.pseudo_labels, threshold=0.9, return_confidence=True)),
    PublicCall("select_balanced", _scores(ops.select_balanced, lambda x: x.statistics(CLASSES))),
    PublicCall("confidence_histogram", _scores(ops.confidence_histogram, bins=256)),
    PublicCall("prototype_rectify", _scores(ops.prototype_rectify, Inputs.logits)),
    PublicCall("aggregate_patches", _patches),
    PublicCall("sinkhorn", _sinkhorn),
    PublicCall("confusion_matrix", _confusion, dtypes=False),
)


def forward_of(call: PublicCall, inputs: Inputs) -> Callable[[], object]:
    """The call without a gradient."""
    function, leaves = call.make(inputs)
    return lambda: function(*leaves)


def both_of(call: PublicCall, inputs: Inputs) -> Callable[[], object] | None:
    """The call and its gradients, the incoming ones being there already; None for a call without backward."""
    function, leaves = call.make(inputs)
    if not leaves:
        return None
    for leaf in leaves:
        leaf.requires_grad_()

    def parts() -> list[Tensor]:
        result = function(*leaves)
        return [result] if isinstance(result, Tensor) else list(result)

    incoming = [torch.ones_like(part) for part in parts()]
    return lambda: torch.autograd.grad(parts(), leaves, incoming)
