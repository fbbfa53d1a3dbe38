"""``storage: auto`` and the memory for activations: what the free memory of the device allows.

Chosen in `resuming`, once a checkpoint is loaded, and looked up by `distiller` at every step. Where
the trajectory lies changes no result. Kept activations do, by rounding, so their memory goes into
the state of the run and a resumed run obeys it. They save a tenth of a step, traced or compiled
(`tests.benchmarks.kept_activations`). By default compiled steps have them, and traced ones of a
long run on a processor from a step on (`auto_compile`), so that short runs end with the same bits
whatever memory is free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from dd_plugin.bilevel import BilevelProblem, Device, Host, Recompute, Storage, initial_state
from dd_plugin.bilevel.ahead import Kept
from dd_plugin.bilevel.step_values import leaves_of
from dd_plugin.distiller.callbacks import tell
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.head_course import HeadCourse
from dd_plugin.distiller.machine import free_memory
from dd_plugin.distiller.run import Run, TrainState

# Shares of the free memory that a trajectory may take, and activations beside it.
_TRAJECTORY, _ACTIVATIONS = 0.5, 0.25
_GIB = 1 << 30


def choose_storage(run: Run, state: TrainState) -> None:
    """Note in the state of a run what ``storage: auto`` stands for, before its first step."""
    config, networks = run.config, state.networks
    if isinstance(networks, HeadCourse) or config.method == "autograd":
        return
    chosen = dict(state.position.choices.get("storage", {}))
    is_new = "storage" not in chosen
    if config.storage == "auto" and is_new:
        needed = max(trajectory_bytes(problem, config) for problem in networks.problems)
        chosen["storage"] = _place(run, needed * _at_once(run))
    _note(run, state, chosen)
    if is_new and chosen.get("storage", "device") != "device" and run.accelerator.is_main_process:
        tell(f"storage: {chosen['storage']}, by the free memory")
    if config.compile == "inductor":
        choose_activations(run, state)


def choose_activations(run: Run, state: TrainState) -> None:
    """Note in the state of a run the memory for activations, before its first compiled step."""
    chosen = dict(state.position.choices.get("storage", {}))
    if run.config.activation_memory is None and run.config.method == "mixed":
        free = _free(run) or 0
        chosen.setdefault("activation_memory", round(_ACTIVATIONS * free / _GIB, 2))
    _note(run, state, chosen)


def keep_activations(run: Run, state: TrainState) -> None:
    """Keep activations in traced steps too, from the next one on."""
    choose_activations(run, state)
    chosen = state.position.choices.get("storage", {})
    if "activation_memory" in chosen:
        chosen.setdefault("activations_from", state.position.global_step)


def forget_activations(state: TrainState) -> None:
    """Drop the memory for activations from the state of a run that keeps none when traced."""
    chosen = state.position.choices.get("storage", {})
    if "activations_from" not in chosen:
        chosen.pop("activation_memory", None)


def _note(run: Run, state: TrainState, chosen: dict[str, Any]) -> None:
    """Note what the main process has chosen."""
    if chosen := run.from_main(chosen):
        state.position.choices["storage"] = chosen


def storage_of(run: Run, state: TrainState, *, compiled: bool | None = None) -> Storage:
    """Return where the trajectory of a step lies, and what is kept of its activations.

    Args:
        run: its settings.
        state: its networks and what was chosen.
        compiled: whether steps are compiled; by default as they are now.
    """
    config, networks = run.config, state.networks
    if isinstance(networks, HeadCourse):
        return Device()
    if compiled is None:
        compiled = all(problem.compile is True for problem in networks.problems)
    chosen = state.position.choices.get("storage", {})
    kind = chosen.get("storage", "device") if config.storage == "auto" else config.storage
    memory = config.activation_memory
    if memory is None:
        keeps = compiled or state.position.global_step >= chosen.get("activations_from", math.inf)
        memory = chosen.get("activation_memory", 0.0) if keeps else 0.0
    activations = int(memory * _GIB)
    storages: Mapping[str, Storage] = {
        "device": Device(activations=activations),
        "host": Host(activations=activations),
        "recompute": Recompute(),
    }
    return storages[kind]


def kept_when_compiled(run: Run, state: TrainState) -> Kept:
    """Return the activations that compiled steps of a run keep."""
    memory = storage_of(run, state, compiled=True).activations
    return Kept(memory, _window(run.config), run.config.inner_steps)


def _window(config: DistillerConfig) -> int:
    """Return the number of inner steps that are differentiated."""
    if config.window == "full":
        return config.inner_steps
    assert config.window_length is not None
    return config.window_length


def trajectory_bytes(problem: BilevelProblem, config: DistillerConfig) -> int:
    """Return the bytes of a trajectory on the device: a gradient per step, a state per segment."""
    steps, start = _window(config), initial_state(problem)
    every = min(Device().segment(steps), steps)
    # The states of one segment are rebuilt at a time.
    states = -(-steps // every) + every
    return steps * _bytes(start.parameters) + states * _bytes(start)


def _bytes(tree: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves_of(tree))


def _at_once(run: Run) -> int:
    """Return the networks whose trajectories one process holds at a time."""
    networks = len(run.share(run.networks_per_step))
    return networks if run.config.batch_networks else 1


def _place(run: Run, needed: int) -> str:
    free = _free(run)
    if free is None or needed <= _TRAJECTORY * free:
        return "device"
    if run.accelerator.device.type == "cuda":
        of_host = _free(run, on_host=True)
        if of_host is None or needed <= _TRAJECTORY * of_host:
            return "host"
    return "recompute"


def _free(run: Run, *, on_host: bool = False) -> int | None:
    """Return the free bytes for this process: its share of the memory of the host, or its GPU."""
    device = run.accelerator.device
    if device.type == "cuda" and not on_host:
        return free_memory(device)
    free = free_memory(torch.device("cpu"))
    return None if free is None else free // run.processes_here
