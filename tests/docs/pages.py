"""The pages of the documentation and the blocks of code in them."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
# The cards of the sets are written by the runs that made them.
_CARDS = set((ROOT / "docs" / "sets").rglob("*.md"))
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").rglob("*.md")) - _CARDS)]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# A fence may be indented, in a list or a tab.
_BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def blocks_in_order(page: Path | str) -> list[tuple[str, str]]:
    """Language and code of every block of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(language, textwrap.dedent(code)) for _, language, code in _BLOCK.findall(text)]


def blocks(page: Path | str, language: str) -> list[str]:
    """The code of a page's blocks in a language, in their order."""
    return [code for kind, code in blocks_in_order(page) if kind == language]
