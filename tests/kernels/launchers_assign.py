"""The launchers of the assignment operators; see launchers.py."""

LAUNCHERS = [
    ("sinkhorn", "sinkhorn", "sinkhorn", "serves"),
    ("mode_losses_forward", "mode_losses", "forward", "serves"),
    ("mode_losses_backward", "mode_losses", "backward", "serves_backward"),
]
