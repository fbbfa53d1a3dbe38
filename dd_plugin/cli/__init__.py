"""The `dd-plugin` command, which hands over to the file of a subcommand.

Top of the import order. Each subcommand is a module of this package with two functions:
`add_arguments(parser)`, which is light, and `run(args) -> int`, which has the heavy imports inside.
Only the module of the chosen subcommand is imported. To add one, write the module and name it in
`_COMMANDS`.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module

from dd_plugin import __version__
from dd_plugin.cli.errors import CommandError, tokens_in, without_tokens
from dd_plugin.cli.parser import Parser, as_typed
from dd_plugin.memory import keep_freed_memory

# Subcommand -> its line in `dd-plugin --help`. The module has the same name.
_COMMANDS = {
    "distill": "distill a data set into a few synthetic images",
    "evaluate": "train fresh networks on distilled sets, and test them",
    "judge": "have a distilled set judged by DD-Ranking",
    "compare": "show runs side by side: settings, accuracies, minutes",
    "push": "publish a distilled set on the Hub",
    "merge": "put distilled sets together into one",
    "export": "write a distilled set in the form of another tool",
    "recipes": "list, show or copy the settings of published runs",
    "inspect": "show what convert_bn would convert in a model",
    "env": "print the versions and the hardware for a bug report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the words after the program's name; by default those of the process.

    Returns:
        The exit code: 0, or 2 after an error that the user can mend, which is a line on stderr.

    Raises:
        SystemExit: from argparse, after `--help`, `--version` or a wrong option.
        CommandError: instead of the line, with `--debug`.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    words = _with_underscores(typed)
    Parser.words, Parser.typed = words, typed
    parser = _parser(words)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        parser.commands.get(args.command, parser).refuse(unknown)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    # Large tensors on a CPU in pages of 2 MB, as far as the kernel allows: in pages of 4 KB half of
    # the time of large images goes into page faults. torch reads this with its first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed_memory()
    try:
        code: int = import_module(f"{__name__}.{args.command}").run(args)
        sys.stdout.flush()
    except CommandError as error:
        if args.debug:
            raise
        text = without_tokens(as_typed(str(error), _settings(args)), tokens_in(words))
        print(f"dd-plugin {args.command}: error: {text}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain once more when it flushes
        # stdout at exit, unless stdout is somewhere else by then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        # Such as a full disk under the file that stdout goes to.
        if args.debug:
            raise
        print(f"dd-plugin {args.command}: error: {error}", file=sys.stderr)
        return 2
    return code


def _with_underscores(words: Sequence[str]) -> list[str]:
    """Return the words with options in the spelling that they are declared in: `--train_with`."""
    spelled: list[str] = []
    for place, word in enumerate(words):
        if word == "--":  # no options after it
            return [*spelled, *words[place:]]
        name, equals, value = word.partition("=")
        if re.fullmatch(r"--[A-Za-z][\w-]*", name):  # not a text that begins with dashes
            name = "--" + name[2:].replace("-", "_")
        spelled.append(name + equals + value)
    return spelled


def _settings(args: argparse.Namespace) -> set[str]:
    """The settings that messages name as options: of a run, if none is from a file."""
    from dd_plugin.cli.run_settings import recipe_of, setting_names

    if args.command != "distill" or (args.config and recipe_of(args.config) is None):
        return set()
    return setting_names()


def _parser(words: Sequence[str]) -> Parser:
    """The parser for `words`: options are filled in for the subcommands that `words` name."""
    parser = Parser(
        prog="dd-plugin",
        description="Dataset distillation for timm and Hugging Face vision models.",
    )
    parser.add_argument("--version", action="version", version=f"dd-plugin {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name in words:
            import_module(f"{__name__}.{name}").add_arguments(command)
        parser.commands[name] = command
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
