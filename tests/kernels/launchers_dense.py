"""The launchers of the losses and thresholds on dense labels; see launchers.py."""

LAUNCHERS = [
    ("softmax_kl_forward", "softmax_kl", "forward", "serves"),
    ("softmax_kl_backward", "softmax_kl", "backward", "serves_backward"),
    ("class_thresholds", "class_thresholds", "class_thresholds", "serves"),
    ("upsample_cross_entropy", "upsample_cross_entropy", "upsample_cross_entropy", "serves"),
    ("lovasz_softmax", "lovasz_softmax", "lovasz_softmax", "serves"),
    ("pixel_mean", "pixel_mean", "pixel_mean", "serves"),
]
