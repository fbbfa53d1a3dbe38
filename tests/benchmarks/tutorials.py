"""The README's first command and the tutorials as they are printed, with the minutes they take.

    python -m tests.benchmarks.tutorials --json FILE

In a folder of its own, page after page as a reader goes: blocks of Python of a page in one process,
blocks of commands in a shell, one thread each. A command that needs what a machine without network
lacks (a model or data set of the Hub, a login, several machines, a folder of photographs) is not
run, and counted. A block that fails ends the page with an error.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from dd_plugin import Distiller
from tests.benchmarks.measuring import Results, in_child
from tests.docs.pages import ROOT, blocks_in_order

# A later page uses what the earlier ones leave.
PAGES = (
    "README.md",
    "docs/quickstart.md",
    "docs/tutorials/your-own-images.md",
    "docs/tutorials/received-set.md",
    "docs/tutorials/pretrained-backbone.md",
    "docs/tutorials/outer-loop.md",
    "docs/tutorials/from-other-tools.md",
    "docs/tutorials/growing-sets.md",
    "docs/tutorials/several-processes.md",
)
# What stands for something of the reader's, or is not on a machine without network.
_ELSEWHERE = re.compile(
    r"my_photos|facebook/|hf auth|\bpush|me/|\bSET\b|FOLDER|animals|cats-and-dogs|\bjudge\b"
    r"|accelerate launch|with-birds|recipe:cifar10|pip install|results_to_pages|git clone|pytest"
)
# Of the README only the commands are run: its code is a summary of the tutorials.
_README = "README.md"


def blocks_of(page: Path | str) -> list[tuple[str, str]]:
    """Language and code of the blocks of a page that are run, in their order."""
    languages = ("sh",) if page == _README else ("python", "sh", "yaml")
    return [block for block in blocks_in_order(page) if block[0] in languages]


def commands_of(code: str) -> list[str]:
    """The commands of a block for a shell, each on a line."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


def is_elsewhere(command: str) -> bool:
    """Whether a command needs what a machine without network lacks."""
    return _ELSEWHERE.search(command) is not None


def run_page(page: Path | str, folder: Path) -> dict[str, Any]:
    """Run a page in a folder; minutes, and how much was run and was not."""
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    ran, left_out = 0, []
    began = time.perf_counter()
    for language, code in blocks_of(page):
        if language == "yaml":
            Path("settings.yaml").write_text(code, encoding="utf-8")
        elif language == "python":
            exec(compile(code, str(page), "exec"), names)
            ran += 1
        else:
            for command in commands_of(code):
                if is_elsewhere(command):
                    left_out.append(command)
                    continue
                _let_go(names)
                subprocess.run(["bash", "-ec", command], check=True, env=_environment())
                ran += 1
    minutes = (time.perf_counter() - began) / 60
    return {"page": str(page), "minutes": minutes, "ran": ran, "left_out": left_out}


def _let_go(names: dict[str, Any]) -> None:
    """Forget the runs of a page, as the page says: they hold their folders."""
    for name in [name for name, value in names.items() if isinstance(value, Distiller)]:
        del names[name]
    gc.collect()


def _environment() -> dict[str, str]:
    """This environment, in which the commands of this Python come first."""
    here = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}"}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pages", nargs="*", default=PAGES, choices=PAGES, metavar="PAGE")
    parser.add_argument("--folder", type=Path, help="of the reader; a new one by default")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        _serve(options)
        return
    results = Results(options.json, "python -m tests.benchmarks.tutorials", ("page",))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for page in options.pages:
            # The README and the quickstart make the same set.
            place = folder / "readme" if page == _README else folder
            place.mkdir(exist_ok=True)
            case = {"page": page, "folder": str(place.absolute())}
            threads = {"OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": str(ROOT)}
            results.add([in_child("tests.benchmarks.tutorials", case, options.threads, threads)])


def _serve(options: argparse.Namespace) -> None:
    case = json.loads(options.case)
    options.result.write_text(json.dumps(run_page(case["page"], Path(case["folder"]))))


if __name__ == "__main__":
    main()
