"""Every Triton kernel compiles for its cards without spills, with the matrix instructions that are meant; no GPU."""

from __future__ import annotations

import json

import needed
import pytest

needed.module("triton")

import aot  # noqa: E402
import triton  # noqa: E402

from fastuda.ops._dispatch import preferred  # noqa: E402

TABLE = json.loads(aot.TABLE.read_text())
CASES = aot.cases()
# Registers differ between versions of Triton's compiler: they are compared with the record of the same one.
SAME_COMPILER = triton.__version__ == TABLE["triton"]
LEAST_TENSOR_CORES = 80
TENSOR_MEMORY = (100,)  # one instruction for both types of 16 bits; a descriptor says which


@pytest.fixture(scope="module")
def compiler():
    with aot.fresh_cache():
        yield aot.Compiler()


# (case, card, kernel) -> bytes that ptxas keeps in local memory. None is of a form that prefers Triton on that card.
SPILLS = {
    ("contrastive_bound, A=256, bfloat16", 120, "_bound_backward"): 8,
    ("contrastive_bound, A=2048, bfloat16", 120, "_bound_backward"): 8,
    ("mode_losses, d=256, float32", 100, "_feature_slopes"): 8,
    ("contrastive_bound_full, A=256, plain", 75, "_losses"): 8,
}
FORMS = {"_bound_backward": "contrastive_bound_backward", "_feature_slopes": "mode_losses_backward"}
FORMS["_losses"] = "contrastive_bound_full_forward"


def faults(case: aot.Case, card: int, measured: aot.Resources, recorded: aot.Resources | None) -> list[str]:
    found = [
        f"{name}: {row['spills']} bytes spilled"
        for name, row in measured.items()
        if row["spills"] > SPILLS.get((case.name, card, name), 0)
    ]
    for name, dtype in case.matrix.items():
        used = measured[name]["matrix"]
        meant = {f".{dtype}"} | ({".f16"} if card in TENSOR_MEMORY and dtype == "bf16" else set())
        if card >= LEAST_TENSOR_CORES and not any(each.endswith(tuple(meant)) for each in used):
            found.append(f"{name}: no {dtype} matrix instruction, but {used}")
    if recorded is not None:
        found += [f"{name}: not in resources.json" for name in measured.keys() - recorded.keys()]
        found += [f"{name}: gone" for name in recorded.keys() - measured.keys()]
        for name in measured.keys() & recorded.keys():
            now, then = measured[name], recorded[name]
            found += [f"{name}: {now[w]} {w}, recorded {then[w]}" for w in ("registers", "shared") if now[w] > then[w]]
            if now["matrix"] != then["matrix"]:
                found.append(f"{name}: {now['matrix']}, recorded {then['matrix']}")
    return found


PAIRS = [(case, card) for case in CASES for card in (aot.CARDS if case.every_card else (aot.CASE_CARD,))]


@pytest.mark.slow
@pytest.mark.parametrize("case, card", PAIRS, ids=[f"{case.name}-sm_{card}" for case, card in PAIRS])
def test_resources(compiler, case, card):
    measured = compiler.measure(case, card)
    recorded = TABLE["cases"][case.name][f"sm_{card}"] if SAME_COMPILER else None
    assert not faults(case, card, measured, recorded), "python tests/kernels/aot.py records what is meant"


def test_the_table_holds_every_case_on_every_card_without_a_fault():
    assert set(TABLE["cases"]) == {case.name for case in CASES}, "run python tests/kernels/aot.py"
    for case in CASES:
        cards = TABLE["cases"][case.name]
        assert set(cards) == {f"sm_{card}" for card in aot.CARDS}
        for card in aot.CARDS:
            assert not faults(case, card, cards[f"sm_{card}"], None), f"{case.name} on sm_{card}"


@pytest.mark.parametrize("case, card, kernel", SPILLS)
def test_spills_are_of_forms_that_cuda_serves_first(case, card, kernel):
    assert TABLE["cases"][case][f"sm_{card}"][kernel]["spills"] == SPILLS[case, card, kernel]
    assert preferred(FORMS[kernel], (card // 10, card % 10))[0] == "cuda"


def test_a_fault_is_seen():
    row = {"registers": 40, "shared": 16, "spills": 0, "matrix": ["mma.bf16"]}
    case = aot.Case("a case", "class_moments", print, {"k": "bf16"})
    assert faults(case, 80, {"k": row}, {"k": row}) == []
    for change in ({"registers": 41}, {"shared": 17}, {"spills": 8}, {"matrix": []}, {"matrix": ["mma.f16"]}):
        assert faults(case, 80, {"k": row | change}, {"k": row}), change
    assert faults(case, 80, {"k": row | {"registers": 41, "matrix": ["wgmma.bf16"]}}, None) == []
    assert faults(case, 100, {"k": row | {"matrix": ["tcgen05.f16"]}}, None) == []
    assert len(faults(case, 75, {"k": row, "other": row}, {"k": row, "lost": row})) == 2


def test_a_spilling_kernel_is_measured(compiler):
    """The resources that the gate reads are those of the binary: a kernel that must spill is seen to."""
    import spilling

    assert aot.resources(spilling.launch().compile(80))["spills"] > 0
