"""Public names, their signatures and the paths that pages name are those of the file."""

import pytest

from tests.pins import names
from tests.repository import repository_file

repository_file("docs")
STORED = names.stored()


@pytest.mark.parametrize("part", names.PARTS)
def test_the_public_names_of_a_part(part):
    for name in STORED["names"][part]:
        names.resolved(f"{part}.{name}")
    assert names.public_names(part) == STORED["names"][part]


@pytest.mark.parametrize("path", STORED["paths"])
def test_a_path_that_pages_name(path):
    names.resolved(path)


def test_every_path_on_a_page_is_in_the_file():
    assert set(names.documented_paths()) <= set(STORED["paths"]), "python -m tests.pins --write"


def test_the_signatures():
    found = names.signatures()
    assert list(found) == list(STORED["signatures"])
    for part, expected in STORED["signatures"].items():
        for name, description in expected.items():
            assert found[part].get(name) == description, f"{part}.{name}"


def test_a_path_that_is_gone_is_named():
    for path, missing in {
        "dd_plugin.nowhere.Thing": "dd_plugin.nowhere",
        "dd_plugin.bn.Thing": "dd_plugin.bn.Thing",
        "dd_plugin.Distiller.fly": "dd_plugin.Distiller.fly",
    }.items():
        with pytest.raises(ImportError, match=f"^{path} is gone: there is no {missing}$"):
            names.resolved(path)


def test_a_signature_says_names_kinds_and_defaults():
    def function(a, /, b: int, c=1, *, d=len, e=None, **f):
        pass

    assert names.signature(function) == "(a, /, b, c=1, *, d=len, e=None, **f)"
