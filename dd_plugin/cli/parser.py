"""The parser of the command: errors in one line, in the words that were typed, with suggestions.

Used by `dd_plugin.cli` for every subcommand. Options are not abbreviated, because a misspelled one
would then start a run.
"""

import argparse
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, NoReturn

from dd_plugin.cli.errors import tokens_in, without_tokens
from dd_plugin.text import count, suggestion

# Messages of argparse after the name of the argument, and what stands for them here.
_REPHRASED = (
    (r"invalid int value: (.*)", r"must be a whole number, got \1"),
    (r"invalid float value: (.*)", r"must be a number, got \1"),
    (r"expected one argument", r"must be followed by a value"),
    (r"expected at least one argument", r"must be followed by one value or more"),
    (r"ignored explicit argument (.*)", r"takes no value, got \1"),
)
_CHOICE = re.compile(r"invalid choice: (?P<got>'.*?'|\".*?\") \(choose from (?P<choices>.*?)\)")


def _formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, max_help_position=30)


class Parser(argparse.ArgumentParser):
    """A parser that suggests, does not abbreviate, and does not quote the tokens among its words.

    Attributes:
        words: of the command, as they are parsed.
        typed: the same, as they were typed.
        more_options: options that the help leaves out.
        answers: what to write for options of other programs, as in Python, by their names.
        commands: the parsers of subcommands, by their names.
    """

    words: ClassVar[Sequence[str]] = ()
    typed: ClassVar[Sequence[str]] = ()

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": _formatter, **options})
        self.more_options: list[str] = []
        self.answers: Mapping[str, str] = {}
        self.commands: dict[str, Parser] = {}

    def error(self, message: str) -> NoReturn:
        """Print the message to stderr, without the usage, and exit with code 2."""
        text = without_tokens(as_typed(in_words(message)), tokens_in(Parser.words))
        self.exit(2, f"{self.prog}: error: {text}\n")

    def refuse(self, words: Sequence[str]) -> NoReturn:
        """Exit with a message about words that the parser has no use for."""
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        if not options:
            self.error(
                f"{count(len(words), 'argument')} too many: {' '.join(words)}; options begin with "
                f"two dashes, and `{self.prog} --help` lists them"
            )
        known = {*re.findall(r"(?<![\w-])--[a-z]\w*", self.format_help()), *self.more_options}
        hint = suggestion(options[0], known) or f"`{self.prog} --help` lists the options"
        if answer := self.answers.get(options[0].removeprefix("--")):
            # Values in quotation marks are Python's.
            settings = {option.removeprefix("--") for option in known}
            hint = as_typed(answer.replace('"', ""), settings)
        if "-" in as_typed(options[0])[2:]:
            hint = re.sub(r"--\w+", lambda match: match[0].replace("_", "-"), hint)
        self.error(f"there is no option {options[0]}; {hint}")


def in_words(message: str) -> str:
    """Return a message of argparse as a sentence about the argument."""
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        return f"{missing[1]} must be given"
    named = re.fullmatch(r"argument (?P<name>[^:]+): (?P<problem>.*)", message, re.DOTALL)
    if not named:
        return message
    name, problem = named["name"], named["problem"]
    if found := _CHOICE.search(problem):
        got, choices = found["got"], [c.strip(" '\"") for c in found["choices"].split(",")]
        hint = suggestion(got.strip("'\""), choices, quoted=True)
        if name == "COMMAND":
            return f"there is no command {got}; {hint or 'there are ' + ', '.join(choices)}"
        return f"{name} must be one of {', '.join(choices)}, got {got}" + (hint and f"; {hint}")
    for theirs, ours in _REPHRASED:
        problem = re.sub(f"^{theirs}$", ours, problem, flags=re.DOTALL)
    return f"{name} {problem}" if re.match("must|takes", problem) else f"{name}: {problem}"


def as_typed(text: str, settings: Collection[str] = ()) -> str:
    """Return a message with options spelled as the user typed them.

    Args:
        text: the message, in which options stand as ``--a_b`` or, as in Python, in backquotes.
        settings: names in backquotes that are options as well, if they were not typed.
    """
    spelled: dict[str, str] = {}
    for word, typed in zip(Parser.words, Parser.typed, strict=True):
        if word.startswith("--"):
            spelled[word.partition("=")[0]] = typed.partition("=")[0]

    def option(match: re.Match[str]) -> str:
        name, value = f"--{match['name']}", match["value"]
        if name not in spelled and match["name"] not in settings:
            return match[0]
        return name if value is None else f"{name} {value}"

    text = re.sub(r"`(?P<name>\w+)(?:=(?P<value>\w+))?`", option, text)
    return re.sub(r"(?<![\w-])--[a-z]\w*", lambda match: spelled.get(match[0], match[0]), text)
