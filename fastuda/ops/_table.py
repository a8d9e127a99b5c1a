"""Which GPU backend each form of a raw operator prefers on which card, and why.

The first row of a form whose compute capability is not above the card's decides; the other backends stay callable.
``python benchmarks/choose.py RESULTS.json`` rewrites the rows for which a results file holds measurements on a card.

Until a card has measured a form, its reason is counted or measured without one.  "Host" is the host's time of a warm
call, measured with the GPU's driver replaced by a stand-in: a call shorter than that on the card is limited by it.
"""

from __future__ import annotations

from typing import NamedTuple

Capability = tuple[int, int]
CUDA = ("cuda", "triton")
TRITON = ("triton", "cuda")


class Row(NamedTuple):
    """oldest: compute capability from which on the order holds. order: backends, the preferred one first."""

    form: str
    oldest: Capability
    order: tuple[str, ...]
    reason: str


ROWS = (
    Row("class_moments", (0, 0), CUDA, "not measured: host 53 us, Triton 150; memory limits both on the card"),
    Row("class_moments_full", (8, 0), TRITON, "not measured: products by tensor cores, 9 ms against 19 predicted"),
    Row("class_moments_full", (0, 0), CUDA, "not measured: no tensor cores for float32 before 8.0"),
    Row("contrastive_bound_forward", (0, 0), CUDA, "not measured: host 38 us, Triton 280; one image takes less"),
    Row("contrastive_bound_backward", (0, 0), CUDA, "not measured: as forward"),
    Row("contrastive_bound_full_forward", (8, 0), TRITON, "not measured: tensor cores, 8 ms against 20 predicted"),
    Row("contrastive_bound_full_forward", (0, 0), CUDA, "not measured: no tensor cores for float32 before 8.0"),
    Row("contrastive_bound_full_backward", (8, 0), TRITON, "not measured: as forward"),
    Row("contrastive_bound_full_backward", (0, 0), CUDA, "not measured: as forward"),
    Row("sinkhorn", (0, 0), CUDA, "not measured: host 73 us, Triton 374"),
    Row("mode_losses_forward", (0, 0), CUDA, "not measured: host 42 us, Triton 234; a quarter fewer instructions"),
    Row("mode_losses_backward", (0, 0), CUDA, "not measured: with forward 0.95 ms against 2.3 predicted"),
    Row("select_triplets", (0, 0), CUDA, "not measured: host 119 us, Triton 368"),
    Row("triplet_consistency_forward", (0, 0), CUDA, "not measured: no products for tensor cores; Triton's host"),
    Row("triplet_consistency_backward", (0, 0), CUDA, "not measured: no products for tensor cores; Triton's host"),
    Row("class_balanced_sample", (0, 0), CUDA, "not measured: host 66 us, Triton 591"),
    Row("sample_per_class", (0, 0), CUDA, "not measured: host 68 us, Triton 501"),
    Row("softmax_kl_forward", (0, 0), CUDA, "not measured: host 41 us, Triton 105"),
    Row("softmax_kl_backward", (0, 0), CUDA, "not measured: as forward"),
    Row("class_thresholds", (0, 0), CUDA, "not measured: host 83 us, Triton 470"),
    Row("upsample_cross_entropy", (0, 0), CUDA, "not measured: no products for tensor cores; Triton's host"),
    Row("lovasz_softmax", (0, 0), CUDA, "not measured: no products for tensor cores; Triton's host"),
    Row("pixel_mean", (0, 0), CUDA, "not measured: one small launch, whose time is the host's"),
    Row("pseudo_labels", (0, 0), CUDA, "not measured: host 82 us, Triton 143"),
    Row("confusion_matrix", (0, 0), CUDA, "not measured: host 37 us, Triton 85"),
    Row("confidence_histogram", (0, 0), CUDA, "not measured: no products for tensor cores; Triton's host"),
    Row("prototype_rectify", (0, 0), CUDA, "not measured: no products for tensor cores; Triton's host"),
    Row("aggregate_patches", (0, 0), CUDA, "not measured: host 157 us, Triton 324"),
)
