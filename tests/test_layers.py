"""The import contract in pyproject.toml accepts the order of the parts and refuses its reverse."""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from tests.repository import repository_file

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("importlinter") is None, reason="the `dev` extra is not installed"
)

PYPROJECT = repository_file("pyproject.toml")
PARTS = ("cli", "distiller", "hub", "evaluation", "data", "bilevel", "models", "bn")


@pytest.fixture
def lint(tmp_path):
    """Runs the contract over a package of the same name whose imports the test chooses."""

    def run(imports: dict[str, str], parts=PARTS) -> subprocess.CompletedProcess[str]:
        package = tmp_path / "dd_plugin"
        for part in parts:
            (package / part).mkdir(parents=True)
            code = f"import {imports[part]}\n" if part in imports else ""
            (package / part / "__init__.py").write_text(code)
        # Modules of the trainer, which a contract names.
        for module in ("distiller", "report"):
            code = imports.get(f"distiller.{module}", "")
            (package / "distiller" / f"{module}.py").write_text(code)
        (package / "__init__.py").write_text("")
        shutil.copy(PYPROJECT, tmp_path)
        command = "from importlinter.cli import lint_imports_command; lint_imports_command()"
        return subprocess.run(
            [sys.executable, "-c", command, "--no-cache"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def test_imports_down_the_order_are_accepted(lint):
    result = lint(
        {"cli": "dd_plugin.distiller", "distiller": "dd_plugin.hub", "data": "dd_plugin.bn"}
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("low", "high"), [("bn", "bilevel"), ("bilevel", "data"), ("data", "hub"), ("hub", "cli")]
)
def test_import_up_or_across_is_refused(lint, low, high):
    result = lint({low: f"dd_plugin.{high}"})
    assert result.returncode == 1
    assert f"dd_plugin.{low} is not allowed to import dd_plugin.{high}" in result.stdout


def test_part_without_a_place_is_refused(lint):
    result = lint({}, parts=("cli", "distiller", "bilevel", "bn", "helpers"))
    assert result.returncode == 1
    assert "dd_plugin.helpers" in result.stdout


def test_engine_must_not_know_accelerate(lint):
    result = lint({"bilevel": "accelerate"})
    assert result.returncode == 1
    assert "dd_plugin.bilevel is not allowed to import accelerate" in result.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import dd_plugin.distiller.distiller\n",
        "from dd_plugin.distiller import distiller\n",
        "from dd_plugin.distiller import Distiller\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
        "    from dd_plugin.distiller.distiller import Distiller\n",
        "def write():\n    from dd_plugin.distiller.distiller import Distiller\n",
    ],
)
def test_nothing_in_the_trainer_imports_the_trainer(lint, code):
    result = lint({"distiller": "dd_plugin.distiller.distiller", "distiller.report": code})
    assert result.returncode == 1
    output = " ".join(result.stdout.split())
    assert "dd_plugin.distiller.report is not allowed to import dd_plugin.distiller" in output


def test_the_trainer_imports_its_files(lint):
    code = "import dd_plugin.distiller.report\n"
    assert lint({"distiller.distiller": code}).returncode == 0
