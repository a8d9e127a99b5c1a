"""From a config to a network."""

from __future__ import annotations

import math
import os

import torch
from torch import nn

from fastuda.models.config import ModelConfig
from fastuda.models.decoder import DecoderDeepLab
from fastuda.models.deeplab import ASPP, DeepLab
from fastuda.models.efficientnet import EPS, EfficientNetLite0
from fastuda.models.norm import norm_factory
from fastuda.models.pretrained import IMAGENET, imagenet_weights
from fastuda.models.pyramid import DECODERS, PyramidNet
from fastuda.models.resnet import GRAPHS, resnet
from fastuda.models.unet import UNet
from fastuda.models.vgg import vgg16
from fastuda.models.weights import GRAPH, load_weights
from fastuda.models.wide_resnet import TwoConvolutions, WideResNet38


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """The network of ``config`` with ``num_classes`` outputs, initialised from ``config.weights`` if that is given.

    ``model(images (N, 3, H, W) float32, standardised) -> Output(features (N, A, h, w), logits (N, K, h, w))``.
    ValueError for a setting that makes no network, and for a checkpoint of another one.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if not (math.isfinite(config.width) and config.width > 0):
        raise ValueError(f"model.width must be a positive number, got {config.width}")
    model = _network(config, num_classes)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.weights == IMAGENET:
        load_weights(model, imagenet_weights(config.name))
    elif config.weights:
        report = load_weights(model, os.path.expandvars(os.path.expanduser(config.weights)))
        for name, saved in report.network.items():
            if name in GRAPH and saved != getattr(config, name):
                raise ValueError(
                    f"{config.weights} is of a network with model.{name} {saved}, not {getattr(config, name)}"
                )
        if report.family in ("sdca", "cpsl") and report.family != config.graph:
            raise ValueError(
                f"{config.weights} is a checkpoint of the {report.family} family, which computes something else in "
                f"the {config.graph} graph: set model.graph to {report.family}"
            )
        if config.decoder == "aspp_se" and any("bn_pretrain." in key for key in report.unexpected):
            raise ValueError(
                f"{config.weights} is of a network with a batch norm between backbone and decoder: set model.decoder "
                "to aspp_se_norm"
            )
    return model


def _network(config: ModelConfig, num_classes: int) -> nn.Module:
    _check_decoder(config)
    if config.name == "unet":
        if config.checkpointing:
            raise ValueError("model.checkpointing is for the deeplab networks, not for unet")
        return UNet(num_classes, config.width, norm_factory(config.norm))
    if config.graph not in GRAPHS:
        raise ValueError(f"model.graph must be one of {', '.join(GRAPHS)}, got {config.graph!r}")
    dropout, classifier = 0.0, ASPP
    if config.name == "resnet38":
        backbone, classifier = WideResNet38(config.width, norm_factory(config.norm)), TwoConvolutions
    elif config.name == "deeplab_vgg16":
        released = config.graph != "torchvision"
        backbone = vgg16(config.width, released)
        dropout = 0.0 if released else 0.5
    elif config.name in ("deeplab_resnet18", "deeplab_resnet50", "deeplab_resnet101"):
        graph = GRAPHS[config.graph]
        norm = norm_factory(config.norm, graph.frozen_eps if config.norm == "frozen" else 1e-5)
        backbone = resnet(int(config.name.removeprefix("deeplab_resnet")), config.width, norm, graph)
    elif config.name == "efficientnet_lite0":
        # The published momentum averages over hundreds of steps, more than a short fine-tuning has: torch's is used.
        stride = config.stride or (32 if config.decoder in DECODERS else 8)
        backbone = EfficientNetLite0(config.width, norm_factory(config.norm, EPS), stride)
    else:
        raise ValueError(f"model.name {config.name!r} is no network of fastuda")
    backbone.checkpointing = config.checkpointing
    if config.decoder in DECODERS:
        return PyramidNet(backbone, num_classes, config.decoder, config.width)
    if config.decoder != "aspp":
        before = norm_factory(config.norm) if config.decoder == "aspp_se_norm" else None
        return DecoderDeepLab(backbone, num_classes, dropout, config.width, before)
    return DeepLab(backbone, num_classes, dropout, classifier)


def _check_decoder(config: ModelConfig) -> None:
    """ValueError for a decoder or a stride that the network does not have."""
    pyramid = config.name == "efficientnet_lite0"
    if config.stride and not pyramid:
        raise ValueError(f"model.stride is for efficientnet_lite0, not for {config.name}: leave it 0")
    if config.decoder in DECODERS and not pyramid:
        raise ValueError(f"model.decoder {config.decoder!r} is for efficientnet_lite0, not for {config.name}")
    if config.decoder != "aspp" and not (pyramid or config.name.startswith("deeplab_")):
        raise ValueError(f"model.decoder {config.decoder!r} is for the deeplab networks, not for {config.name}")
