"""The code on the pages: tutorials run as printed, at toy size; the rest names what exists."""

import argparse
import ast
import functools
import importlib
import os
import re
import runpy
import shlex
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import dd_plugin
from dd_plugin import DistillerConfig
from dd_plugin.cli import _parser as command_parser
from dd_plugin.recipes import recipe_names
from tests.docs.pages import NAMES, ROOT, blocks
from tests.hub.loopback import Hub
from tests.hub.repositories import Account
from tests.processes import Prepared
from tests.test_readme import small_set_of_digits

# What makes a run short: settings that replace those of a page.
TOY = """
import dataclasses
import dd_plugin.distiller as _parts
_init = _parts.Distiller.__init__
def _toy(self, model_init=None, config=None, *more, **options):
    _init(self, model_init, dataclasses.replace(config, max_steps=2, inner_steps=2,
        eval_steps=0, eval_networks=1, final_eval_networks=1, baselines=False,
        real_batch_size=20, disable_tqdm=True, compile="no"), *more, **options)
_parts.Distiller.__init__ = _toy
"""
# As a reader would go: a later page of a row uses what the earlier ones leave.
RUN = (
    ("docs/quickstart.md", "docs/faq.md"),
    (
        "docs/tutorials/your-own-images.md",
        "docs/tutorials/received-set.md",
        "docs/tutorials/publish.md",
    ),
    ("docs/tutorials/growing-sets.md",),
    ("docs/tutorials/outer-loop.md",),
    ("docs/tutorials/from-other-tools.md",),
    ("docs/tutorials/pretrained-backbone.md",),
    ("docs/guides/extend.md",),
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A process whose Hub is one on which the reader, `me`, may write; pages run in forks of it."""
    home = tmp_path_factory.mktemp("home")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    with Hub(tmp_path_factory.mktemp("hub"), {"me-token": Account("me")}) as hub:
        environment |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "me-token",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "NO_PROXY": "127.0.0.1",
        }
        process = Prepared(environment)
        yield process
        process.stop()


def test_every_tutorial_is_run():
    tutorials = {name for name in NAMES if "/tutorials/" in name and blocks(name, "python")}
    assert tutorials <= {name for row in RUN for name in row}


@pytest.mark.parametrize("names", RUN, ids=lambda names: names[0])
def test_pages_run_as_printed(names, tmp_path, reader):
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    folder = tmp_path / "reader"
    small_set_of_digits(folder / "distilled")
    for name in names:
        # All blocks of a page as one script, in the reader's folder.
        script = folder / "page.py"
        script.write_text("\n".join([TOY, *blocks(name, "python")]), encoding="utf-8")
        done = reader.start(script, [], [{}], folder).ended()
        assert done.returncode == 0, f"{name}: {done.stderr[-3000:]}"


def test_loops_of_other_tools_give_the_gradient_of_ours(monkeypatch):
    for tool in ("higher", "torchopt"):
        pytest.importorskip(tool, reason="it comes with the extra bench")
    page = "docs/tutorials/from-other-tools.md"
    # Blocks of other tools are marked `py`: they need packages that a reader may not have.
    start, loop, window = blocks(page, "python")
    by_higher, by_torchopt, window_by_higher = blocks(page, "py")

    def gradient(code):
        names["images"].grad = None
        exec(compile(code, page, "exec"), names)
        return names["images"].grad

    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(start, page, "exec"), names)
    for ours, others in ((loop, (by_higher, by_torchopt)), (window, (window_by_higher,))):
        expected = gradient(ours)
        stop = names["result"].stop
        monkeypatch.setattr("random.randint", lambda low, high, stop=stop: stop)
        for code in others:
            # Rounding of float32, amplified by 20 steps.
            torch.testing.assert_close(gradient(code), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_python_is_well_formed_and_imports_what_exists(name):
    for code in blocks(name, "python"):
        for statement in ast.walk(ast.parse(code)):
            if isinstance(statement, ast.ImportFrom) and statement.module:
                module = importlib.import_module(statement.module)
                for alias in statement.names:
                    if not hasattr(module, alias.name):  # a module of a package, then
                        importlib.import_module(f"{statement.module}.{alias.name}")


def lines_of_shell(name):
    """Every line for the shell on a page, in words; variables are filled in."""
    variables: dict[str, str] = {}
    for code in blocks(name, "sh"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(string.Template(line).safe_substitute(variables), comments=True)
            yield words
            variables |= dict(word.split("=", 1) for word in words if re.match(r"\w+=", word))


def commands(name):
    """Every call of `dd-plugin` on a page, in words."""
    for words in lines_of_shell(name):
        for call in (["dd-plugin"], ["-m", "dd_plugin"]):
            for place in range(len(words)):
                if words[place : place + len(call)] == call:
                    yield words[place + len(call) :]


def scripts(name):
    """Every program of this repository that a page calls, and its arguments."""
    for words in lines_of_shell(name):
        match words:
            case ["python", "-m", module, *more] if module.startswith("tests."):
                yield module, more
            case ["python", file, *more] if file.startswith(("examples/", "docs/")):
                yield file, more


@pytest.mark.parametrize("name", [n for n in NAMES if list(commands(n))])
def test_commands_are_understood(name, monkeypatch):
    def fail(self, message):
        raise ValueError(message)

    monkeypatch.setattr(argparse.ArgumentParser, "error", fail)
    for words in commands(name):
        if words[:1] == ["COMMAND"]:
            continue
        options = command_parser(words).parse_args(words)
        if words[0] == "recipes" and options.name:
            assert options.name in recipe_names()


class ParserFoundError(Exception):
    """A program has made its parser, and asks it for options."""


def run_as_program(script):
    """Run a file or a module as the shell does."""
    run = runpy.run_path if script.endswith(".py") else runpy.run_module
    run(script, run_name="__main__")


@functools.cache
def parser_of(script):
    """The parser of a program, which is run until it has one."""

    def stop(self, *words):
        raise ParserFoundError(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.chdir(ROOT)
        patch.syspath_prepend(str(Path(script).parent))
        for name in (script, f"{script}.__main__"):  # imported by another test
            patch.delitem(sys.modules, name, raising=False)
        with pytest.raises(ParserFoundError) as found:
            run_as_program(script)
    return found.value.args[0]


@pytest.mark.parametrize("name", [n for n in NAMES if list(scripts(n))])
def test_scripts_are_called_with_options_that_they_have(name):
    for script, words in scripts(name):
        parser_of(script).parse_args(words)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_possible(name):
    for code in blocks(name, "yaml"):
        DistillerConfig(**yaml.safe_load(code))


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:examples|tests|docs|dd_plugin)/[\w./-]*\w)`", text):
        # The package may be installed somewhere else.
        root = Path(dd_plugin.__file__).parents[1] if path.startswith("dd_plugin/") else ROOT
        assert (root / path).exists(), path
    for module in re.findall(r"python -m (tests\.[\w.]+)", text):
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
