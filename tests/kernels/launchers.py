"""Which launcher serves which raw operator: (operator, module of fastuda.kernels, launcher, predicate)."""

LAUNCHERS = [
    ("class_moments", "class_moments", "class_moments", "serves"),
    ("contrastive_bound_forward", "contrastive_bound", "forward", "serves"),
    ("contrastive_bound_backward", "contrastive_bound", "backward", "serves_backward"),
]
