"""Errors of commands: one line, exit code 2, and no token of the Hub in it."""

import pytest

from dd_plugin.cli import main
from dd_plugin.cli.errors import CommandError, tokens_in, without_tokens

TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"


def test_what_is_taken_for_a_token():
    assert tokens_in(["--hub_token", "abcd", "--TOKEN=efgh", "--token", "--other"]) == [
        "abcd",
        "efgh",
    ]
    assert without_tokens(f"Bearer {TOKEN}!") == "Bearer ***!"
    assert without_tokens("hf_configs and hfds/cifar") == "hf_configs and hfds/cifar"


@pytest.fixture
def failing_command(monkeypatch):
    """Makes `inspect` raise what the test chooses."""

    def install(error: BaseException) -> None:
        def run(_args):
            raise error

        monkeypatch.setattr("dd_plugin.cli.inspect.run", run)

    return install


def test_command_error_is_one_line_and_exit_code_2(failing_command, capsys):
    failing_command(CommandError("the folder is\n   full; free some space"))
    assert main(["inspect", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "dd-plugin inspect: error: the folder is full; free some space\n"


def test_debug_shows_the_error_itself(failing_command):
    failing_command(CommandError("no"))
    with pytest.raises(CommandError, match="no"):
        main(["inspect", "x", "--debug"])
