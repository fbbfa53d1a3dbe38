"""The settings that change no data and no training: how a run computes, where its set is published.

Beside `setting_groups`, which has the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dd_plugin.choices import MethodName, Precision
from dd_plugin.distiller.setting_fields import option


@dataclass
class ComputingSettings:
    """How derivatives are computed, and where."""

    method: MethodName = option(
        "mixed",
        "How to differentiate. mixed: forward over reverse; reverse: double backward; autograd: "
        "the whole graph of the run.",
    )
    verify: bool = option(
        True,
        "Compare the first gradient of the run with one that is computed in another way, and stop "
        "if they differ. It costs less than one outer step.",
    )
    storage: Literal["auto", "device", "host", "recompute"] = option(
        "auto",
        "Where the trajectory is kept. device: on the device; host: in host memory; recompute: "
        "nowhere, parts of it are computed again; auto: the first of these for which half of the "
        "free memory is enough. Change it if memory runs out.",
    )
    activation_memory: float | None = option(
        None,
        "GiB of memory for the activations of the last inner steps, which are then not computed "
        "again on the way back. It needs compile=trace or inductor; 0 keeps none; by default a "
        "quarter of the free memory in compiled steps, and in traced ones of a run of more than "
        "two minutes on a processor.",
    )
    batch_networks: bool = option(
        False,
        "Run the networks of an outer step as one, in fewer and larger operations. It pays for "
        "several small networks on few images, and needs the memory of all of them.",
    )
    compile: Literal["auto", "no", "trace", "inductor"] = option(
        "auto",
        "How the inner step and its backward sweep are run. no: from Python each time; trace: as "
        "the recorded operations of a first run, several times faster for small networks; "
        "inductor: compiled from the first step on; auto: trace, then compiled from the step on "
        "where measured times say that it pays, and never for your own loss or network, whose "
        "operations may change from step to step.",
    )
    memory_format: Literal["auto", "contiguous", "channels_last"] = option(
        "auto",
        "How images and convolutions lie in memory in traced and compiled steps; results differ by "
        "rounding. auto: on a processor both are timed in a run of more than two minutes, and the "
        "faster one is taken from then on; contiguous elsewhere, and with compile=inductor.",
    )
    mixed_precision: Precision = option(
        "no", "Precision of training: no, or bf16. Networks are tested in full precision."
    )
    dtype: Literal["float32", "float64"] = option("float32", "Type of weights and images.")


@dataclass
class HubSettings:
    """Where the distilled set is published."""

    push_to_hub: bool = option(False, "Publish the distilled set at the end.")
    hub_dataset_id: str | None = option(None, "Repository, such as me/cifar10-ipc10.")
    hub_private_repo: bool = option(False, "Make the repository private.")
    license: str | None = option(
        None,
        "License of the distilled set, as the Hub names it, such as cc-by-4.0; by default that of "
        "the real images where it is known.",
    )
    hub_revision: str | None = option(
        None, "Branch to publish on; it is created if there is none of that name."
    )
    hub_token: str | None = option(
        None,
        "Token of the Hub; by default that of `hf auth login`. It is never printed.",
        repr=False,
    )
