"""ResNet-38's graph: strides, channels, parameters, recomputed activations."""

from __future__ import annotations

import torch

from fastuda.models import build_model
from fastuda.models.config import ModelConfig


def test_the_graph_of_the_paper():
    with torch.device("meta"):
        network = build_model(ModelConfig(name="resnet38"), 19)
        output = network(torch.empty(1, 3, 64, 100))
    assert output.features.shape == (1, 4096, 8, 13) and output.logits.shape == (1, 19, 8, 13)
    convolutions = [m for m in network.backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    # The first, two a unit of blocks 2 to 5, three a unit of blocks 6 and 7, and a projection a block.
    assert len(convolutions) == 1 + 2 * (3 + 3 + 6 + 3) + 3 * 2 + 6
    assert {m.dilation[0] for m in convolutions} == {1, 2, 4}
    assert sum(p.numel() for p in network.backbone.parameters()) == 105_070_912


def test_recomputing_changes_no_gradient():
    images = torch.randn(2, 3, 33, 40)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = build_model(ModelConfig(name="resnet38", width=1 / 16, checkpointing=checkpointing), 5).train()
        torch.manual_seed(1)
        network(images).logits.square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(g is not None for g in gradients[0])
