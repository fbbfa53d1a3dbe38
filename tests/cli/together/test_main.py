"""`dd_plugin.cli.main`: help without heavy imports, exit codes, errors in one line."""

import os
import subprocess
import sys

import pytest

import dd_plugin
from dd_plugin.cli import _COMMANDS, main

HEAVY = ("torch", "timm", "transformers", "accelerate", "datasets", "numpy")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], *([name, "--help"] for name in _COMMANDS)]
)
def test_help_and_version_import_nothing_heavy(words):
    """What is loaded is looked at, not the time: that depends on the machine."""
    code = f"""
import sys
from dd_plugin.cli import main
try:
    main({words!r})
finally:
    print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0
    assert result.stdout
    assert result.stderr.strip() == ""


def test_python_dash_m_is_the_command():
    result = subprocess.run(
        [sys.executable, "-m", "dd_plugin", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert result.stdout == f"dd-plugin {dd_plugin.__version__}\n"


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    shown = capsys.readouterr().out
    for name, summary in _COMMANDS.items():
        assert name in shown
        assert summary in shown


def test_no_command_prints_the_help_and_fails(capsys):
    assert main([]) == 2
    assert "inspect" in capsys.readouterr().err


def test_unknown_option_is_an_argparse_error(capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["inspect", "timm/resnet18", "--statistic-s"])
    assert exit_.value.code == 2
    assert "--statistic-s" in capsys.readouterr().err


@pytest.fixture
def failing_command(monkeypatch):
    """Makes `inspect` raise what the test chooses."""

    def install(error: BaseException) -> None:
        def run(_args):
            raise error

        monkeypatch.setattr("dd_plugin.cli.inspect.run", run)

    return install


def test_interrupt_has_the_shells_exit_code(failing_command):
    failing_command(KeyboardInterrupt())
    assert main(["inspect", "x"]) == 130  # 128 + SIGINT


def test_a_bug_is_not_hidden(failing_command):
    failing_command(ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "x"])


@pytest.mark.parametrize("own", [None, "0"])
def test_large_pages_are_asked_for_unless_the_user_decided(monkeypatch, own):
    seen = []
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if own is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", own)

    def run(_args):
        seen.append(os.environ["THP_MEM_ALLOC_ENABLE"])
        return 0

    monkeypatch.setattr("dd_plugin.cli.inspect.run", run)
    assert main(["inspect", "x"]) == 0
    assert seen == [own or "1"]


def test_commands_keep_freed_memory(monkeypatch):
    calls = []
    monkeypatch.setattr("dd_plugin.cli.keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr("dd_plugin.cli.inspect.run", lambda args: calls.append("run") or 0)
    assert main(["inspect", "x"]) == 0
    assert calls == ["kept", "run"]


def test_closed_pipe_is_not_an_error_of_ours():
    """`dd-plugin ... | head -0`: the reader is gone before anything is written."""
    code = """
import os, sys
import dd_plugin.cli.inspect as inspect
from dd_plugin.cli import main

def run(args):
    print("x" * 100_000)
    return 0

inspect.run = run
read, write = os.pipe()
os.dup2(write, 1)
os.close(write)
os.close(read)
sys.exit(main(["inspect", "x"]))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert result.returncode == 141  # 128 + SIGPIPE
    assert result.stderr == ""
