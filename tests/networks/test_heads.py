"""Any head: the gradient of its loss reaches the images that its features were computed from."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dd_plugin.bilevel import adam, sgd
from dd_plugin.networks import RidgeHead, UnrolledHead
from tests.networks.head_inputs import CLASSES, constants, data


@pytest.mark.parametrize("head", [RidgeHead(), UnrolledHead(3, sgd(0.5)), UnrolledHead(2, adam())])
def test_through_a_small_backbone_the_images_get_the_whole_graph_s_gradient(head):
    """Features with a graph, the head's gradient sent back through them, against one graph."""
    torch.manual_seed(1)
    backbone = nn.Sequential(nn.Conv2d(3, 5, 3), nn.GELU(), nn.AvgPool2d(6), nn.Flatten()).double()
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    _, targets, judged = data(4, 5)
    how = {"num_classes": CLASSES, "constants": constants() if head.initial_constants() else {}}
    sizes = torch.full((getattr(head, "steps", 1),), 0.03, dtype=torch.float64)
    features = backbone(images)
    found = head.gradient(features, targets, judged, step_sizes=sizes, seed=0, **how)
    (slope,) = torch.autograd.grad(features, images, found.features)

    def loss_of(x):
        with torch.no_grad():
            f = backbone(x)
        trained = head.fit(f, targets, step_sizes=sizes, **how)
        return F.cross_entropy(trained.logits(judged[0]), judged[1])

    direction = torch.randn_like(images)
    eps = 1e-6
    numeric = (
        loss_of(images.detach() + eps * direction) - loss_of(images.detach() - eps * direction)
    ) / (2 * eps)
    assert abs(numeric - (slope * direction).sum()) < 1e-7 * (1 + abs(numeric))
