"""Compare what a user sees with the files in `golden/`, or write the files anew.

python -m tests.pins [--write]
"""

from __future__ import annotations

import argparse
import difflib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.pins import flags, names, runs
from tests.pins.comparing import differences, machine


def observations(place: Path) -> dict[str, str]:
    """The content of every golden file of a run, by its name."""
    found: dict[str, str] = {}
    for name in runs.RUNS:
        observed, card = runs.observe(name, place / name / "out")
        found[f"{name}.json"] = runs.as_json({"machine": machine(), **observed})
        if name in runs.WITH_CARD:
            found[f"{name}.md"] = card
    runs.keep(place / runs.PUSHED / "out")
    pushed = runs.published(place / runs.PUSHED / "out", place)
    found["published.json"] = runs.as_json(pushed)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.pins", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the files anew")
    write = parser.parse_args().write
    tables: list[tuple[Any, Callable[[], dict[str, Any]]]] = [
        (names, lambda: {"names": _names(), "signatures": names.signatures()}),
        (flags, flags.found),
    ]
    for module, find in tables:
        if module.FILE.exists():
            before = module.stored()
            before.pop("paths", None)
            _say(module.FILE.name, list(differences(find(), before, to_the_bit=True)))
        if write:
            module.write()
    with tempfile.TemporaryDirectory() as place:
        for name, text in observations(Path(place)).items():
            path = runs.golden(name)
            if path.exists():
                _say(name, _compared(path, text))
            if write:
                path.write_text(text, encoding="utf-8")


def _names() -> dict[str, list[str]]:
    return {part: names.public_names(part) for part in names.PARTS}


def _compared(path: Path, text: str) -> list[str]:
    before = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found, expected = json.loads(text), json.loads(before)
        same = found.pop("machine", "") == expected.pop("machine", "")
        return list(differences(found, expected, to_the_bit=same))
    changed = difflib.unified_diff(before.splitlines(), text.splitlines(), lineterm="", n=0)
    return list(changed)


def _say(name: str, lines: list[str]) -> None:
    print(f"{name}: {'as it was' if not lines else ''}")
    for line in lines:
        print(f"  {line}")


if __name__ == "__main__":
    main()
