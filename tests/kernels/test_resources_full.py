"""What resources.json must say of the kernels on full covariances beyond what test_aot.py asks of every kernel."""

from __future__ import annotations

import json

import pytest
import triton_room

CASES = json.loads((triton_room.HERE / "resources.json").read_text())["cases"]
# tcgen05 (sm_100) calls both types of 16 bits f16.
BF16 = {"sm_80": "mma.bf16", "sm_86": "mma.bf16", "sm_90": "wgmma.bf16", "sm_100": "tcgen05.f16", "sm_120": "mma.bf16"}
TF32 = {card: name.split(".")[0] + ".tf32" for card, name in BF16.items()}
MATRIX = {
    "class_moments_full, A=256, float32": {"_multiply_panels": BF16},
    "class_moments_full, A=256, bfloat16": {"_multiply_panels": BF16},
    "class_moments_full, A=256, NCHW": {"_multiply_panels": BF16},
    "contrastive_bound_full, A=256, bfloat16": {"_quadratic_forms": BF16, "_slopes": BF16},
    "contrastive_bound_full, A=256, float16": {"_quadratic_forms": TF32, "_slopes": TF32},
    "contrastive_bound_full, A=256, float32": {"_quadratic_forms": TF32, "_slopes": TF32},
}
LEAST_REGISTERS = 64  # what does not fit in the tensor memory of sm_100 compiles to nothing, with 4 registers


@pytest.mark.parametrize("card", BF16)
@pytest.mark.parametrize("case", MATRIX)
def test_products_run_on_the_matrix_units_of_the_card(case, card):
    for kernel, names in MATRIX[case].items():
        row = CASES[case][card][kernel]
        assert names[card] in row["matrix"], f"{kernel} on {card}: {row['matrix']} instead of {names[card]}"
        assert row["registers"] >= LEAST_REGISTERS, f"{kernel} on {card} does nothing"
