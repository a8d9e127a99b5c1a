"""The patch discriminator of output-space adversarial alignment."""

from __future__ import annotations

from torch import nn


class PatchDiscriminator(nn.Sequential):
    """Softmax maps (N, K, h, w) to logits (N, 1, h', w') of coming from the source, one for each patch.

    AdaptSegNet's (Tsai et al., CVPR 2018): ``depth`` convolutions 4x4 of stride 2 and padding 1 with leaky ReLUs of
    slope 0.2, widths doubling from ``width`` to eight times that, no normalisation, and a last one to one channel.  The
    paper has five and maps of the image's size; on a network's own maps, smaller by its stride, fewer serve.
    Raises ValueError for a depth below 1; maps smaller than 2^depth are refused by the convolutions.
    """

    def __init__(self, num_classes: int, width: int = 64, depth: int = 5) -> None:
        if depth < 1 or width < 1:
            raise ValueError(f"a discriminator needs depth and width of at least 1, got {depth} and {width}")
        layers: list[nn.Module] = []
        channels = num_classes
        for number in range(depth - 1):
            wider = width * min(2**number, 8)
            layers += [nn.Conv2d(channels, wider, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
            channels = wider
        super().__init__(*layers, nn.Conv2d(channels, 1, 4, 2, 1))
