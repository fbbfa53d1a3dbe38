"""Messages of subcommands: errors in one line without tokens, and lines on stderr."""

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress

# Tokens of the Hub begin like this. No other word of a message does.
_TOKEN = re.compile(r"\b(?:hf|api_org)_\w{16,}")
HIDDEN = "***"


class CommandError(Exception):
    """An error that the user can mend, in one line: what is wrong, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def tell(line: str) -> None:
    """Print a line on stderr; a full disk under the log does not end the command."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def tokens_in(words: Sequence[str]) -> list[str]:
    """Return the values of options such as `--hub_token`, abbreviated or misspelled ones too."""
    values = []
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("-") and "tok" in name.lower():
            values.append(value if equals else following)
    # Shorter ones are words of the message as well.
    return [value.strip() for value in values if len(value.strip()) > 3 and value[0] != "-"]


def without_tokens(text: str, tokens: Iterable[str] = ()) -> str:
    """Return a text with the given tokens, and what looks like one, replaced by stars."""
    for token in tokens:
        text = text.replace(token, HIDDEN)
    return _TOKEN.sub(HIDDEN, text)
