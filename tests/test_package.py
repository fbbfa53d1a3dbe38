"""The promise to importers: the public names, where they come from, and what importing costs."""

import ast
import importlib
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml

import dd_plugin
from dd_plugin.hub.card import citations
from tests.repository import ROOT

# A change of this list is a change for users: it belongs into CHANGELOG.md.
PUBLIC_NAMES = [
    "DistilledDataset",
    "Distiller",
    "DistillerConfig",
    "NoBatchNormFoundError",
    "__version__",
    "convert_bn",
    "keep_freed_memory",
    "revert_bn",
]


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after running `code`."""
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return set(result.stdout.splitlines()[-1].split())


def test_public_names_are_pinned():
    assert sorted(dd_plugin.__all__) == sorted(PUBLIC_NAMES)
    assert set(PUBLIC_NAMES) <= set(dir(dd_plugin))


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name_resolves_and_is_the_same_object_each_time(name):
    value = getattr(dd_plugin, name)
    assert value is getattr(dd_plugin, name)
    if name != "__version__":
        home = importlib.import_module(dd_plugin._HOMES[name])
        assert value is getattr(home, name)
        assert name in home.__all__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'convert_nb'"):
        dd_plugin.convert_nb  # noqa: B018


def test_type_checkers_see_the_names_that_the_lazy_table_has():
    """The imports under `if TYPE_CHECKING` and the table are two lists; they have to agree."""
    tree = ast.parse(Path(dd_plugin.__file__).read_text(encoding="utf-8"))
    seen = {
        alias.asname: statement.module
        for block in tree.body
        if isinstance(block, ast.If)
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }
    assert seen == dd_plugin._HOMES


def test_import_loads_no_heavy_library():
    heavy = {"accelerate", "datasets", "numpy", "timm", "torch", "torchvision", "transformers"}
    assert not heavy & loaded_by("import dd_plugin")


@pytest.mark.parametrize("part", ["dd_plugin.bn", "dd_plugin.bilevel"])
def test_the_lower_parts_load_no_other_library(part):
    if importlib.util.find_spec(part) is None:
        pytest.skip(f"{part} is not part of this version")
    optional = {"accelerate", "datasets", "huggingface_hub", "timm", "torchvision", "transformers"}
    assert not optional & loaded_by(f"import {part}")


def test_installed_version_is_the_one_in_the_source():
    try:
        installed = version("dd-plugin")
    except PackageNotFoundError:
        pytest.skip("dd-plugin is imported from the source tree without being installed")
    assert installed == dd_plugin.__version__


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("CITATION.cff", r"^version: (\S+)\ndate-released: (\S+)$"),
        ("CHANGELOG.md", r"^## \[(\d\S*)\] - (\S+)$"),
    ],
)
def test_the_pages_speak_of_this_version(name, pattern):
    """The newest release in the changelog, and what is to be cited, of one version and day."""
    if not (ROOT / name).exists():
        pytest.skip(f"the repository's {name} is not beside the tests")
    found = re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    assert found.groups() == (dd_plugin.__version__, "2026-11-28")


# Works that no card cites: those that the pages have beside ours, the judge, and how the difficulty
# of images is found.
COMPARED_WITH = {
    "forum?id=9z_dNsC4B5t",  # MetaNorm
    "1910.01727",  # higher
    "2003.03284",  # TaskNorm
    "2107.07075",  # EL2N
    "2211.06934",  # TorchOpt
    "2411.19946",  # DELT
    "2501.07575",  # CV-DD
    "2505.13300",  # DD-Ranking
}


def test_the_methods_that_cards_cite_are_cited():
    if not (ROOT / "CITATION.cff").exists():
        pytest.skip("the repository's CITATION.cff is not beside the tests")
    references = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["references"]
    found = {reference["url"].rpartition("/")[2]: reference["title"] for reference in references}
    papers = [paper for paper in vars(citations).values() if isinstance(paper, citations.Paper)]
    cited = {paper.arxiv: paper.title for paper in papers}
    assert found.items() >= cited.items()
    assert found.keys() - cited.keys() == COMPARED_WITH


def test_package_is_typed():
    assert (Path(dd_plugin.__file__).parent / "py.typed").is_file()
