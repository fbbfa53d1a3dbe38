"""`dd-plugin distill`: what a run is going to do, said before it begins; and `--dry_run`.

Used by `distill`. `dd_plugin.distiller.plan` makes the plan; here it is printed, and nothing but a
plan is left behind by a dry run.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dd_plugin.cli.errors import CommandError, tell
from dd_plugin.cli.run_settings import with_flags

if TYPE_CHECKING:
    from dd_plugin.distiller import Distiller, DistillerConfig


def dry_run(config: DistillerConfig, make: Callable[[], Distiller]) -> int:
    """Print the plan of a run on stdout, with measured times, and leave no folder behind.

    Args:
        config: the settings.
        make: makes the trainer of these settings.

    Returns:
        The exit code.

    Raises:
        CommandError: the first steps of the run would fail.
    """
    with _no_folder_left(Path(config.output_dir)):
        distiller = make()
        lines = _lines(distiller, measured=True)
        if distiller.accelerator.is_main_process:
            print("\n".join(lines))
        distiller.end()
    return 0


def tell_plan(distiller: Distiller) -> None:
    """Print the plan of a run on stderr; not of one that is resumed.

    Times are measured where a bar shows them, and the run is long enough for that.

    Raises:
        CommandError: the first steps of the run would fail.
    """
    config = distiller.config
    if config.resume_from_checkpoint:
        return
    from dd_plugin.distiller.plan import is_worth_measuring

    measured = not config.disable_tqdm and is_worth_measuring(config)
    lines = _lines(distiller, measured=measured)
    if distiller.accelerator.is_main_process:
        tell("\n".join(lines))


def _lines(distiller: Distiller, *, measured: bool) -> list[str]:
    """Return the lines of the plan; all processes measure, since they slow each other down."""
    from dd_plugin.bilevel import VerificationError
    from dd_plugin.distiller import NonFiniteError
    from dd_plugin.distiller.measuring import measure
    from dd_plugin.distiller.moving_bar import MovingBar
    from dd_plugin.distiller.outer_step import OuterStep
    from dd_plugin.distiller.plan import Plan
    from dd_plugin.distiller.run import Run, TrainState
    from dd_plugin.distiller.storage_choice import choose_storage, storage_of

    run = Run(
        distiller.config,
        distiller.accelerator,
        distiller.networks_per_step,
        distiller.output_dir,
    )
    state = TrainState(
        synthetic=distiller.synthetic,
        networks=distiller.networks,
        train_data=distiller.train_data,
        optimizer=distiller.optimizer,
        lr_scheduler=distiller.lr_scheduler,
        position=copy.deepcopy(distiller.state),
        best=distiller.best,
    )
    choose_storage(run, state)
    step = OuterStep(
        run,
        state,
        real_batch=distiller.real_batch,
        window=distiller.window,
        storage=storage_of(run, state),
    )
    is_told = measured and distiller.accelerator.is_main_process
    if is_told:
        tell("measuring two steps for the plan")
    has_bar = is_told and not distiller.config.disable_tqdm
    try:
        with MovingBar([1.0], "measuring", shown=has_bar):
            times = measure(step) if measured else None
    except (ValueError, TypeError, NonFiniteError, VerificationError) as error:
        raise CommandError(with_flags(str(error))) from error
    plan = Plan(
        run,
        state,
        evaluation=distiller.eval_data,
        eval_split=distiller.eval_split,
        measured=times,
    )
    return list(map(with_flags, plan.lines()))


@contextmanager
def _no_folder_left(folder: Path) -> Iterator[None]:
    """Remove a folder, and those around it, that were made inside and are empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # not made, or not empty
                path.rmdir()
