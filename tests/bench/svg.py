"""A little SVG: shapes by class, so that one style sheet colours them for light and for dark backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias
from xml.sax.saxutils import escape, quoteattr

Point: TypeAlias = tuple[float, float]

_LIGHT: Final = {
    "paper": "#ffffff", "ink": "#1f2328", "soft": "#59636e", "grid": "#e3e7eb", "ours": "#0a62c4", "wal": "#7440c4",
    "file": "#0f8577", "published": "#b8450c", "raw": "#1f2328", "floor": "#59636e", "peer": "#8b949e",
}  # fmt: skip
_DARK: Final = {
    "paper": "#0d1117", "ink": "#f0f3f6", "soft": "#a3acb6", "grid": "#2b323b", "ours": "#62adff", "wal": "#c39bff",
    "file": "#49c9b5", "published": "#ff9c5b", "raw": "#f0f3f6", "floor": "#c9d1d9", "peer": "#7d8590",
}  # fmt: skip


class Drawing:
    """Shapes in the order in which they are added.

    Args:
        title: what a screen reader says.
        description: what is to be seen, in a sentence.
    """

    def __init__(self, width: int, height: int, title: str, description: str) -> None:
        self.width = width
        self.height = height
        self._head = f"<title>{escape(title)}</title><desc>{escape(description)}</desc>"
        self._shapes: list[str] = []

    def text(
        self, at: Point, words: str, colour: str = "ink", *, anchor: str = "start", bold: bool = False, size: float = 13
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        x, y = at
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{colour}" text-anchor="{anchor}" font-size="{size:g}"{weight}>'
            f"{escape(words)}</text>"
        )

    def line(self, points: Sequence[Point], colour: str, *, width: float = 1.0, dash: str = "") -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = f" stroke-dasharray={quoteattr(dash)}" if dash else ""
        self._shapes.append(f'<polyline points="{path}" class="line-{colour}" stroke-width="{width:g}"{dashes}/>')

    def dot(self, at: Point, colour: str, radius: float) -> None:
        self._shapes.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="{radius:g}" class="{colour}"/>')

    def bar(self, at: Point, width: float, height: float, colour: str) -> None:
        x, y = at
        self._shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5" class="{colour}"/>'
        )

    def __str__(self) -> str:
        shapes = "\n".join(self._shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
            f'DejaVu Sans, sans-serif">{self._head}\n<style>{_rules(_LIGHT)}\n'
            f"@media (prefers-color-scheme: dark) {{ {_rules(_DARK)} }}\nsvg {{ font-variant-numeric: tabular-nums }}"
            f'</style>\n<rect width="100%" height="100%" class="paper"/>\n{shapes}\n</svg>\n'
        )


def _rules(colours: dict[str, str]) -> str:
    return " ".join(
        f".{name} {{ fill: {value} }} .line-{name} {{ stroke: {value}; fill: none }}" for name, value in colours.items()
    )


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Where labels go that want to stand at these heights: in the same order, ``gap`` apart, within the bounds."""
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    groups: list[tuple[list[int], float]] = []  # labels that touch, and where the middle of them stands
    for index in order:
        members, middle = [index], min(max(wanted[index], low), high)
        while groups and groups[-1][1] + gap * (len(groups[-1][0]) + len(members)) / 2 > middle:
            before, _ = groups.pop()
            members = [*before, *members]
            half = gap * (len(members) - 1) / 2
            middle = sum(wanted[one] for one in members) / len(members)
            middle = min(max(middle, low + half), high - half)
        groups.append((members, middle))
    placed = [0.0] * len(wanted)
    for members, middle in groups:
        for place, index in enumerate(members):
            placed[index] = middle + gap * (place - (len(members) - 1) / 2)
    return placed
