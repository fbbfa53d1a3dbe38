"""Checks of a network and of the losses against the data, before any work.

Used by `networks` for its first network, and by `distiller` for losses that the user wrote.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dd_plugin.bilevel import logits_of
from dd_plugin.bilevel.copying import copy_model
from dd_plugin.bilevel.functional import check_has_values
from dd_plugin.bilevel.problem import Loss
from dd_plugin.data import SyntheticSet
from dd_plugin.seeds import untouched_generators
from dd_plugin.text import first_line


def check_model(model: nn.Module) -> None:
    """Check that inner runs can train a network.

    Raises:
        ValueError: it has lazy parameters, none that is trained, or tensors without values.
    """
    lazy = [name for name, p in [*model.named_parameters(), *model.named_buffers()] if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"the model has parameters whose shapes are not known yet, such as {lazy[0]!r}; run "
            "one batch through it first"
        )
    check_has_values(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(
            "the model has no trainable parameter; call `model.requires_grad_()` on what the inner "
            "optimizer should train"
        )


def check_start(model: nn.Module) -> None:
    """Check that the file of a distilled set can hold a network, the fixed start of its runs.

    Infinite values are allowed: masks of attention have them.

    Raises:
        ValueError: a tensor has NaN.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise ValueError(
                f"the network that every run starts from must be whole, but its {name!r} has "
                "values that are not numbers (NaN); give them a value"
            )


def check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """Check the logits that a copy of the model returns for two images, in both modes.

    Raises:
        ValueError: it cannot take the images, or returns something else than logits.
    """
    trial = copy_model(model)
    expected = "x".join(str(n) for n in images.shape[1:])
    for training in (False, True):
        try:
            trial.train(training)  # an override of `train` may return nothing
            with torch.no_grad():
                output = trial(images)
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the model cannot take images of {expected} (channels x height x width) in "
                f"{'training' if training else 'eval'} mode: {first_line(error)}"
                f"{_channel_hint(model, images.shape[1])}"
            ) from error
        logits = logits_of(output)
        if logits.dim() != 2 or len(logits) != 2:
            raise ValueError(
                f"the model must return logits (N, {num_classes}), got shape "
                f"{tuple(logits.shape)} for 2 images; it is no image classifier"
            )
        if logits.shape[1] != num_classes:
            raise ValueError(
                f"the model must have an output for each of the {num_classes} classes of the data, "
                f"got {logits.shape[1]}; make it with num_classes={num_classes}"
            )
        sums = logits.double().sum(1)
        if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
            raise ValueError(
                "the model must return logits, got probabilities (they sum to 1); leave out its "
                "last softmax"
            )


def check_losses(inner_loss: Loss, outer_loss: Loss, synthetic: SyntheticSet) -> None:
    """Call each loss once, on labels of the kind that it will get.

    Raises:
        ValueError: it fails, or returns something else than one number.
    """
    targets, classes = synthetic.targets().detach()[:2], synthetic.labels[:2]
    soft = synthetic.learned_labels is not None
    why = "soft_labels=True makes them weights of the classes" if soft else "indices of the classes"
    logits = synthetic.step_sizes().detach().new_zeros(len(classes), synthetic.recipe.num_classes)
    for name, loss, labels, form in (
        ("inner", inner_loss, targets, why),
        ("outer", outer_loss, classes, "indices of the classes"),
    ):
        shapes = f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} ({form})"
        try:
            with untouched_generators(), torch.no_grad():
                value = loss(logits, labels)
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the {name} loss must take {shapes}, and failed: {first_line(error)}"
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the {name} loss must return one number as a tensor, such as the mean over the "
                f"images, got {got} from {shapes}"
            )


def _channel_hint(model: nn.Module, channels: int) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.in_channels != channels:
                return (
                    f". Its first convolution, {name!r}, takes {module.in_channels} channel(s) and "
                    f"the images have {channels}: make it for {channels} (`in_chans` in timm), or "
                    "convert the images"
                )
            break
    return ""
