"""The exception by which a subcommand tells its user something; `dd_plugin.cli.main` prints it."""


class CommandError(Exception):
    """What the user can mend, in one line: what happened, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
