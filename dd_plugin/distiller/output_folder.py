"""The folder that a run writes to: that it can be written, and holds no other run.

Asked before any work, by `distiller` and the command line.
"""

from __future__ import annotations

import os
from pathlib import Path

from dd_plugin.distiller.checkpoint import checkpoints
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.hub.reading import RECORD


def check_output_dir(config: DistillerConfig) -> None:
    """See whether a run may write into its folder.

    Raises:
        ValueError: it holds another run.
        OSError: it cannot be written.
    """
    folder = Path(config.output_dir)
    taken = (folder / RECORD).exists() or bool(checkpoints(folder))
    if taken and not (config.overwrite_output_dir or config.resume_from_checkpoint):
        raise ValueError(
            f"`output_dir` {config.output_dir!r} holds another run; choose another folder, "
            "continue that run with `resume_from_checkpoint=latest`, or give "
            "`overwrite_output_dir` to lose it"
        )
    check_writable(folder)


def check_writable(folder: Path) -> None:
    """Make a folder and try it.

    Raises:
        OSError: it cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"`output_dir` {str(folder)!r} cannot be written ({error}); choose another folder or "
            "make room"
        ) from error
