"""Distilled sets as arguments of a command: the options that say how one is loaded.

Used by `evaluate` and `export`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dd_plugin.hub import DistilledDataset


def add_loading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `load_set` reads."""
    parser.add_argument("--revision", help="revision of a set on the Hub")
    parser.add_argument(
        "--token", help="token of the Hub, for a private set (default: that of `hf auth login`)"
    )
    parser.add_argument(
        "--no_limits",
        action="store_true",
        help="allow sets and networks of any size (default: none that takes gigabytes)",
    )


def load_set(name: str, args: argparse.Namespace) -> DistilledDataset:
    """Load a distilled set.

    Args:
        name: a folder or an id on the Hub.
        args: with the options of `add_loading_arguments`.

    Raises:
        ValueError: it is no distilled set, or too large.
        OSError: it cannot be read or downloaded.
    """
    from dd_plugin.hub import DistilledDataset
    from dd_plugin.hub.limits import UNLIMITED

    limits = asdict(UNLIMITED) if args.no_limits else {}
    return DistilledDataset.from_pretrained(
        name, revision=args.revision, token=args.token, **limits
    )
