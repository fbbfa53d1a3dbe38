"""What the package's error messages have in common. At the bottom: every part may use it."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error says, without the lines after the first; its class if it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
