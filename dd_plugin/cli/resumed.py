"""`dd-plugin distill --resume RUN`: the settings of a run, from one of its checkpoints.

Used by `distill`. Nothing else has to be given. Options that would change the run are refused.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dd_plugin.cli.errors import CommandError
from dd_plugin.cli.noted_images import noted_images
from dd_plugin.cli.run_settings import with_flags

if TYPE_CHECKING:
    from dd_plugin.distiller import DistillerConfig


def resumed_config(place: str, options: Mapping[str, Any]) -> DistillerConfig:
    """Return the settings with which a run resumes.

    Args:
        place: the folder of the run, or one of its checkpoints.
        options: settings that differ.

    Raises:
        CommandError: there is no checkpoint, an option would change the run, or the images of the
            run are not where they were.
    """
    from dd_plugin.distiller.saved_runs import SavedRun
    from dd_plugin.distiller.setting_checks import NoEffectWarning

    if "resume_from_checkpoint" in options:
        raise CommandError(
            "--resume and --resume_from_checkpoint say the same; leave one of them out"
        )
    try:
        saved = SavedRun.at(place)
        changes = dict(options)
        if "dataset" not in changes:
            dataset = Path(saved.own_settings()["dataset"]).expanduser()
            noted = None if dataset.exists() else noted_images(str(saved.folder), "train")
            changes |= {} if noted is None else {"dataset": noted}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NoEffectWarning)  # told when the run began
            return saved.config(changes)
    except (ValueError, TypeError) as error:
        raise CommandError(with_flags(str(error))) from error


def resume_hint(folder: str | os.PathLike[str], processes: int) -> str:
    """Return how to resume a run: a command to be pasted, and a word on several processes."""
    from dd_plugin.distiller.saved_runs import resume_command

    command = resume_command(Path(folder))
    if processes == 1:
        return f"resume with: {command}"
    return f"resume, with the same launcher for {processes} processes, with: {command}"
