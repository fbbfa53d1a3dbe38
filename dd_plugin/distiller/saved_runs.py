"""Saved runs: the checkpoints in a folder, and the settings that a run resumes with.

Read by the command line before torch is imported, and by the files of the trainer that deal with
checkpoints. `checkpoint` writes what is read here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dd_plugin.distiller.config import ENDLESS_SCHEDULES, DistillerConfig
from dd_plugin.distiller.settings import SECRETS, Settings

# What a checkpoint has as JSON.
STATE = "state.json"
_NAME = re.compile(r"checkpoint-(\d+)")

# Settings that may change between a checkpoint and a run that resumes from it.
FREE = frozenset(
    {
        "output_dir",
        "overwrite_output_dir",
        "rescue_dir",
        "feature_dir",
        "wait_for_room",
        "resume_from_checkpoint",
        "logging_steps",
        "eval_steps",
        "eval_networks",
        "final_eval_networks",
        "save_steps",
        "save_total_limit",
        "report_to",
        "run_name",
        # Compared as the number that the default stood for.
        "networks_per_step",
        "disable_tqdm",
        "baselines",
        "per_device_eval_batch_size",
        "backbone_batch_size",
        # Changes no result.
        "storage",
        "verify",
        # The number of training images is compared.
        "validation_fraction",
        "push_to_hub",
        "hub_dataset_id",
        "hub_private_repo",
        "hub_token",
        "hub_revision",
        "license",
    }
)
# Settings that may hold the path of something that is read.
_PATHS = ("dataset", "feature_dir", "rescue_dir", "start_from")


def as_then(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint with those that 0.1.0 did not write, where it did else.

    It learned corrections of BatchNorm with constant step sizes too.
    """
    is_tracked = settings.get("statistics") in (None, "tracked")
    if settings.get("step_sizes") != "constant" or not is_tracked:
        return dict(settings)
    return {"statistics_corrections": "learned", **settings}


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=step_of)


def checkpoint_at(place: Path) -> Path | None:
    """Return the checkpoint that a folder is, or the newest one in it; None if there is none."""
    if (place / STATE).is_file():
        return place
    return next(reversed(checkpoints(place)), None)


def resume_command(folder: Path) -> str:
    """Return the command that resumes the run in a folder, to be pasted into a shell."""
    return shlex.join(["dd-plugin", "distill", "--resume", str(folder)])


def step_of(checkpoint: Path) -> int:
    """Return the outer steps that were done when a checkpoint was written, by its name."""
    return int(checkpoint.name.rpartition("-")[2])


@dataclass(frozen=True)
class SavedRun:
    """A run as one of its checkpoints describes it.

    Attributes:
        checkpoint: its folder.
        settings: of the run, by name.
        recipe_name: the recipe that they come from, if any.
        step: the outer steps done.
        processes: of the run.
        networks_per_step: over all processes.
        directory: the working directory of the run, if that is known.
    """

    checkpoint: Path
    settings: Mapping[str, Any]
    recipe_name: str | None
    step: int
    processes: int
    networks_per_step: int | None
    directory: Path | None

    @classmethod
    def at(cls, place: str | Path) -> SavedRun:
        """Read a run.

        Args:
            place: its folder, of which the newest checkpoint is taken, or one of its checkpoints.

        Raises:
            ValueError: there is no checkpoint, or it cannot be read.
        """
        path = _existing(Path(place))
        try:
            state = json.loads((path / STATE).read_text("utf-8"))
            settings = as_then(state["config"])
            directory = state.get("directory")
            return cls(
                checkpoint=path,
                settings=settings,
                recipe_name=state.get("recipe_name"),
                step=int(state["state"].get("global_step", 0)),
                processes=int(state["processes"]),
                networks_per_step=state.get("networks_per_step"),
                directory=None if directory is None else Path(directory),
            )
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{str(path)!r} is not a checkpoint that can be read ({error!r}); give an earlier "
                "checkpoint of the run"
            ) from error

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.checkpoint.parent

    def own_settings(self) -> dict[str, Any]:
        """Return the settings that resume the run where it lies now, without any others.

        Raises:
            ValueError: another version wrote them, with settings that this one does not have.
        """
        unknown = sorted(set(self.settings) - {field.name for field in fields(Settings)})
        if unknown:
            raise ValueError(
                f"{str(self.checkpoint)!r} was written by another version of dd_plugin, with the "
                f"settings {', '.join(unknown)}; resume with that version"
            )
        values = {**self.settings, "output_dir": str(self.folder), "overwrite_output_dir": False}
        for name in _PATHS:
            values[name] = self._found(values.get(name))
        models = values.get("model", [])
        values["model"] = [
            self._found(m) for m in ([models] if isinstance(models, str) else models)
        ]
        if self.processes > 1 and values.get("networks_per_step") is None:
            # One process may resume a run of several.
            values["networks_per_step"] = self.networks_per_step
        values["resume_from_checkpoint"] = str(self.checkpoint)
        return {name: value for name, value in values.items() if name not in SECRETS}

    def _found(self, path: Any) -> Any:
        """Return a path as it is found from here, where the run had a directory of its own."""
        if not isinstance(path, str) or self.directory is None or self.directory == Path.cwd():
            return path
        there = self.directory / Path(path).expanduser()
        return str(there) if path and there.exists() else path

    def config(self, changes: Mapping[str, Any]) -> DistillerConfig:
        """Return the settings to resume with.

        Args:
            changes: settings that differ from those of the run.

        Raises:
            ValueError: some would change the run, or are not possible; the message lists them.
        """
        own = self.own_settings()
        before = DistillerConfig(**own)
        config = DistillerConfig(**{**own, **changes})
        vars(config)["recipe_name"] = self.recipe_name
        then, now = before.to_dict(), config.to_dict()
        # Whether a data set is another one is seen when it is read.
        changed = [n for n in changes if n not in FREE | {"dataset"} and then.get(n) != now.get(n)]
        refused = dict.fromkeys(changed, "")
        if "max_steps" in refused:
            refused.pop("max_steps")
            if config.lr_scheduler_type not in ENDLESS_SCHEDULES:
                refused["max_steps"] = (
                    f" (the {config.lr_scheduler_type} schedule ends with them; "
                    "`resume_from_checkpoint` takes another number, for other images)"
                )
            elif config.max_steps < self.step:
                refused["max_steps"] = f" ({self.step} are done)"
        if refused:
            listed = "; ".join(
                f"`{name}` {_word(now[name])}, which was {_word(then[name])}{why}"
                for name, why in sorted(refused.items())
            )
            raise ValueError(
                f"{str(self.checkpoint)!r} cannot be resumed with other settings than its own: "
                f"{listed}. Leave them out, or start a new run in another folder"
            )
        return config


def _existing(place: Path) -> Path:
    if found := checkpoint_at(place):
        return found
    if not place.is_dir():
        raise ValueError(
            f"there is no folder {str(place)!r}; give the folder of a run, or a checkpoint of one"
        )
    raise ValueError(
        f"{str(place)!r} holds no checkpoint to resume from; give the folder of a run that wrote "
        "one (`save_steps`)"
    )


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list, bool)) else str(value)
