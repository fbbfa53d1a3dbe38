"""A run on the Hub: access is checked before any work, and the set is pushed in the end.

Used by `distiller`. How a folder gets there is told in `dd_plugin.hub`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.run import Run

logger = logging.getLogger(__name__)


def check_publishing(config: DistillerConfig) -> None:
    """Check that the Hub would take the set: a wrong token should not cost the run.

    Raises:
        PushError: it would not.
    """
    from dd_plugin.hub import check_target  # and the client of the Hub

    check_target(str(config.hub_dataset_id), **_access(config))


def publish(run: Run, save: Callable[[], Path], repo_id: str | None) -> str:
    """Push the folder of a set to the Hub from the main process, in one commit.

    Args:
        run: its settings and processes.
        save: writes the set, on every process, and returns its folder.
        repo_id: where to; by default that of the settings.

    Returns:
        The address of the commit; empty on all but the main process.

    Raises:
        ValueError: it is not known where to.
        PushError: the Hub does not take it.
    """
    repo_id = run.config.hub_dataset_id if repo_id is None else repo_id
    if not repo_id:
        raise ValueError("`repo_id` must be given, or `hub_dataset_id` in the configuration")
    folder, address = save(), ""
    if run.accelerator.is_main_process:
        from dd_plugin.hub import push_folder

        result = push_folder(
            folder,
            repo_id,
            **_access(run.config),
            commit_message="Distilled by dd_plugin",
            on_progress=logger.info,
        )
        address = result.commit_url
    run.accelerator.wait_for_everyone()
    return address


def _access(config: DistillerConfig) -> dict[str, Any]:
    return {
        "token": config.hub_token,
        "private": config.hub_private_repo or None,
        "revision": config.hub_revision,
    }
