"""The classifier of a model: which layer it is, and how another one gets into its place.

`remove_classifier` runs the model once to find the layer that makes the logits, and puts an
identity in its place. The model then returns what its own head took, and a linear layer in that
place gives an ordinary model again.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugin.networks.errors import BackboneError
from dd_plugin.networks.feature_networks import (
    FeatureNetwork,
    LayerFeatures,
    linear_layer,
    output_tensor,
)
from dd_plugin.text import described

__all__ = ["ClassifierRemoved", "layer_features", "remove_classifier"]


class ClassifierRemoved(FeatureNetwork):
    """A model whose classifier layers are identities.

    Args:
        model: with identities at `paths`.
        paths: where the classifier's layers were. Two heads, as distilled ones have, take the same
            weights, since the model averages what they return.
        convolutional: for each path, whether it was a 1x1 convolution.
    """

    def __init__(
        self, model: nn.Module, paths: Sequence[str], convolutional: Sequence[bool]
    ) -> None:
        super().__init__(model)
        self.paths = tuple(paths)
        self.convolutional = tuple(convolutional)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return what the model's own classifier takes."""
        return output_tensor(self.model(pixel_values)).flatten(1)

    def with_head(self, weight: Tensor, bias: Tensor) -> nn.Module:
        """Return the ordinary model with a new classifier."""
        for path, convolutional in zip(self.paths, self.convolutional, strict=True):
            layer = (_convolution if convolutional else linear_layer)(weight, bias)
            self.model.set_submodule(path, layer)
        return self.model


def remove_classifier(
    model: nn.Module, example: Tensor, declared: Sequence[nn.Module] = ()
) -> ClassifierRemoved:
    """Take the layer that makes the logits out of a model.

    The layer is found in one forward pass, and the result is checked in two more: with a random
    layer in its place the model must return that layer's logits of the features.

    Args:
        model: changed in place; in eval mode.
        example: network input (2, 3, H, W), not constant.
        declared: modules that the model itself calls its classifiers.

    Raises:
        BackboneError: no such layer, or the model does something else with what it returns.
    """
    layers = _declared_layers(model, declared) or _executed_layers(model, example)
    old: list[nn.Module] = [model.get_submodule(path) for path in layers]
    convolutional = [isinstance(layer, nn.Conv2d) for layer in old]
    for path in layers:
        model.set_submodule(path, nn.Identity())
    network = ClassifierRemoved(model, layers, convolutional)
    try:
        with torch.no_grad():
            features = network(example)
            generator = torch.Generator().manual_seed(0)
            weight = torch.randn(3, features.shape[1], generator=generator).to(features)
            weight /= features.shape[1] ** 0.5
            bias = torch.randn(3, generator=generator).to(features)
            for path, convolution in zip(layers, convolutional, strict=True):
                new = (_convolution if convolution else linear_layer)(weight, bias)
                model.set_submodule(path, new)
            logits = output_tensor(model(example)).flatten(1)
        expected = F.linear(features, weight, bias)
        tolerance = 200 * torch.finfo(features.dtype).eps ** 0.9 * (1 + expected.abs().max())
        fits = logits.shape == expected.shape and bool(
            ((logits - expected).abs() <= tolerance).all()
        )
        problem = "" if fits else "its output is not the logits of one linear layer"
    except Exception as error:  # noqa: BLE001 - a model may do anything with its classifier
        problem = described(error)
    if problem:
        for path, layer in zip(layers, old, strict=True):
            model.set_submodule(path, layer)
        raise BackboneError(
            f"the classifier of the {type(model).__name__} ({', '.join(layers)}) cannot be "
            f"replaced ({problem}); give `feature_layer`, the name of the layer whose output is "
            "to be taken"
        )
    for path in layers:
        model.set_submodule(path, nn.Identity())
    return network


def layer_features(model: nn.Module, layer: str, example: Tensor) -> FeatureNetwork:
    """Return a network that gives the output of a named layer.

    If one linear layer, and nothing else, follows, it is the classifier that a head replaces.

    Raises:
        BackboneError: there is no such layer, or its output is no vector per image.
    """
    names = [name for name, _ in model.named_modules() if name]
    if layer not in names:
        close = difflib.get_close_matches(layer, names, n=3) or names[-3:]
        raise BackboneError(
            f"`feature_layer` must be a layer of the {type(model).__name__}, got {layer!r}; "
            f"try {', '.join(map(repr, close))}"
        )
    network = LayerFeatures(model, layer)
    with torch.no_grad():
        features = network(example)
        try:
            without = remove_classifier(copy.deepcopy(model), example)
        except BackboneError:
            return network
        before_head = without(example)
    if before_head.shape == features.shape and torch.allclose(
        before_head, features, rtol=1e-4, atol=1e-6
    ):
        return without
    return network


def _is_linear(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _declared_layers(model: nn.Module, declared: Sequence[nn.Module]) -> list[str]:
    """Return the path of the last linear layer in each declared classifier."""
    paths = {id(module): path for path, module in model.named_modules()}
    layers = []
    for classifier in declared:
        linear = [module for module in classifier.modules() if _is_linear(module)]
        if not linear or id(linear[-1]) not in paths:
            return []
        layers.append(paths[id(linear[-1])])
    return layers


def _executed_layers(model: nn.Module, example: Tensor) -> list[str]:
    """Return the path of the layer whose output the model returns."""
    outputs: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda module, inputs, output, path=path: outputs.append((path, output))
        )
        for path, module in model.named_modules()
        if path and _is_linear(module)
    ]
    try:
        with torch.no_grad():
            logits = output_tensor(model(example)).flatten(1)
    finally:
        for handle in handles:
            handle.remove()
    for path, output in reversed(outputs):
        if output.numel() == logits.numel() and torch.equal(output.flatten(1), logits):
            return [path]
    raise BackboneError(
        f"the {type(model).__name__} must end in one linear layer that makes its logits, and none "
        "was found; give `feature_layer`, the name of the layer whose output is to be taken"
    )


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone()[:, :, None, None])
    layer.bias = nn.Parameter(bias.detach().clone())
    layer.eval()
    return layer
