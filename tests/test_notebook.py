"""The notebook of the examples runs, and the outputs in it are whole and of no machine."""

import base64
import io
import json
import re
import tomllib

import pytest
from PIL import Image

from tests.notebook import executed, opened, with_parameters
from tests.repository import ROOT, repository_file

NOTEBOOK = repository_file("examples/quickstart.ipynb")
CELLS = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def pictures(cell):
    """The PNG pictures that a cell shows."""
    data = (output["data"] for output in cell["outputs"] if "data" in output)
    return [bundle["image/png"] for bundle in data if "image/png" in bundle]


def text(cell):
    """What a cell prints or returns, as text."""
    parts = []
    for output in cell["outputs"]:
        part = output.get("text") or output.get("data", {}).get("text/plain", "")
        parts.append("".join(part))
    return "".join(parts)


# What the test needs beside the project, and what keeps progress bars from warning.
RUNNERS = ("ipykernel", "ipywidgets", "nbclient", "nbformat")


def test_the_extra_brings_what_runs_a_notebook():
    project = tomllib.loads(repository_file("pyproject.toml").read_text(encoding="utf-8"))
    extra = project["project"]["optional-dependencies"]["test"]
    assert set(RUNNERS) <= {re.split("[>=<]", requirement)[0] for requirement in extra}


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """The code cells as they are after two outer steps in place of 300."""
    for name in RUNNERS:
        pytest.importorskip(name, reason="it comes with the extra test")
    pytest.importorskip("sklearn", reason="the digits come with the extra demo")
    notebook = with_parameters(opened(), max_steps=2)
    ran = executed(notebook, tmp_path_factory.mktemp("reader"))
    return {cell.id: cell for cell in ran.cells if cell.cell_type == "code"}


def test_all_cells_run(short_run):
    assert [cell.execution_count for cell in short_run.values()] == list(range(1, len(CODE) + 1))
    kinds = {output.output_type for cell in short_run.values() for output in cell.outputs}
    assert kinds <= {"stream", "execute_result", "display_data"}
    assert "2 of 2 outer steps" in text(short_run["distill"])


def test_a_run_shows_the_pictures_that_are_stored(short_run):
    assert {i: len(pictures(cell)) for i, cell in short_run.items()} == {
        cell["id"]: len(pictures(cell)) for cell in CODE
    }


def test_a_run_prints_the_table_that_is_stored(short_run):
    def labels(cell):
        lines = text(cell).splitlines()
        return [line.split("|")[1].strip() for line in lines if line.startswith("| ")]

    (stored,) = [cell for cell in CODE if cell["id"] == "compare"]
    assert labels(short_run["compare"]) == labels(stored)
    assert labels(stored)[0] == "trained on"
    assert len(labels(stored)) == 4


def test_the_stored_outputs_are_those_of_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    silent = [cell["id"] for cell in CODE if not cell["outputs"]]
    assert silent == ["settings"]
    assert "300 of 300 outer steps" in text(next(c for c in CODE if c["id"] == "distill"))
    assert not any("execution" in cell["metadata"] for cell in CODE)


def test_the_stored_pictures_show_something_and_are_small():
    stored = {cell["id"]: pictures(cell) for cell in CODE}
    assert {name for name, shown in stored.items() if shown} == {"look", "curve", "predict"}
    for shown in stored.values():
        for picture in shown:
            with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
                darkest, brightest = image.convert("L").getextrema()
            assert brightest - darkest > 100
    assert NOTEBOOK.stat().st_size < 300_000


# Two names or more after a slash that follows no word: `/home/me`, `C:\Users`, `~/x`.
PATH = re.compile(r"(?<![\w.:/<])/\w[\w.-]*/\w|[A-Z]:\\\w|~/|site-packages|file://")


@pytest.mark.parametrize(
    ("line", "is_path"),
    [
        ("  File /usr/lib/python3.11/x.py", True),
        ("PosixPath('/home/me')", True),
        (r"C:\Users\me", True),
        ("~/models", True),
        ("/tmp/ipykernel_14/3.py:7: UserWarning", True),
        ("model='timm/dd_convnet'", False),
        ("accuracy 92.2 ± 2.8 % (3 networks), 5/s", False),
    ],
)
def test_paths_are_told_from_other_slashes(line, is_path):
    assert bool(PATH.search(line)) is is_path


@pytest.mark.parametrize("cell", CODE, ids=lambda cell: cell["id"])
def test_the_stored_outputs_hold_no_path_and_no_warning(cell):
    shown = text(cell)
    assert not PATH.search(shown), shown
    assert "Warning" not in shown
    assert "error" not in {output["output_type"] for output in cell["outputs"]}


def test_links_have_targets():
    prose = "\n".join("".join(c["source"]) for c in CELLS if c["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert links
    for link in links:
        repository_file((NOTEBOOK.parent / link).resolve().relative_to(ROOT))
        assert (NOTEBOOK.parent / link).exists(), link


@pytest.mark.parametrize("page", ["docs/quickstart.md", "examples/README.md"])
def test_pages_point_to_it(page):
    assert "quickstart.ipynb" in repository_file(page).read_text(encoding="utf-8")


def test_a_parameter_that_is_not_there_is_told():
    pytest.importorskip("nbformat", reason="it comes with the extra test")
    with pytest.raises(AssertionError, match="steps"):
        with_parameters(opened(), steps=2)
