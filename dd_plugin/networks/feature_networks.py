"""Networks that return features (N, d), and that a head can be put on.

A `FeatureNetwork` wraps a model. `classifier.ClassifierRemoved` is the usual one, whose own last
layer is replaced. Where that is impossible, `LayerFeatures` takes the output of a named layer, and
the head goes on top (`FeatureClassifier`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from dd_plugin.networks.errors import BackboneError

__all__ = [
    "FeatureClassifier",
    "FeatureNetwork",
    "LayerFeatures",
    "linear_layer",
    "output_tensor",
    "pooled",
]


class FeatureNetwork(nn.Module):
    """A model that returns features, and that a head can be given.

    Args:
        model: the wrapped model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return features (N, d) of network input (N, 3, H, W)."""
        raise NotImplementedError

    def with_head(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """Return a model of the same modules that gives ``features @ weight.T + bias``.

        This network is not to be used afterwards.
        """
        return FeatureClassifier(self, linear_layer(weight, bias))


class FeatureClassifier(nn.Module):
    """A backbone's features followed by one linear layer: ``classifier(features(x))``.

    Stands in where a model has no place for a classifier, such as the vision tower of CLIP.

    Args:
        features: maps network input to features (N, d).
        classifier: maps features to logits.
    """

    def __init__(self, features: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return logits (N, classes) of network input (N, 3, H, W)."""
        return self.classifier(self.features(pixel_values))


class LayerFeatures(FeatureNetwork):
    """The output of one layer of a model, averaged over positions if it is 4-dimensional.

    Args:
        model: any module.
        layer: name of the layer, as `named_modules` spells it.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__(model)
        self.layer = layer

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the layer's output as (N, d)."""
        outputs: list[Any] = []
        handle = self.model.get_submodule(self.layer).register_forward_hook(
            lambda module, inputs, output: outputs.append(output)
        )
        try:
            self.model(pixel_values)
        finally:
            handle.remove()
        if len(outputs) != 1:
            raise BackboneError(
                f"the layer {self.layer!r} must be used once per forward pass, got {len(outputs)} "
                "uses; name another `feature_layer`"
            )
        return pooled(outputs[0], f"the layer {self.layer!r}")


def pooled(output: Any, source: str) -> Tensor:
    """Return an output as features (N, d): as it is, or averaged over two spatial dimensions."""
    if isinstance(output, Tensor) and output.ndim in (2, 4):
        return output if output.ndim == 2 else output.mean((2, 3))
    kind = (
        f"a tensor of shape {tuple(output.shape)}"
        if isinstance(output, Tensor)
        else f"a {type(output).__name__}"
    )
    raise BackboneError(
        f"{source} must return one tensor (N, d) or (N, d, H, W), got {kind}; give "
        "`feature_layer`, the name of a layer that does"
    )


def output_tensor(output: Any) -> Tensor:
    """Return the logits of a model's output: the tensor itself, or its `logits`."""
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise BackboneError(
            f"the model must return one tensor or an output with `logits`, got a "
            f"{type(output).__name__} (features of several kinds); give `feature_layer`, the name "
            "of the layer whose output is to be taken"
        )
    return logits


def linear_layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a linear layer in eval mode with copies of a weight (m, d) and a bias (m,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    layer.bias = nn.Parameter(bias.detach().clone())
    layer.eval()
    return layer
