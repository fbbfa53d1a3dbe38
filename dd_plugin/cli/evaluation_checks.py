"""What `dd-plugin evaluate` checks before it trains anything, which takes long.

Used by `evaluate`: the file of results, the device, and each network on two images of its set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugin.cli.errors import CommandError
from dd_plugin.distiller.baseline_names import LABEL_CONTROLS
from dd_plugin.text import first_line

if TYPE_CHECKING:
    from dd_plugin.data import RealData
    from dd_plugin.hub import DistilledDataset
    from dd_plugin.hub.record import Record
    from dd_plugin.hub.using.choosing import Protocol
    from dd_plugin.networks import Backbone


def check_output(output: Path) -> None:
    """Check that rows can be added to a file of results.

    Raises:
        CommandError: the file cannot be written, or holds something else.
    """
    from dd_plugin.hub.ledger import rows_in

    if output.is_dir():
        raise CommandError(f"--output must be a file, got the folder {output}; add a name")
    if not output.parent.is_dir():
        raise CommandError(
            f"--output must be in a folder that is there, got {output}; make {output.parent} first"
        )
    if not os.access(output if output.exists() else output.parent, os.W_OK):
        raise CommandError(f"--output must be writable, got {output}; choose another file")
    try:
        rows_in(output)
    except ValueError as error:
        raise CommandError(
            f"--output must be a new file or one of an evaluation, got {output}, which holds "
            "something else; choose another file"
        ) from error


def choose_device(name: str | None) -> str:
    """Return the device of that name; without one, cuda or else cpu.

    Raises:
        CommandError: the device does not work here.
    """
    import torch

    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.ones(1, device=device).item()
    # Without support for the device torch has assertions and errors of several kinds.
    except (AssertionError, RuntimeError, ValueError, TypeError, ImportError) as error:
        raise CommandError(
            f"--device must be one that works here, got {device}: {first_line(error)}; "
            "use --device cpu"
        ) from error
    return device


def choose_models(name: str, distilled: DistilledDataset, models: list[str] | None) -> list[str]:
    """Return the networks to train on a set: those asked for, or else those of its recipe.

    Args:
        name: of the set.
        distilled: the set.
        models: the networks asked for.

    Raises:
        CommandError: the recipe names none.
    """
    recipe = distilled.recipe
    if recipe.trainable == "head":
        of_recipe = [backbone.model for backbone in recipe.backbones if backbone.model]
    else:
        labeled = zip(recipe.architectures, recipe.network_labels, strict=True)
        of_recipe = [label for network, label in labeled if network.model]
    if not models and not of_recipe:
        raise CommandError(
            f"{name} was distilled for a network without a name; say which to train with --model, "
            "and with --protocol recipe if it is the network that the set was made for"
        )
    return list(dict.fromkeys(models or of_recipe))


def check_counts(record: Record, images: RealData, baselines: list[str]) -> None:
    """Check that as many real images as a set stores can be chosen, where baselines need them.

    Args:
        record: of the set.
        images: the real images.
        baselines: the names that were asked for.

    Raises:
        DataError: a class has too few.
    """
    from dd_plugin.data import DataError

    wanted, counts = max(1, int(record.images.stored_per_class)), images.class_counts()
    if counts is None or min(counts) >= wanted or {*baselines} <= {"full_data", *LABEL_CONTROLS}:
        return
    name = images.class_names[counts.index(min(counts))]
    raise DataError(
        f"they need {wanted} real images of each class, as many as the set stores, but there are "
        f"{min(counts)} of {name!r}; give more images with --dataset, or --baselines full_data "
        "hard_labels, which take any number"
    )


def check_networks(
    name: str, distilled: DistilledDataset, models: list[str], protocol: Protocol
) -> None:
    """Check each network on two images of the set that it is to be trained on.

    Raises:
        CommandError: one cannot take the images.
        ModelLoadError: one cannot be made.
    """
    from dd_plugin.distiller.network_checks import check_model, check_outputs
    from dd_plugin.models import ModelLoadError
    from dd_plugin.seeds import untouched_generators

    images, _ = distilled.prepare(distilled.images[[0, -1]], distilled.labels[[0, -1]], 0)
    for model in models:
        try:
            with untouched_generators():
                network = distilled.new_network(model, protocol=protocol).to(images.dtype)
                check_model(network)
                check_outputs(network, images, distilled.recipe.num_classes)
        except (ModelLoadError, ImportError, OSError):
            raise
        # Some networks refuse a size of images already when they are made.
        except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise CommandError(
                f"{model} cannot be trained on {name}: {reason}; leave this --model out (nothing "
                "has been trained yet)"
            ) from error


def load_backbones(
    name: str, distilled: DistilledDataset, models: list[str], *, recorded: bool
) -> dict[str, Backbone]:
    """Load each frozen network once, with its weights, before the features of any are computed.

    Args:
        name: of the set.
        distilled: the set.
        models: names of the networks.
        recorded: whether the names come from the set's record.

    Raises:
        CommandError: one cannot be loaded, or has other weights than the record says.
    """
    from dd_plugin.models import ModelLoadError
    from dd_plugin.networks import BackboneError
    from dd_plugin.networks.backbones import check_recorded_backbone

    backbones = {}
    for model in models:
        if recorded:
            check_recorded_backbone(model)
        try:
            backbones[model] = distilled.backbone(model)
        except (BackboneError, ModelLoadError) as error:
            raise CommandError(
                f"{model} cannot be used for {name}: {str(error).rstrip('.')}; mend that, or give "
                "other networks with --model (nothing has been trained yet)"
            ) from error
    return backbones
