"""The GPU dispatch table: what it chooses for a card, how it is overridden, what it says when nothing serves."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch

from fastuda.ops import _dispatch, _library, backend_report, backends, use_backend
from fastuda.ops._table import ROWS

PASCAL, TURING, HOPPER = (6, 1), (7, 5), (9, 0)
FORM = "class_moments_full"


@pytest.fixture
def installed(monkeypatch):
    """Says which backends are built: a set of "cuda" and "triton"."""
    found = {"cuda", "triton"}
    monkeypatch.setattr(_library, "has_kernel", lambda name, key: "cuda" in found)
    monkeypatch.setattr(_dispatch, "_triton_installed", lambda module: "triton" in found)
    monkeypatch.setattr(_dispatch, "_module", lambda form: SimpleNamespace(serves=lambda x: x != "float64"))
    monkeypatch.setattr(_dispatch, "_warned", set())
    monkeypatch.setattr(_dispatch, "_held", set())
    monkeypatch.setattr(_dispatch._ext, "requested_backend", lambda: "auto")
    return found


def test_the_table_and_the_launchers_name_defined_operators():
    assert set(_dispatch.TRITON) <= set(_dispatch.TABLE)
    for form, rows in _dispatch.TABLE.items():
        assert rows[-1][0] == (0, 0), f"{form}: no row for the oldest cards"
        oldest = [row[0] for row in rows]
        assert oldest == sorted(oldest, reverse=True), f"{form}: a row is hidden by the one before"
        assert all(set(order) <= {"cuda", "triton"} for _, order in rows)
        assert hasattr(torch.ops.fastuda, f"{form}_cuda"), f"{form}_cuda has no schema"
    assert sum(map(len, _dispatch.TABLE.values())) == len(ROWS), "rows of a form do not stand together"
    assert all(row.reason for row in ROWS)


def test_the_card_decides(installed):
    assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "triton"
    assert _dispatch.choose(FORM, TURING, ("float32",)) == "cuda"
    assert _dispatch.choose(FORM, HOPPER, ("float64",)) == "cuda"  # the launcher refuses these arguments


def test_what_is_not_built_is_passed_over(installed):
    installed.remove("cuda")
    assert _dispatch.choose(FORM, TURING, ("float32",)) == "triton"
    assert backends(FORM, TURING) == ("triton",) and backends(FORM, PASCAL) == ()


def test_without_a_kernel_the_reference_runs_and_says_so_once(installed):
    installed.remove("cuda")
    with pytest.warns(UserWarning, match="no GPU kernel serves class_moments_full .* compute capability 6.1"):
        assert _dispatch.choose(FORM, PASCAL) == "reference"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _dispatch.choose(FORM, PASCAL) == "reference"


def test_a_backend_can_be_forced(installed):
    with use_backend("cuda"):
        assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "cuda"
        with use_backend("reference"):
            assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "reference"
    with use_backend("triton"), pytest.raises(RuntimeError, match="'triton' was asked for .* compute capability 6.1"):
        _dispatch.choose(FORM, PASCAL, ("float32",))
    assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "triton"


def test_the_environment_forces_a_backend(installed, monkeypatch):
    monkeypatch.setattr(_dispatch._ext, "requested_backend", lambda: "cuda")
    assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "cuda"
    assert backend_report()[FORM]["CUDA"] == "cuda"
    monkeypatch.setattr(_dispatch._ext, "requested_backend", lambda: "reference")
    assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "reference"
    assert backend_report()[FORM]["CUDA"] == "reference"


def test_a_warm_choice_asks_for_no_kernel_again(installed, monkeypatch):
    """But what was missing is looked for at each call: its library may be loaded later."""
    asked = []
    monkeypatch.setattr(_library, "has_kernel", lambda name, key: asked.append(name) or "cuda" in installed)
    installed.remove("cuda")
    assert _dispatch.choose(FORM, TURING, ("float32",)) == "triton"
    installed.add("cuda")
    for _ in range(3):
        assert _dispatch.choose(FORM, TURING, ("float32",)) == "cuda"
    assert asked == [f"{FORM}_cuda"] * 2


def test_a_warm_choice_is_still_overridden_at_once(installed, monkeypatch):
    monkeypatch.undo()  # the environment itself is read
    monkeypatch.setattr(_dispatch, "_held", {FORM})
    monkeypatch.setattr(_dispatch, "_triton_installed", lambda module: True)
    monkeypatch.setattr(_dispatch, "_module", lambda form: SimpleNamespace(serves=lambda x: True))
    monkeypatch.delenv("FASTUDA_BACKEND", raising=False)
    assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "triton"
    for name in ("cuda", "reference", "triton"):
        monkeypatch.setenv("FASTUDA_BACKEND", name)
        assert _dispatch.choose(FORM, HOPPER, ("float32",)) == name
        with use_backend("cuda"):
            assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "cuda"
    monkeypatch.delenv("FASTUDA_BACKEND")
    assert _dispatch.choose(FORM, HOPPER, ("float32",)) == "triton"


def test_each_device_has_a_capability_of_its_own(monkeypatch):
    asked = []
    cards = {torch.device("cuda", 0): PASCAL, torch.device("cuda", 1): HOPPER}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or cards[device])
    _dispatch._capability.cache_clear()
    for _ in range(2):
        assert [_dispatch._capability(device) for device in cards] == [PASCAL, HOPPER]
    assert asked == list(cards)
    _dispatch._capability.cache_clear()


def test_unknown_names_are_refused():
    with (
        pytest.raises(ValueError, match="backend must be one of cuda, triton, reference, got 'cpu'"),
        use_backend("cpu"),
    ):
        pass
    with pytest.raises(ValueError, match="'sinkhole' is not in the dispatch table"):
        backends("sinkhole")


def test_the_chosen_backend_runs(monkeypatch):
    """On CPU tensors, which reach the CUDA key's function by calling it."""
    _library.define("test_dispatch_add(Tensor x) -> Tensor", lambda x: x + 1, torch.empty_like)
    _dispatch.serve("test_dispatch_add")
    _library.register("test_dispatch_add_cuda", "CPU", lambda x: x + 2)
    monkeypatch.setattr(_dispatch, "launcher", lambda form: lambda x: x + 3)
    monkeypatch.setattr(_dispatch, "_capability", lambda device: HOPPER)
    for backend, answer in {"reference": 1, "cuda": 2, "triton": 3}.items():
        monkeypatch.setattr(_dispatch, "choose", lambda form, capability, arguments, backend=backend: backend)
        assert _dispatch._run("test_dispatch_add", "test_dispatch_add", (torch.zeros(1),)).item() == answer


@pytest.mark.gpu
@pytest.mark.parametrize("form", _dispatch.TABLE)
def test_compiled_kernels_serve_this_card(form):
    wanted = {"cuda"} | ({"triton"} if torch.cuda.get_device_capability() >= (7, 5) else set())
    assert set(backends(form)) == wanted
