"""sinkhorn over a memory bank of 65,536 rows and 2,048 current ones: three rounds, labels of the current rows.

pytest benchmarks/ops/test_sinkhorn.py --benchmark-only
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from _measure import Operator, UnavailableError, compiled, ours
from roofline import Work
from torch import Tensor

from fastuda.ops import sinkhorn
from fastuda.reference.sinkhorn import sinkhorn as reference

EPSILON, ROUNDS = 0.05, 3


@dataclass(frozen=True)
class Case:
    rows: int
    current: int
    classes: int = 19
    dtype: torch.dtype = torch.float32


CASES = {
    "smoke": {"N=517 K=19": Case(517, 48)},
    "quick": {"N=67584 K=19": Case(65_536 + 2_048, 2_048), "N=67584 K=19 all": Case(65_536 + 2_048, 67_584)},
    "full": {
        "N=67584 K=19": Case(65_536 + 2_048, 2_048),
        "N=67584 K=19 all": Case(65_536 + 2_048, 67_584),
        "N=67584 K=19 bf16": Case(65_536 + 2_048, 2_048, dtype=torch.bfloat16),
        "N=67584 K=150": Case(65_536 + 2_048, 2_048, 150),
    },
}


def setup(case: Case, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cosines, and shares of the classes as skewed as 300 to 1."""
    on = {"generator": generator, "device": generator.device}
    scores = torch.rand(case.rows, case.classes, **on) * 2 - 1
    marginal = 300 ** -torch.linspace(0, 1, case.classes, device=generator.device)
    return scores.to(case.dtype), marginal / marginal.sum()


def work(case: Case, direction: str) -> Work:
    """Scores are read once; an exponential (about 10 operations) per entry, two multiply-adds per entry and round."""
    entries = case.rows * case.classes
    return Work(
        entries * case.dtype.itemsize, 4 * case.current * case.classes, entries * (10 + 4 * ROUNDS), torch.float32
    )


def truth(case: Case, inputs: tuple) -> tuple[Sequence[Tensor], None]:
    """CPSL's algorithm as printed, on Q itself."""
    scores, marginal = (x.double() for x in inputs)
    q = ((scores - scores.max()) / EPSILON).exp()
    for _ in range(ROUNDS):
        q = q / q.sum(0) * marginal
        q = q / q.sum(1, keepdim=True)
    return (q[case.rows - case.current :],), None


def providers(case: Case, device_type: str) -> dict[str, Callable | UnavailableError]:
    skipped = case.rows - case.current

    def operator(scores: Tensor, marginal: Tensor) -> Tensor:
        return sinkhorn(scores, marginal=marginal, epsilon=EPSILON, iterations=ROUNDS, current=case.current)

    def definition(scores: Tensor, marginal: Tensor) -> Tensor:
        return reference(scores[None], marginal[None], EPSILON, ROUNDS, case.current)[0]

    def usual(scores: Tensor, marginal: Tensor) -> Tensor:
        """The usual form: a dense exponential, then rounds of sums and divisions of all of Q."""
        q = torch.exp(scores.float() / EPSILON)
        q = q / q.sum()
        for _ in range(ROUNDS):
            q = q / q.sum(0, keepdim=True) * marginal
            q = q / q.sum(1, keepdim=True) / len(q)
        return q[skipped:] * len(q)

    found = ours("sinkhorn", operator, device_type) | {"reference": definition, "usual": usual}
    found |= {"compile": compiled(usual), "pot": pot(skipped), "geomloss": geomloss(skipped)}
    return found | {"ott": ott(skipped) if device_type == "cpu" else UnavailableError("not for this device")}


def pot(skipped: int) -> Callable | UnavailableError:
    try:
        from ot.bregman import sinkhorn_knopp
    except ImportError:
        return UnavailableError("POT is not installed")

    def run(scores: Tensor, marginal: Tensor) -> Tensor:
        mass = marginal.new_full(scores.shape[:1], 1 / len(scores))
        plan = sinkhorn_knopp(mass, marginal, -scores.float(), EPSILON, numItermax=ROUNDS, stopThr=0, warn=False)
        return plan[skipped:] * len(scores)

    return run


def geomloss(skipped: int) -> Callable | UnavailableError:
    """geomloss: its rounds are symmetric and anneal epsilon, so three of them do not give this method's labels."""
    return UnavailableError("geomloss offers no plain rounds: its result after three is another one")


def ott(skipped: int) -> Callable | UnavailableError:
    try:
        import jax
        from ott.geometry.geometry import Geometry
        from ott.problems.linear.linear_problem import LinearProblem
        from ott.solvers.linear.sinkhorn import Sinkhorn
    except ImportError:
        return UnavailableError("OTT-JAX is not installed")
    solver = Sinkhorn(
        lse_mode=False, min_iterations=ROUNDS, max_iterations=ROUNDS, inner_iterations=ROUNDS, threshold=-1.0
    )
    owner = os.getpid()

    @jax.jit
    def solve(scores, marginal):
        scores = scores.astype("float32")
        mass = jax.numpy.full(scores.shape[:1], 1 / scores.shape[0])
        plan = solver(LinearProblem(Geometry(cost_matrix=-scores, epsilon=EPSILON), a=mass, b=marginal)).matrix
        return plan[skipped:] * scores.shape[0]

    def run(scores: Tensor, marginal: Tensor) -> Tensor:
        if os.getpid() != owner:
            raise UnavailableError("XLA's threads do not survive the fork that measures memory")
        inputs = (jax.dlpack.from_dlpack(x.detach()) for x in (scores, marginal))
        return torch.from_dlpack(solve(*inputs).block_until_ready())

    return run


OPERATOR = Operator(
    name="sinkhorn",
    cases=CASES,
    setup=setup,
    providers=providers,
    work=work,
    truth=truth,
    names=("cpu", "cuda", "triton", "reference", "compile", "usual", "pot", "geomloss", "ott"),
)


def test_sinkhorn(measure):
    measure(OPERATOR)
