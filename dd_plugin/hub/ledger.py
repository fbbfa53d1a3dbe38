"""Rows of evaluations and judgements, added to a record and to files that others may be writing to.

After `comparison`, which measures them. Rows come hours apart. Meanwhile another evaluation may add
its own, or another set be written there, so the file is read again for each row.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from dd_plugin.files import locked, write_whole
from dd_plugin.hub.comparison import merge_rows
from dd_plugin.hub.folder import write_record
from dd_plugin.hub.reading import RECORD, read_record
from dd_plugin.hub.record import Evaluation, FileEntry, Judgement, Record


def rows_in(path: Path) -> list[Evaluation]:
    """Return the rows that a file has; none where there is no file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):  # no JSON, or no text at all
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{path} must hold rows of an evaluation, got something else; choose another file"
        )
    return [Evaluation.from_json(row) for row in rows]


def add_to_file(path: Path, row: Evaluation) -> None:
    """Put a row among those of a file, in the place of one of the same measurement.

    Raises:
        OSError: the file cannot be written, or another process keeps it locked.
        ValueError: it holds something else.
    """
    with locked(path):
        rows = [one.to_json() for one in merge_rows(rows_in(path), [row])]
        write_whole(path, (json.dumps(rows, indent=1) + "\n").encode())


def add_to_record(folder: Path, row: Evaluation, files: Mapping[str, FileEntry]) -> None:
    """Put a row into the record and onto the card of a set, if it is the set that was evaluated.

    Args:
        folder: of the set.
        row: what was measured.
        files: of the record of the set that was evaluated, with their checksums.

    Raises:
        OSError: the folder cannot be written, or another process keeps it locked.
        ValueError: another set is there now, or none that can be read.
    """
    with _record_of(folder, files) as record:
        rows = merge_rows(record.evaluations, [row])
        write_record(folder, record.with_evaluations(rows))


def add_judgement(folder: Path, judgement: Judgement, files: Mapping[str, FileEntry]) -> None:
    """Put the scores of a judge into the record and onto the card of a set; see `add_to_record`."""
    with _record_of(folder, files) as record:
        write_record(folder, record.with_judgement(judgement))


@contextlib.contextmanager
def _record_of(folder: Path, files: Mapping[str, FileEntry]) -> Iterator[Record]:
    """Keep the record of a folder locked; it must be that of the set with these files."""
    with locked(folder / RECORD):
        record = read_record(folder)
        if record.files != files:
            raise ValueError(
                f"{str(folder)!r} must hold the set that was evaluated, got another one, written "
                "since; evaluate that one"
            )
        yield record
