"""`dd-plugin push`: the folder of a distilled set on the Hub, in one commit.

For a set of an earlier run, or of a run on a machine without a network.
"""

import argparse
import sys

from dd_plugin.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `push`."""
    parser.description = (
        "Publish the folder of a distilled set as a data set on the Hub, in one commit. Run it "
        "again if it was interrupted: files that have arrived are not sent a second time."
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of the set")
    parser.add_argument(
        "repo", metavar="REPO", help="NAME or NAMESPACE/NAME; created if it does not exist"
    )
    parser.add_argument(
        "--private", action="store_true", default=None, help="make the repository private"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch (default: main)")
    parser.add_argument(
        "--create_pr", action="store_true", help="open a pull request instead of a commit"
    )
    parser.add_argument("--token", help="token of the Hub (default: that of `hf auth login`)")
    parser.add_argument("--commit_message", metavar="TEXT", help="message of the commit")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="license for the card, as the Hub spells it: cc-by-4.0, mit, ...",
    )


def run(args: argparse.Namespace) -> int:
    """Push; print each stage on stderr and the address on stdout.

    Raises:
        CommandError: the folder holds no distilled set, or the Hub does not take it.
    """
    from dd_plugin.hub import PushError, push_folder

    try:
        result = push_folder(
            args.folder,
            args.repo,
            token=args.token,
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            commit_message=args.commit_message,
            license=args.license,
            on_progress=lambda line: print(line, file=sys.stderr),
        )
    except (PushError, OSError) as error:
        raise CommandError(str(error)) from error
    if result.unchanged:
        print(f"nothing differs, so no commit was made: {result.commit_url}")
    else:
        print(f"published: {result.pr_url or result.commit_url}")
    return 0
