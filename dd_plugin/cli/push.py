"""`dd-plugin push`: publishes the folder of a distilled set on the Hub, in one commit.

For a run made earlier, or on a machine without a network.
"""

import argparse
import sys

from dd_plugin.cli.errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `push`."""
    parser.description = (
        "Publish the folder of a distilled set as a data set of the Hub, in one commit. A push "
        "that was broken off is run again: what has arrived is not sent a second time."
    )
    parser.add_argument("folder", metavar="FOLDER", help="where the set was saved")
    parser.add_argument("repo", metavar="REPO", help="NAME or NAMESPACE/NAME; made if need be")
    parser.add_argument(
        "--private", action="store_true", default=None, help="make the repository a private one"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="the branch; main by default")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request")
    parser.add_argument("--token", help="of the Hub; by default that of `hf auth login`")
    parser.add_argument("--commit_message", metavar="TEXT", help="of the commit")
    parser.add_argument(
        "--license", metavar="ID", help="for the card, as the Hub spells it: cc-by-4.0, mit, ..."
    )


def run(args: argparse.Namespace) -> int:
    """Pushes, tells the stages on stderr and the address on stdout.

    Returns:
        The exit code.

    Raises:
        CommandError: The folder holds no distilled set, or the Hub does not take it.
    """
    from dd_plugin.hub.remote.push import PushError, push_folder

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
