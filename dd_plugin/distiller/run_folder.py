"""The folder of a run while it lasts: locked, checked again before writing, left if full.

Between `distiller` and `report`, on the main process. A run takes hours, its last step takes a
second. So a set that cannot be written is not given up at once: it goes to a second folder, or
waits for room.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from dd_plugin.distiller.callbacks import DistillerState
from dd_plugin.distiller.config import DistillerConfig
from dd_plugin.distiller.folder_lock import FolderInUseError, FolderLock
from dd_plugin.distiller.local_note import LocalNote
from dd_plugin.distiller.output_folder import check_output_dir
from dd_plugin.distiller.saved_runs import checkpoints, resume_command
from dd_plugin.files import remove_leftovers, remove_partial_folders
from dd_plugin.hub.reading import RECORD, TENSORS
from dd_plugin.hub.record import checksum_in

logger = logging.getLogger(__name__)

# In the folder of a run that began with a finished set in it.
SO_FAR = "so_far"

# Seconds between two attempts to write.
_PAUSE = 5.0


class SaveError(OSError):
    """The distilled set could not be written anywhere; the message names the newest checkpoint."""


class FolderTakenError(ValueError):
    """Somebody else wrote a set into the folder while the run lasted."""


class RunFolder:
    """The folder that a run writes to.

    Args:
        config: of the run.
        train: its real images, if they are not those of ``config``.
        test: the real images that it is evaluated on, if they are not of the same data set.

    Attributes:
        place: where the set goes: ``output_dir``, or the folder that took it instead.
        lock: the run's hold on ``output_dir``.
    """

    def __init__(self, config: DistillerConfig, train: Any = None, test: Any = None) -> None:
        self.config = config
        self._note = LocalNote.of(config.dataset if train is None else train, test)
        self.place = self._own = Path(config.output_dir)
        self.lock = FolderLock(self._own)
        self._expected: str | None = None

    def begin(self, resumed: str | None, *, is_new: bool) -> None:
        """Lock the folder for a run, and remove files that a killed run left half written.

        Args:
            resumed: the checkpoint that the run goes on from.
            is_new: the run is not the one that the folder holds.

        Raises:
            FolderInUseError: another run is writing to it.
            ValueError: it holds another run.
            OSError: it cannot be written.
        """
        if is_new:
            # Once without a trace in a folder that is refused, once with nobody else in it.
            check_output_dir(self.config, resumed)
        self.lock.acquire()
        if is_new:
            try:
                check_output_dir(self.config, resumed)
            except (OSError, ValueError):
                self.lock.release()
                raise
        self._expected = set_in(self._own)
        if self.lock.held:
            remove_partial_folders(self._own, ".checkpoint-*.partial")
        remove_leftovers(self._own)
        remove_leftovers(self._own / "data")
        self._note.write(self._own)

    @contextmanager
    def steps(self, position: DistillerState) -> Iterator[None]:
        """Keep the folder while steps are done; release it if the run ends early.

        Args:
            position: of the run; a signal that ended it is noted there.
        """
        self.lock.busy = True
        try:
            yield
        except BaseException:
            self.lock.release()
            raise
        self.lock.busy = False
        if position.interrupted:
            self.lock.release()

    def save_from(
        self, accelerator: Accelerator, write: Callable[[Path], None], folder: str | Path | None
    ) -> Path:
        """Write a set on the main process, see `save`, and tell the others how it went.

        Args:
            accelerator: the processes.
            write: writes the set into a folder.
            folder: where it should go; by default where the set of the run goes.

        Returns:
            Where it went, on every process; what `save` raises is raised on every process, too.

        Raises:
            ValueError: the folder has no name.
        """
        if folder is not None and not str(folder):
            raise ValueError("`output_dir` must be a folder, got ''; leave it out for the run's")
        target = self.place if folder is None else Path(folder)
        failure: OSError | ValueError | None = None
        if accelerator.is_main_process:
            try:
                target = self.save(write, target)
            except (OSError, ValueError) as error:
                failure = error
        if accelerator.num_processes > 1:
            from accelerate.utils import broadcast_object_list

            place, text = broadcast_object_list([str(target), str(failure or "")])
            target = Path(place)
            if text and failure is None:
                failure = SaveError(text)
            # The sender is done before the others have it, and may be about to end.
            accelerator.wait_for_everyone()
        if failure is not None:
            raise failure
        return target

    def save(self, write: Callable[[Path], None], folder: Path) -> Path:
        """Write a set into a folder, or where the configuration says that it goes instead.

        Args:
            write: writes it into a folder, whole or not at all.
            folder: where it should go.

        Returns:
            Where it went.

        Raises:
            SaveError: it cannot be written.
            FolderTakenError: the folder holds a set that is not the run's.
            ValueError: it holds files of the user's.
        """
        patience = time.monotonic() + self.config.wait_for_room
        while True:
            try:
                self._write(write, folder)
                return folder
            except (OSError, FolderInUseError, FolderTakenError) as error:
                problem: OSError | ValueError = error
            said = str(problem)
            if self.config.rescue_dir is not None:
                rescue = _unused(Path(self.config.rescue_dir), self._own.resolve().name)
                try:
                    rescue.mkdir(parents=True)
                    self._write(write, rescue)
                except OSError as error:
                    shutil.rmtree(rescue, ignore_errors=True)
                    said += f"; nor to `rescue_dir` {self.config.rescue_dir!r}: {error}"
                else:
                    self._note.write(rescue)
                    logger.warning("%s: the distilled set is in %s instead", said, rescue)
                    self.place = rescue if folder in (self._own, self.place) else self.place
                    return rescue
            left = patience - time.monotonic()
            if left <= 0:
                break
            logger.warning("%s: trying again for %.0f seconds; make room", said, left)
            time.sleep(min(_PAUSE, left))
        if isinstance(problem, ValueError):
            raise problem
        raise SaveError(
            f"the distilled set could not be written to {str(folder)!r}: {said}. "
            f"{newest_checkpoint(self._own)}"
        ) from problem

    def write_so_far(self, write: Callable[[Path], None]) -> Path:
        """Write the set as it is now, while steps are done.

        A finished set in the folder stays until the run ends; the folder `SO_FAR` in it takes the
        new one then.

        Args:
            write: writes it into a folder, whole or not at all.

        Returns:
            Where it went.

        Raises:
            OSError: it cannot be written.
            ValueError: somebody else wrote a set into the folder.
        """
        finished = set_in(self._own) is not None and not _is_unfinished(self._own)
        place = self._own / SO_FAR if finished else self._own
        self._write(write, place)
        return place

    def _write(self, write: Callable[[Path], None], folder: Path) -> None:
        if folder.resolve() != self._own.resolve():
            write(folder)
            return
        had = self.lock.held
        self.lock.acquire()
        try:
            if set_in(folder) != self._expected and not self.config.overwrite_output_dir:
                raise FolderTakenError(
                    f"`output_dir` {str(folder)!r} holds a distilled set that this run did not "
                    "write; give `save_model` another folder, or move that set away"
                )
            write(folder)
            self._expected = set_in(folder)
            if _is_unfinished(self._own / SO_FAR):
                shutil.rmtree(self._own / SO_FAR, ignore_errors=True)
            self._note.write(folder)
        finally:
            if not had:
                self.lock.release()


def set_in(folder: Path) -> str | None:
    """Return an identifier of the set in a folder; None if there is no set."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        return checksum_in(record, TENSORS) or "damaged"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        return "damaged"


def _is_unfinished(folder: Path) -> bool:
    """Return whether the set in a folder was written by a run that had more steps to go."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        return bool(record["about"]["unfinished"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return False


def newest_checkpoint(folder: Path) -> str:
    """Return a sentence about the newest checkpoint, for a run that ended early."""
    left = checkpoints(folder)
    if not left:
        return f"There is no checkpoint in {str(folder)!r}"
    return (
        f"The newest checkpoint is {str(left[-1])!r}; resume with `{resume_command(folder)}`, or "
        "in Python with `resume_from_checkpoint`"
    )


def _unused(folder: Path, name: str) -> Path:
    for number in itertools.count(1):
        path = folder / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
    raise AssertionError
