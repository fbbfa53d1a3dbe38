"""Execute the notebook of the examples, or write its outputs anew.

python -m tests.notebook [--write]

Without `--write` it only says whether all cells run, and how long they take.
"""

from __future__ import annotations

import argparse
import re
import resource
import tempfile
from pathlib import Path
from typing import Any

from tests.repository import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def opened(path: Path = NOTEBOOK) -> Any:
    """The notebook as nbformat reads it."""
    import nbformat

    return nbformat.read(path, as_version=4)


def with_parameters(notebook: Any, **parameters: object) -> Any:
    """Give names of the cell tagged `parameters` other values, as papermill does."""
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    for name, value in parameters.items():
        line = re.compile(rf"^{name} = [^#\n]*", re.MULTILINE)
        cell.source, count = line.subn(f"{name} = {value!r}  ", cell.source)
        assert count == 1, name
    return notebook


def executed(notebook: Any, folder: Path) -> Any:
    """Run all cells in a folder and return the notebook with their outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised; the message has its traceback.
    """
    from nbclient import NotebookClient

    place = {"metadata": {"path": str(folder)}}
    # A slow machine is no fault of the notebook.
    client = NotebookClient(notebook, timeout=None, resources=place)
    client.record_timing = False
    return client.execute()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.notebook", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the outputs into the notebook")
    write = parser.parse_args().write
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(opened(), Path(folder))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{len(notebook.cells)} cells took {used.ru_utime + used.ru_stime:.0f} s of a processor")
    if write:
        # What differs from machine to machine.
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
