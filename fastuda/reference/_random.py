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
    """Two numbers below 2^32 on ``device``, without waiting for it unless ``generator`` lives elsewhere.

    Raises RuntimeError while a CUDA graph is captured if replays could not draw anew: with a generator of the CPU, or
    one of the device that the graph does not hold.
    """
    where = device if generator is None else generator.device
    if device.type == "cuda" and not torch.compiler.is_compiling() and torch.cuda.is_current_stream_capturing():
        return _captured_seed(device, where, generator)
    return torch.randint(0, 1 << 32, (2,), generator=generator, device=where).to(device, non_blocking=True)


def _captured_seed(device: torch.device, where: torch.device, generator: torch.Generator | None) -> Tensor:
    if where.type != "cuda":
        raise RuntimeError(
            f"a generator on {where} draws once while a CUDA graph is captured, and every replay would repeat it: "
            "give a generator of the GPU that graph.register_generator_state(generator) has registered, or none"
        )
    try:
        return torch.randint(0, 1 << 32, (2,), generator=generator, device=device)
    except RuntimeError as error:
        if generator is None:
            raise
        raise RuntimeError(
            "a generator cannot draw while a CUDA graph is captured unless it was registered before: "
            "call graph.register_generator_state(generator) before the capture, or give no generator"
        ) from error


def below(bits: Tensor, limit: Tensor) -> Tensor:
    """A number in 0..limit-1 from 32 bits, uniform to limit / 2^32; 0 where limit is 0."""
    return (bits * limit) >> 32
