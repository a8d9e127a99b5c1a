"""DeepLab-v2 (Chen et al. 2017): a backbone at stride 8 and atrous spatial pyramid pooling straight to the classes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from fastuda.models.backbone import Backbone
from fastuda.models.dropout import Dropout
from fastuda.models.output import Output

Classifier = Callable[[int, int], nn.Module]
RATES = (6, 12, 18, 24)


class ASPP(nn.Module):
    """(N, A, h, w) → (N, K, h, w): the sum of four 3x3 convolutions of dilation 6, 12, 18 and 24."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(channels, num_classes, 3, padding=rate, dilation=rate) for rate in RATES
        )
        for conv in self.conv2d_list:
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Tensor) -> Tensor:
        first, *others = self.conv2d_list
        logits = first(features)
        for conv in others:
            logits = logits + conv(features)
        return logits


class DeepLab(nn.Module):
    """images (N, 3, H, W), standardised → ``Output``: features (N, A, h, w) and logits (N, K, h, w) at stride 8.

    classifier: (channels, classes) → the module on the features, DeepLab-v2's pyramid unless another is given.
    """

    def __init__(
        self, backbone: Backbone, num_classes: int, dropout: float = 0.0, classifier: Classifier = ASPP
    ) -> None:
        super().__init__()
        self.backbone = backbone
        # Between features and classifier, so that the features themselves have no noise.
        self.dropout = Dropout(dropout) if dropout else nn.Identity()
        self.classifier = classifier(backbone.channels, num_classes)
        self.feature_channels = backbone.channels

    def forward(self, images: Tensor) -> Output:
        features = self.backbone(images)
        return Output(features, self.classifier(self.dropout(features)))

    def classifier_parameters(self) -> list[nn.Parameter]:
        """The parameters that train, of the pyramid."""
        return [parameter for parameter in self.classifier.parameters() if parameter.requires_grad]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that train, of everything before the pyramid."""
        return [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
