"""The curves of a run as inline SVG, for its report: outer loss, and accuracy with its spread.

Used by `html_report`. Colors are classes that the page styles, for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

# In units of the drawing, which a phone shows about one to one.
_WIDTH, _HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 12, 34
_MOST_POINTS = 300


class _Point(NamedTuple):
    step: float
    value: float
    spread: float = 0.0


def curves(history: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return titles and drawings of a log: of the outer loss, and of the accuracy in percent."""
    losses = [_Point(h["step"], h["outer_loss"]) for h in history if "outer_loss" in h]
    accuracies = [
        _Point(h["step"], 100 * h["eval_accuracy_mean"], 100 * (h.get("eval_accuracy_std") or 0.0))
        for h in history
        if "eval_accuracy_mean" in h
    ]
    drawn = [("loss", "Outer loss", losses), ("accuracy", "Accuracy, %", accuracies)]
    return [
        (title, _drawing(kind, title, [point for point in points if _is_finite(point)]))
        for kind, title, points in drawn
        if any(map(_is_finite, points))
    ]


def _is_finite(point: _Point) -> bool:
    return all(math.isfinite(value) for value in point)


def _drawing(kind: str, title: str, points: Sequence[_Point]) -> str:
    shown = _thinned(points)
    last = max(point.step for point in shown)
    low, high = _limits(
        min(p.value - p.spread for p in shown), max(p.value + p.spread for p in shown)
    )
    if kind == "accuracy":
        low, high = max(low, 0.0), min(high, 100.0)

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (step / last if last else 0.5)

    def y(value: float) -> float:
        share = (high - min(max(value, low), high)) / (high - low)
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * share

    parts = []
    for value in _ticks(low, high):
        parts.append(f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>')
        parts.append(_text(_LEFT - 5, y(value) + 3.5, f"{value:g}", "end"))
    for step in filter(float.is_integer, map(float, _ticks(0, last))):
        parts.append(_text(x(step), _HEIGHT - _BOTTOM + 14, f"{step:,.0f}", "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, "outer step", "middle"))
    places = [f"{x(p.step):.1f} {y(p.value):.1f}" for p in shown]
    parts.append(f'<path class="line {kind}" d="M{"L".join(places)}"/>')
    if kind == "accuracy" or len(shown) == 1:
        for point in shown:
            place = f"{x(point.step):.1f}"
            if point.spread:
                ends = y(point.value - point.spread), y(point.value + point.spread)
                parts.append(
                    f'<path class="line {kind}" d="M{place} {ends[0]:.1f}V{ends[1]:.1f}"/>'
                )
            parts.append(f'<circle class="{kind}" cx="{place}" cy="{y(point.value):.1f}" r="3"/>')
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title} over outer steps">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _thinned(points: Sequence[_Point]) -> Sequence[_Point]:
    """Return at most `_MOST_POINTS` points, the last among them."""
    every = math.ceil(len(points) / _MOST_POINTS)
    return points[::-1][::every][::-1] if every > 1 else points


def _limits(low: float, high: float) -> tuple[float, float]:
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers between two."""
    if high <= low:
        return [low]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    every = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / every - 1e-9)
    return [round(n * every, 12) for n in range(first, math.floor(high / every + 1e-9) + 1)]
