"""Names of label ids in well-known conventions, for proposals: what a simulator or a data set calls them."""

from __future__ import annotations

from fastuda.data.classes import TRAIN_ID_NAMES

# fmt: off
CARLA = (  # CARLA 0.9.14 and later
    "unlabelled", "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "pedestrian", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    "static", "dynamic", "other", "water", "road line", "ground", "bridge", "rail track", "guard rail",
)
CITYSCAPES_IDS = {
    7: "road", 8: "sidewalk", 9: "parking", 10: "rail track", 11: "building", 12: "wall", 13: "fence", 14: "guard rail",
    15: "bridge", 16: "tunnel", 17: "pole", 18: "polegroup", 19: "traffic light", 20: "traffic sign", 21: "vegetation",
    22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 29: "caravan",
    30: "trailer", 31: "train", 32: "motorcycle", 33: "bicycle",
}
# fmt: on


def known_names(read: str, label_suffix: str) -> tuple[str, dict[int, str], set[int]]:
    """(convention, id -> name, ids that are void) as far as the way labels are stored gives the convention away."""
    if read == "red":
        return "CARLA since 0.9.14", dict(enumerate(CARLA)), {0}
    if read == "id" and "labeltrainids" in label_suffix.lower():
        return "Cityscapes train ids", dict(enumerate(TRAIN_ID_NAMES)), set()
    if read == "id" and "labelids" in label_suffix.lower():
        return "Cityscapes ids", CITYSCAPES_IDS, set(range(7))
    return "", {}, set()
