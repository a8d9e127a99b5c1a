"""The launchers of the operators on dense labels; see launchers.py."""

NAMES = ("pseudo_labels", "confusion_matrix", "confidence_histogram", "prototype_rectify", "aggregate_patches")
LAUNCHERS = [(name, name, name, "serves") for name in NAMES]
