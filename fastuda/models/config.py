"""The settings of a network, on the command line and in YAML files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelConfig:
    """A segmentation network."""

    # "unet" trains from scratch on a laptop; "efficientnet_lite0" is small and has ImageNet weights in a package; the
    # others work at stride 8, all but resnet38 (MLSL's) as DeepLab-v2.
    name: Literal[
        "unet",
        "deeplab_resnet18",
        "deeplab_resnet50",
        "deeplab_resnet101",
        "deeplab_vgg16",
        "resnet38",
        "efficientnet_lite0",
    ] = "unet"

    # Factor on every channel count; results are rounded to multiples of 8.
    width: float = 1.0

    # How batch norm treats the domains: one running set for both, never updated, or one set a domain.
    norm: Literal["trained", "frozen", "per_domain"] = "per_domain"

    # Path of a checkpoint to start from (torchvision, SDCA, SPCL, CPSL, ProDA, AdaptSegNet or our own); "" = none.
    # "imagenet": those of efficientnet_lite0 from the extra fastuda[pretrained].
    weights: str = ""

    # Family whose ResNet graph is built; the released checkpoints of a family need its own.
    graph: Literal["torchvision", "sdca", "cpsl"] = "torchvision"

    # Stride of efficientnet_lite0's last map, which costs four to five times as much at 8 as at 32; 0 = 32 with the
    # decoder "fpn" or "mlp", else 8. The other networks have their own.
    stride: Literal[0, 8, 16, 32] = 0

    # What follows the backbone. "aspp": DeepLab-v2's pyramid straight to the classes; "aspp_se": CPSL's and
    # ProDA's released one, whose 256 channels are then the features; "aspp_se_norm": with a batch norm before it, as
    # their distilled students have. Of efficientnet_lite0 also "fpn", a feature pyramid, and "mlp", SegFormer's head:
    # both reach stride 4.
    decoder: Literal["aspp", "aspp_se", "aspp_se_norm", "fpn", "mlp"] = "aspp"

    # Store weights as NHWC, the fast layout of convolutions.
    channels_last: bool = True

    # Recompute activations in backward: about a third more time, a fraction of the memory.
    checkpointing: bool = False
