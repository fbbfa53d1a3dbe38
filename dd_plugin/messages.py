"""What the package's error messages have in common. At the bottom: every part may use it."""

from __future__ import annotations

import re

# An address that is signed, or that holds a password, is as good as a key while it lasts.
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*", re.IGNORECASE)
_PASSWORD = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"<>]+@", re.IGNORECASE)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def first_line(error: BaseException) -> str:
    """What an error says, without the lines after the first; its class if it says nothing.

    See `without_secrets` for what is left out.
    """
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return without_secrets(line)


def described(error: BaseException) -> str:
    """`first_line`, with the class of the error where the line alone would say nothing.

    ``KeyError: 'x'`` and not ``'x'``.
    """
    line = first_line(error)
    return f"{type(error).__name__}: {line}" if isinstance(error, LookupError) else line


def without_secrets(text: str) -> str:
    """A message without what opens doors: queries of addresses, passwords in them, tokens."""
    text = _QUERY.sub(r"\1", text)
    text = _PASSWORD.sub(r"\1", text)
    return _TOKEN.sub("hf_...", text)
