"""Counter-based random numbers: a function of a seed, a stream and a counter, the same bits on every device."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def random_bits(seed: Tensor, stream: int, counter: Tensor) -> Tensor:
    """32 random bits for each counter below 2^32, int64; ``seed`` holds two numbers below 2^32.

    Two rounds of a 32-bit mixer (multiply and xor-shift, a bijection each), keyed before each round.  Streams are
    unrelated sequences of one seed.
    """
    bits = _mix(counter ^ seed[0])
    return _mix((bits + seed[1] + stream * 0x9E3779B9) & _MASK)


def _mix(bits: Tensor) -> Tensor:
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        bits = ((bits ^ (bits >> shift)) * factor) & _MASK
    return bits ^ (bits >> 15)


def draw_seed(device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Two numbers below 2^32 on ``device``, without waiting for it unless ``generator`` lives elsewhere."""
    where = device if generator is None else generator.device
    return torch.randint(0, 1 << 32, (2,), generator=generator, device=where).to(device, non_blocking=True)


def below(bits: Tensor, limit: Tensor) -> Tensor:
    """A number in 0..limit-1 from 32 bits, uniform to limit / 2^32; 0 where limit is 0."""
    return (bits * limit) >> 32
