"""Turns the formulas of a page into MathML while the site is built.

Browsers draw MathML by themselves, so the pages need no script, no fonts and no other host.
`pymdownx.arithmatex` marks the formulas (`$...$` and `$$...$$`); this hook, the last step before a
page is put into its frame, replaces what it marked. A formula that cannot be read fails the build.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Replaces every formula in a page's HTML (an event of MkDocs)."""

    def to_mathml(match: re.Match[str]) -> str:
        tex = html.unescape(match["tex"]).strip()
        display = "block" if match["tag"] == "div" else "inline"
        try:
            mathml = convert(tex, display=display)
        except Exception as error:
            raise PluginError(f"{page.file.src_uri}: cannot read the formula {tex!r}") from error
        return f'<{match["tag"]} class="math-{display}">{mathml}</{match["tag"]}>'

    return _FORMULA.sub(to_mathml, content)
