"""The closed-form upper bound of the pixel-to-distribution contrastive loss (SDCA Eq. 14, simplified).

    a_k = q.mu_k / tau + q^T Sigma_k q / (2 tau^2)          loss = logsumexp_k(a_k) - q.mu_y / tau
    d loss / d q = sum_k p_k (mu_k / tau + Sigma_k q / tau^2) - mu_y / tau,     p = softmax(a)

Without Sigma it is SPCL's prototype loss.  No statement here builds pixels x classes x channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastuda.labels import IGNORE
from fastuda.reference._pixels import block, chunks, compute_dtype, pixels, rows, usable
from fastuda.reference.low_rank import LowRank


def contrastive_bound(
    features: Tensor,
    labels: Tensor,
    mean: Tensor,
    covariance: Tensor | LowRank | None = None,
    temperature: float = 100.0,
    normalize: bool = False,
    ignore_index: int = IGNORE,
) -> Tensor:
    """The definition, differentiable by autograd: the loss of each pixel, 0 where the label is ignored.

    features (P, A), labels (P,) of any integer type, mean (K, A), covariance None, (K, A), symmetric (K, A, A) or
    LowRank, for which q^T Sigma_k q = sum_a d_ka q_a^2 + |U_k^T q|^2.
    Under ``normalize`` q, each mean and each covariance are divided by their length; zero vectors stay 0.  A full
    covariance is divided by its Frobenius norm: on a diagonal matrix that is the length of the diagonal's vector, so
    (K, A) and (K, A, A) of the same diagonal statistics give the same loss, and |q^T Sigma q| <= 1 on the unit sphere.
    So does LowRank, by the Frobenius norm of the matrix that it stands for.
    (Dividing by |mu|^2, the scale of the features, would blow up for classes whose mean is near 0.)
    """
    dtype = compute_dtype(features)
    q, mean = features.to(dtype), mean.detach().to(dtype)
    covariance = _constant(covariance, dtype)
    scale = mean.new_ones(len(mean))
    if normalize:
        mean = mean * _inverse_norm(mean)
        if covariance is not None:
            scale = _inverse_length(covariance, dtype)
        squared = q.square().sum(1, keepdim=True)
        factor = torch.where(squared > 0, squared, 1.0).rsqrt()  # autograd through a norm is NaN at 0
        q = q * factor.where(squared > 0, 0.0)
    first = q @ mean.T / temperature
    logits = first
    if covariance is not None:
        logits = first + _quadratic(q, covariance) * scale / (2 * temperature**2)
    valid, index = usable(labels, len(mean), ignore_index)
    loss = logits.logsumexp(1) - first.gather(1, index.unsqueeze(1)).squeeze(1)
    return loss.where(valid, 0.0)


def forward(
    features: Tensor,
    labels: Tensor,
    mean: Tensor,
    covariance: Tensor | LowRank | None,
    temperature: float,
    normalize: bool,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Loss of each pixel (N, H, W), 0 where ignored, and the softmax p (N, H, W, K) that ``backward`` reads.

    features (N, A, H, W), any strides; both results are float32, or float64 for float64 features.
    Memory: a few buffers of CHUNK_ELEMENTS; for a full covariance the classes are visited one by one within a chunk.
    """
    dtype = compute_dtype(features)
    loss = features.new_empty(labels.shape, dtype=dtype)
    posterior = features.new_empty((*labels.shape, len(mean)), dtype=dtype)
    with torch.autocast(features.device.type, enabled=False):
        mean, scale = _prepare(mean, covariance, dtype, normalize)
        for part in chunks(features):
            q = rows(features, part).to(dtype)
            inverse = _inverse_norm(q) if normalize else q.new_ones(len(q), 1)
            logits = first = (q @ mean.T).mul_(inverse).div_(temperature)
            if covariance is not None:
                second = _quadratic(q, covariance).mul_(scale)
                logits = first + second.mul_(inverse).mul_(inverse).div_(2 * temperature**2)
            y = pixels(labels, part)
            valid, index = usable(y, len(mean), ignore_index)
            of_label = first.gather(1, index.unsqueeze(1)).squeeze(1)
            each = (logits.logsumexp(1) - of_label).where(valid, 0.0)
            block(loss, part).copy_(each.view(labels[part].shape))
            target = block(posterior, part)
            target.copy_(logits.softmax(1).view(target.shape))
    return loss, posterior


def backward(
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    mean: Tensor,
    covariance: Tensor | LowRank | None,
    posterior: Tensor,
    temperature: float,
    normalize: bool,
    ignore_index: int,
) -> Tensor:
    """Gradient with respect to the features, in their dtype; ``grad`` (N, H, W) multiplies before the rounding.

    Ignored pixels and, under ``normalize``, features of length 0 get exactly 0.  Memory: the result and a few buffers
    of CHUNK_ELEMENTS.
    """
    dtype = compute_dtype(features)
    result = torch.empty_like(features)
    with torch.autocast(features.device.type, enabled=False):
        mean, scale = _prepare(mean, covariance, dtype, normalize)
        for part in chunks(features):
            q = rows(features, part).to(dtype)
            p = block(posterior, part).reshape(len(q), len(mean))
            valid, index = usable(pixels(labels, part), len(mean), ignore_index)
            one_hot = torch.zeros_like(p).scatter_(1, index.unsqueeze(1), 1.0)
            inverse = _inverse_norm(q) if normalize else q.new_ones(len(q), 1)
            slope = ((p - one_hot) @ mean).div_(temperature)
            if covariance is not None:
                _add_second(slope, q, p * scale * (inverse / temperature**2), covariance)
            if normalize:  # chain rule of q / |q|: remove the part along q, then divide by |q|
                along = (slope * q).sum(1, keepdim=True).mul_(inverse).mul_(inverse)
                slope.addcmul_(q, along, value=-1).mul_(inverse)
            slope.mul_(pixels(grad, part).to(dtype).unsqueeze(1))
            slope.masked_fill_(~valid.unsqueeze(1), 0.0)
            target = block(result, part, channels=True)
            target.copy_(slope.view(target.shape))
    return result


def _prepare(
    mean: Tensor, covariance: Tensor | LowRank | None, dtype: torch.dtype, normalize: bool
) -> tuple[Tensor, Tensor]:
    """The mean as used, and the factor of each class's quadratic term: the covariance itself is never copied."""
    mean = mean.to(dtype)
    scale = mean.new_ones(len(mean))
    if normalize:
        mean = mean * _inverse_norm(mean)
        if covariance is not None:
            scale = _inverse_length(covariance, dtype)
    return mean, scale


def _constant(covariance: Tensor | LowRank | None, dtype: torch.dtype) -> Tensor | LowRank | None:
    if isinstance(covariance, LowRank):
        return LowRank(covariance.diag.detach().to(dtype), covariance.factors.detach().to(dtype))
    return None if covariance is None else covariance.detach().to(dtype)


def _quadratic(q: Tensor, covariance: Tensor | LowRank) -> Tensor:
    """q^T Sigma_k q, (P, K)."""
    if isinstance(covariance, LowRank):
        along = torch.stack([(q @ u.to(q.dtype)).square().sum(1) for u in covariance.factors], 1)
        return along + q.square() @ covariance.diag.to(q.dtype).T
    if covariance.dim() == 2:
        return q.square() @ covariance.to(q.dtype).T
    return torch.stack([((q @ sigma.to(q.dtype)) * q).sum(1) for sigma in covariance], 1)


def _add_second(slope: Tensor, q: Tensor, weight: Tensor, covariance: Tensor | LowRank) -> None:
    """slope += sum_k weight_k Sigma_k q."""
    if isinstance(covariance, LowRank):
        slope.addcmul_(weight @ covariance.diag.to(q.dtype), q)
        for k, u in enumerate(covariance.factors.to(q.dtype)):
            slope.addmm_((q @ u).mul_(weight[:, k : k + 1]), u.T)
        return
    if covariance.dim() == 2:
        slope.addcmul_(weight @ covariance.to(q.dtype), q)
        return
    for k, sigma in enumerate(covariance):
        slope.addmm_(q * weight[:, k : k + 1], sigma.to(q.dtype))


def _inverse_length(covariance: Tensor | LowRank, dtype: torch.dtype) -> Tensor:
    """1 / Frobenius norm of each Sigma_k, (K,), computed in ``dtype``; 0 for a zero matrix.

    |diag(d) + U U^T|^2 = sum_a d_a^2 + 2 sum_a d_a |U_a|^2 + |U^T U|^2, without the A x A matrix.
    """
    if isinstance(covariance, LowRank):
        diag, factors = covariance.diag.to(dtype), covariance.factors.to(dtype)
        squared = diag.square().sum(1) + 2 * (diag * factors.square().sum(2)).sum(1)
        length = (squared + (factors.mT @ factors).square().sum((1, 2))).sqrt()
    else:
        length = torch.linalg.vector_norm(covariance.to(dtype).flatten(1), dim=1)
    return torch.where(length > 0, length, 1.0).reciprocal().where(length > 0, 0.0)


def _inverse_norm(rows: Tensor) -> Tensor:
    """1 / length of each row, (rows, 1); 0 for a row of length 0, so that it stays 0 and gets no gradient."""
    norm = rows.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, norm, 1.0).reciprocal().where(norm > 0, 0.0)
