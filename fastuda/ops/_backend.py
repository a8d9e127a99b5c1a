"""Which implementation serves which operator on which device."""

from __future__ import annotations

from fastuda import _ext
from fastuda.ops import _library


def backend_report() -> dict[str, dict[str, str]]:
    """``{operator: {"CPU": ..., "CUDA": ...}}`` with "compiled" or "reference".

    FASTUDA_BACKEND=reference (read at import) keeps every operator on its plain PyTorch reference.
    """
    return {
        name: {key: "compiled" if _library.has_kernel(name, key) else "reference" for key in ("CPU", "CUDA")}
        for name in _library.operator_names()
    }


def build_facts() -> dict[str, object]:
    """What the extension was built with and which instructions it uses here; empty if it is not loaded."""
    return {} if _ext.extension is None else dict(_ext.extension.build_facts())
