"""The record of a distilled set, ``recipe.json``, as typed values.

Below `reading`, `folder` and `card`. `Record.from_json` checks what a stranger may have written;
a `Record` needs no further checks. `parts` and `results` have what a record is made
of, `json_part` how a part comes out of JSON and goes back.
"""

from dd_plugin.hub.record.judgement import Judgement
from dd_plugin.hub.record.parts import (
    MOST_FACTOR,
    About,
    FileEntry,
    Images,
    NetworkClass,
    Settings,
    Source,
    TransformKind,
    checksum_in,
    times_smaller,
)
from dd_plugin.hub.record.record import SCHEMA_VERSION, Record
from dd_plugin.hub.record.results import DISTILLED, Evaluation, HeldOutPart, Protocol, Result

__all__ = [
    "DISTILLED",
    "MOST_FACTOR",
    "SCHEMA_VERSION",
    "About",
    "Evaluation",
    "FileEntry",
    "HeldOutPart",
    "Images",
    "Judgement",
    "NetworkClass",
    "Protocol",
    "Record",
    "Result",
    "Settings",
    "Source",
    "TransformKind",
    "checksum_in",
    "times_smaller",
]
