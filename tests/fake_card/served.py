"""Which backend the dispatch table gives to each form while a block of code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastuda.ops import _dispatch, use_backend

Served = dict[str, set[str]]


@contextmanager
def served() -> Iterator[Served]:
    """A dict that fills with {form: backends} inside the block."""
    own, found = _dispatch.choose, {}

    def choose(form, *arguments, **options):
        backend = own(form, *arguments, **options)
        found.setdefault(form, set()).add(backend)
        return backend

    _dispatch.choose = choose
    try:
        yield found
    finally:
        _dispatch.choose = own


def check_that_falls_are_seen() -> None:
    """RuntimeError if a call that falls to plain PyTorch is not recorded: all checks would then pass for nothing."""
    from fastuda import ops

    labels = torch.zeros(1, 4, 4, dtype=torch.uint8, device="cuda")
    with served() as found, use_backend("reference"):
        ops.confusion_matrix(labels, labels, 3)
    if found != {"confusion_matrix": {"reference"}}:
        raise RuntimeError(f"fastuda.ops._dispatch no longer chooses through choose(): recorded {found}")
