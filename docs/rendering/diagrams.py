"""Draws the figures of the concept pages, each in two versions: for the light and the dark pages.

    python docs/rendering/diagrams.py

`NAME` of `DIAGRAMS` gives `docs/images/NAME.svg` and `NAME-dark.svg`. They are 480 units wide, and
their letters can be read where a phone makes that 358. Nothing here is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1] / "images"
WIDTH = 480
TEXT, SMALL = 15, 13
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
ALPHA = chr(0x3B1)

# Forward is blue and backward orange, as they are told apart by the color-blind; `quiet` is what
# is neither.
COLORS = {
    "": {"ink": "#333333", "quiet": "#767676", "forward": "#0072b2", "back": "#c65400"},
    "-dark": {"ink": "#d5d8de", "quiet": "#9a9fa9", "forward": "#62b8ec", "back": "#f5a25d"},
}


@dataclass
class Drawing:
    """A figure while it is drawn. Places are in its units, `y` downward.

    Attributes:
        title: what it shows, for readers who hear it.
        height: of the whole.
        colors: from what a color means to the color.
    """

    title: str
    height: int
    colors: dict[str, str]
    parts: list[str] = field(default_factory=list)

    def add(self, shape: str) -> None:
        """Adds a shape above those that are there."""
        self.parts.append(shape)

    def words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        of: str = "ink",
        size: int = TEXT,
        at: str = "middle",
    ) -> None:
        """A line of text; `x_k` in it is an x with a small k below, `^x` an x under a bar."""
        bold = ' font-weight="600"' if at == "title" else ""
        anchor = "start" if at == "title" else at
        self.add(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{bold} '
            f'fill="{self.colors[of]}">{marked(text, size)}</text>'
        )

    def barred(self, x: float, y: float, text: str, *, of: str = "back", size: int = TEXT) -> None:
        """A symbol with the bar of an adjoint, centered."""
        self.words(x, y, text, of=of, size=size)
        left = x - 8 if "_" in text else x - 4
        self.add(
            f'<path d="M{left:g} {y - size + 1:g}h9" stroke="{self.colors[of]}" '
            'stroke-width="1.3"/>'
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *lines: str,
        of: str = "ink",
        filled: float = 0,
        dashed: bool = False,
        size: int = SMALL,
    ) -> None:
        """A rectangle with lines of text in its middle; `x` and `y` are its upper left corner."""
        color = self.colors[of]
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self.add(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5" '
            f'stroke="{color}" stroke-width="1.4" fill="{color}" '
            f'fill-opacity="{filled:g}"{dashes}/>'
        )
        first = y + height / 2 - (len(lines) - 1) * (size + 3) / 2 + size * 0.36
        for number, line in enumerate(lines):
            self.words(x + width / 2, first + number * (size + 3), line, size=size)

    def state(
        self, x: float, y: float, text: str, *, of: str = "forward", bar: bool = False
    ) -> None:
        """A circle with a symbol in it."""
        color = self.colors[of]
        self.add(
            f'<circle cx="{x:g}" cy="{y:g}" r="18" stroke="{color}" stroke-width="1.4" '
            f'fill="{color}" fill-opacity="0.13"/>'
        )
        (self.barred if bar else self.words)(x, y + 5, text, of="ink")

    def arrow(
        self, *points: tuple[float, float], of: str = "forward", dashed: bool = False
    ) -> None:
        """A line through points, with a head at its end."""
        color = self.colors[of]
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self.add(
            f'<path d="{path}" stroke="{color}" stroke-width="1.7" fill="none"{dashes} '
            f'marker-end="url(#{of})"/>'
        )

    def cross(self, x: float, y: float, *, of: str = "back") -> None:
        """Where something does not go on."""
        self.add(
            f'<path d="M{x - 6:g} {y - 6:g}l12 12m0 -12l-12 12" stroke="{self.colors[of]}" '
            'stroke-width="3"/>'
        )

    def text(self) -> str:
        """The whole as SVG."""
        heads = "".join(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" '
            f'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" fill="{color}"/></marker>'
            for name, color in self.colors.items()
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" '
            f'viewBox="0 0 {WIDTH} {self.height}" role="img" '
            f'font-family="{FONTS}">\n'
            f"<title>{escape(self.title)}</title>\n<defs>{heads}</defs>\n"
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def marked(text: str, size: int) -> str:
    """Text with what follows an underscore, up to a space or a comma, as a subscript."""
    pieces = []
    for word in text.split(" "):
        symbol, has, index = word.partition("_")
        comma = "," if index.endswith(",") else ""
        piece = escape(symbol)
        if has:
            small = round(size * 0.72)
            piece += f'<tspan font-size="{small}" dy="3">{escape(index.removesuffix(","))}</tspan>'
            piece += f'<tspan dy="-3">{comma or chr(0x200B)}</tspan>'
        pieces.append(piece)
    return " ".join(pieces)


def sweeps(colors: dict[str, str]) -> Drawing:
    """The unroll, what is kept of it, and the way back through one step at a time."""
    d = Drawing("Training goes forward; the gradient comes back one step at a time", 416, colors)
    states, steps = (26, 122, 218, 314, 410), (74, 170, 266, 362)
    d.words(8, 20, "Forward: train, and keep each gradient g", at="title")
    d.arrow((429, 64), (449, 64))
    d.words(462, 70, "Λ", size=18)
    d.arrow((462, 80), (462, 184), (430, 184), of="back")
    for number, (x, start) in enumerate(zip(steps, states[:-1], strict=True)):
        d.arrow((start + 19, 64), (start + 77, 64))
        d.words(x, 53, f"b_{number}, {ALPHA}_{number}", size=SMALL)
        d.arrow((x, 67), (x, 97), of="quiet")
        d.box(x - 24, 98, 48, 26, f"g_{number}", of="quiet")
        d.arrow((x, 125), (x, 179), of="quiet", dashed=True)
        d.arrow((start + 77, 184), (start + 19, 184), of="back")
        d.arrow((x, 189), (x, 216), of="back")
        d.barred(x - 13, 236, f"b_{number}")
        d.barred(x + 15, 236, f"{ALPHA}_{number}")
    for number, x in enumerate(states):
        d.state(x, 64, f"θ_{number}")
        d.state(x, 184, f"θ_{number}", of="back", bar=True)
    d.words(8, 274, "Backward: rebuild a step, sweep, free it", at="title")
    d.words(8, 318, "Activations in memory during the sweep of step 2:", size=SMALL, at="start")
    for y, name, kept in ((332, "whole graph", range(4)), (376, "this engine", (2,))):
        d.words(8, y + 21, name, size=SMALL, at="start")
        for number in range(4):
            has = number in kept
            of, filled = ("back", 0.25) if has else ("quiet", 0)
            label = f"step {number}"
            d.box(108 + 92 * number, y, 82, 32, label, of=of, filled=filled, dashed=not has)
    return d


def statistics(colors: dict[str, str]) -> Drawing:
    """Where the gradient goes at BatchNorm's statistics: stock layers, and converted ones."""
    d = Drawing(
        "Stock BatchNorm cuts the gradient of its statistics; a converted layer does not",
        468,
        colors,
    )
    for top, converted in ((0, False), (238, True)):
        _two_lanes(d, top, converted)
    return d


def _two_lanes(d: Drawing, top: float, converted: bool) -> None:
    """Weights and statistics over two training steps and a test in eval mode."""
    weights, moments = top + 76, top + 172
    title = (
        "Converted layer: statistics are part of the state"
        if converted
        else "Stock layer: statistics are outside the graph"
    )
    d.words(8, top + 20, title, at="title")
    lane = "forward" if converted else "quiet"
    d.words(8, weights - 26, "weights", size=SMALL, at="start")
    d.words(8, moments + 36, "statistics", size=SMALL, at="start")
    for number, x in enumerate((27, 173, 319)):
        d.state(x, weights, f"θ_{number}")
        d.state(x, moments, f"m_{number}", of=lane)
        if number == 2:
            continue
        d.words(x + 73, weights - 26, f"step {number}", size=SMALL)
        d.arrow((x + 19, weights - 5), (x + 127, weights - 5))
        d.arrow((x + 127, weights + 5), (x + 19, weights + 5), of="back")
        d.arrow((x + 19, moments - 5), (x + 127, moments - 5), of=lane, dashed=not converted)
        d.arrow((x + 14, weights + 14), (x + 130, moments - 13), of=lane, dashed=not converted)
        if converted:
            d.arrow((x + 127, moments + 5), (x + 19, moments + 5), of="back")
            d.arrow((x + 138, moments - 20), (x + 22, weights + 8), of="back")
    _test(d, weights, moments, converted=converted)
    note = "the gradient passes through both" if converted else "their gradient is lost"
    d.words(246, moments + 36, note, size=SMALL)


def _test(d: Drawing, weights: float, moments: float, *, converted: bool) -> None:
    """The test at the end of two lanes, and the way back from it."""
    middle = (weights + moments) / 2
    d.box(384, middle - 23, 90, 46, "test in", "eval mode")
    d.arrow((338, weights - 5), (436, weights - 5), (436, middle - 25))
    d.arrow((420, middle - 24), (420, weights + 6), (339, weights + 6), of="back")
    lane = "forward" if converted else "quiet"
    d.arrow(
        (338, moments + 5), (436, moments + 5), (436, middle + 25), of=lane, dashed=not converted
    )
    if converted:
        d.arrow((420, middle + 24), (420, moments - 6), (339, moments - 6), of="back")
    else:
        d.arrow((420, middle + 24), (420, moments - 6), (372, moments - 6), of="back")
        d.cross(360, moments - 6)


def frozen(colors: dict[str, str]) -> Drawing:
    """What goes through a frozen network, and how often."""
    d = Drawing(
        "Real images go through the frozen network once, synthetic ones once per step", 306, colors
    )
    top, low = 44, 190
    d.words(8, 22, "Once", at="title")
    d.words(8, low - 22, "Every outer step", at="title")
    d.box(8, top, 86, 56, "real", "images")
    d.box(8, low, 86, 56, "synthetic", "images", of="forward", filled=0.13)
    d.box(122, top, 90, 56, "frozen", "network", of="quiet", filled=0.12)
    d.box(122, low, 90, 56, "frozen", "network", of="quiet", filled=0.12)
    d.box(240, top, 90, 56, "their", "features", of="ink")
    d.box(240, low, 90, 56, "features F", of="forward", filled=0.13)
    d.box(358, low, 114, 56, "head, solved in", "closed form", of="forward", filled=0.13)
    d.box(358, top, 114, 56, "loss on real", "features", of="forward", filled=0.13)
    for left, right in ((95, 120), (213, 238), (331, 356)):
        d.arrow((left, top + 28), (right, top + 28))
        d.arrow((left, low + 20), (right, low + 20))
        d.arrow((right, low + 38), (left, low + 38), of="back")
    d.arrow((405, low - 1), (405, top + 58))
    d.arrow((425, top + 57), (425, low - 2), of="back")
    d.words(240, top + 78, "kept in a file,", size=SMALL, at="start")
    d.words(240, top + 95, "read by later runs", size=SMALL, at="start")
    d.words(8, low + 84, "once forward and once back through the network;", size=SMALL, at="start")
    d.words(8, low + 103, "the head learns from F, without the network", size=SMALL, at="start")
    return d


DIAGRAMS: dict[str, Callable[[dict[str, str]], Drawing]] = {
    "two-sweeps": sweeps,
    "batchnorm-statistics": statistics,
    "frozen-backbone": frozen,
}


def main() -> None:
    """Writes all of them."""
    for name, draw in DIAGRAMS.items():
        for suffix, colors in COLORS.items():
            (IMAGES / f"{name}{suffix}.svg").write_text(draw(colors).text(), encoding="utf-8")


if __name__ == "__main__":
    main()
