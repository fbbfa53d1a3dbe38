"""The faults are still there to be made, and the check tells what is noticed from what is not."""

import pytest

from tests.mutations.__main__ import verdict
from tests.mutations.faults import FAULTS, Fault, MovedError, place_of, targets_of
from tests.repository import ROOT, repository_file

PACKAGE = repository_file("dd_plugin")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_text_of_a_fault_stands_once(fault):
    text = place_of(fault, PACKAGE).read_text("utf-8")
    compile(text.replace(fault.old, fault.new), fault.file, "exec")
    assert targets_of(fault, ROOT / "tests") == sorted(f"tests/{name}" for name in fault.tests)


def test_names_are_different():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)


@pytest.fixture
def repository(tmp_path):
    """A package with one function, and two files of tests, of which one looks at it."""
    package, tests = tmp_path / "dd_plugin", tmp_path / "tests"
    (package / "part").mkdir(parents=True)
    tests.mkdir()
    (package / "part" / "moved.py").write_text("def double(x):\n    return 2 * x\n")
    run = "import pathlib\ncode = pathlib.Path('dd_plugin/part/moved.py').read_text()\nexec(code)\n"
    (tests / "test_blind.py").write_text("def test():\n    pass\n")
    (tests / "test_seeing.py").write_text(f"{run}\ndef test():\n    assert double(2) == 4\n")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "tests", "said"),
    [
        ("2 * x", "test_seeing.py", "noticed"),
        ("2 * x", "test_blind.py", "NOT NOTICED"),
        ("2 * x", "gone/test_gone.py", "noticed"),
        ("2 * x", "test_seeing.py::test", "noticed"),
        ("2 * x", "test_seeing.py::test_gone", "noticed"),
        ("4 * x", "test_seeing.py", "not tried: a fault: the text must stand once"),
        ("x", "test_seeing.py", "not tried: a fault: the text must stand once"),
    ],
)
def test_what_is_said_of_a_fault(repository, old, tests, said):
    before = (repository / "dd_plugin/part/moved.py").read_text()
    fault = Fault("a fault", "part/old.py", old, "3 * x", (tests,))
    assert verdict(fault, repository, 60).startswith(said)
    assert (repository / "dd_plugin/part/moved.py").read_text() == before


def test_a_text_in_two_files_is_refused(repository):
    (repository / "dd_plugin" / "copy.py").write_text("def double(x):\n    return 2 * x\n")
    with pytest.raises(MovedError, match=r"is in copy\.py, part/moved\.py"):
        place_of(Fault("a", "old.py", "2 * x", "3 * x", ()), repository / "dd_plugin")
