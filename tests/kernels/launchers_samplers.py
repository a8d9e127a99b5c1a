"""The launchers of the samplers and of the loss on their triplets; see launchers.py."""

LAUNCHERS = [
    ("select_triplets", "select_triplets", "select_triplets", "serves"),
    ("triplet_consistency_forward", "triplet_consistency_loss", "forward", "serves"),
    ("triplet_consistency_backward", "triplet_consistency_loss", "backward", "serves_backward"),
    ("class_balanced_sample", "class_balanced_sample", "class_balanced_sample", "serves"),
    ("sample_per_class", "class_balanced_sample", "sample_per_class", "serves_per_class"),
]
