"""Which implementation serves which operator on which device."""

from __future__ import annotations

from fastuda import _ext
from fastuda.ops import _dispatch, _library


def backend_report() -> dict[str, dict[str, str]]:
    """``{operator: {"CPU": ..., "CUDA": ...}}``: "compiled", the GPU backends by preference, or "reference".

    A form of an operator with separate GPU kernels (``contrastive_bound_full_forward``) is a row without "CPU".
    FASTUDA_BACKEND=reference (read at import) keeps every operator on its plain PyTorch reference; "cuda" or "triton"
    forces one backend on GPUs, as ``use_backend`` does for a block of code.
    """
    names = _library.operator_names()
    report = {n: {"CPU": "compiled" if _library.has_kernel(n, "CPU") else "reference"} for n in names}
    for name in (*names, *(form for form in _dispatch.TABLE if form not in names)):
        found = _dispatch.backends(name) if name in _dispatch.TABLE else ()
        if _dispatch.requested() in ("cuda", "triton"):
            found = tuple(b for b in found if b == _dispatch.requested())
        served = ", ".join(found) if _dispatch.requested() != "reference" else ""
        report.setdefault(name, {})["CUDA"] = served or "reference"
    return report


def build_facts() -> dict[str, object]:
    """What the extension was built with and which instructions it uses here; empty if it is not loaded."""
    return {} if _ext.extension is None else dict(_ext.extension.build_facts())
