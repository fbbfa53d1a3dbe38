"""The start of the outer steps: at step 0, where the run was, or at a checkpoint.

Called by `distiller` before the first step; `checkpoint` reads the files. What was chosen by itself
is taken over with a checkpoint, and chosen here where it was not.
"""

from __future__ import annotations

import shutil

from dd_plugin.distiller.auto_compile import CHOICES, later_choices
from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.checkpoint import find_checkpoint, load_checkpoint, set_aside_later
from dd_plugin.distiller.config import ENDLESS_SCHEDULES, DistillerConfig
from dd_plugin.distiller.output_folder import holds
from dd_plugin.distiller.run import Run, TrainState
from dd_plugin.distiller.run_folder import RunFolder
from dd_plugin.distiller.saved_runs import checkpoints
from dd_plugin.distiller.storage_choice import choose_storage


def begin_or_resume(
    run: Run, state: TrainState, folder: RunFolder, checkpoint: str | bool | None
) -> bool:
    """Load the checkpoint to resume from, if any, and clear the folder of other runs.

    The storage of the run is chosen then.

    Args:
        run: its settings and processes.
        state: what is loaded.
        folder: the folder of the run.
        checkpoint: a folder, or True or ``"latest"``; by default that of the settings, for a run
            that has done no step.

    Returns:
        Whether a checkpoint was loaded.

    Raises:
        FolderInUseError: another run is writing to the folder.
        ValueError: there is no such checkpoint, or it belongs to another run.
        OSError: the folder cannot be written.
    """
    begins = not state.position.global_step
    if begins:
        checkpoint = checkpoint or run.config.resume_from_checkpoint
    is_main = run.accelerator.is_main_process
    if checkpoint:
        path = find_checkpoint(run.folder, checkpoint)
        begins = not holds(run.folder, path)
        if is_main:
            folder.begin(str(path), is_new=begins)
        load_checkpoint(state, run, path)
        state.position.choices |= later_choices(path, state.position.global_step)
        run.accelerator.wait_for_everyone()
        if is_main and not begins:
            set_aside_later(run.folder, state.position.global_step)
    elif is_main:
        folder.begin(None, is_new=begins)
    choose_storage(run, state)
    if is_main and begins:
        for old in checkpoints(run.folder):
            shutil.rmtree(old)
        (run.folder / CHOICES).unlink(missing_ok=True)
    return bool(checkpoint)


def take_max_steps(position: DistillerState, config: DistillerConfig, scheduled: int) -> None:
    """Take over a ``max_steps`` that was changed after the schedule was made.

    Args:
        position: of the run; its ``max_steps`` is set.
        config: the settings now.
        scheduled: the steps that the schedule of the learning rates was made for.

    Raises:
        ValueError: the schedule depends on them.
    """
    if config.max_steps != scheduled and config.lr_scheduler_type not in ENDLESS_SCHEDULES:
        raise ValueError(
            f"`max_steps` is {config.max_steps} now and was {scheduled} when the "
            f"{config.lr_scheduler_type} schedule of the learning rates was made, which ends "
            'with it; use lr_scheduler_type="constant", or a new Distiller with '
            "`resume_from_checkpoint`, whose images will not be those of an undisturbed run"
        )
    position.max_steps = config.max_steps
