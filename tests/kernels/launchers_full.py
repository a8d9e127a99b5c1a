"""The launchers of full covariances; see launchers.py."""

LAUNCHERS = [
    ("class_moments_full", "class_moments_full", "class_moments_full", "serves"),
    ("contrastive_bound_forward", "contrastive_bound_full", "forward", "serves"),
    ("contrastive_bound_backward", "contrastive_bound_full", "backward", "serves_backward"),
]
