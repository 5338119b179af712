"""What a chart draws: the words of its SVG with their places, and the data of its specification."""

import re
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from xml.etree import ElementTree

from frankenlab.report.figures.key import text_width

NUMBER = r"(-?[\d.]+(?:e-?\d+)?)"


@dataclass(frozen=True)
class Box:
    """A text of an SVG and the rectangle that it fills, about, in pixels."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def inside(self, width: float, height: float) -> bool:
        return (
            self.left >= -2
            and self.top >= -2
            and self.right <= width + 2
            and self.bottom <= height + 2
        )

    def overlaps(self, other: "Box") -> bool:
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return across > 1.5 and down > 1.5


def size_of(svg: str) -> tuple[float, float]:
    """The width and height of an SVG."""
    width, height = re.search(rf'viewBox="0 0 {NUMBER} {NUMBER}"', svg).groups()
    return float(width), float(height)


def boxes(svg: str) -> list[Box]:
    """All texts of an SVG that Vega wrote, with their places."""
    found: list[Box] = []
    _walk(ElementTree.fromstring(svg), 0.0, 0.0, found)
    return found


def _walk(node: Any, x: float, y: float, found: list[Box]) -> None:
    turned = False
    for name, numbers in re.findall(r"(\w+)\(([^)]*)\)", node.get("transform", "")):
        values = [float(each) for each in numbers.split(",")]
        if name == "rotate":
            turned = values[0] % 360 != 0
        elif turned:
            # After a quarter turn to the left, along the text is up and across it is right.
            x, y = x + values[1], y - values[0]
        else:
            x, y = x + values[0], y + values[1]
    if node.tag.endswith("}text"):
        lines = ["".join(span.itertext()) for span in node] or ["".join(node.itertext())]
        for number, line in enumerate(lines):
            found.append(_box(node, line, x, y + number * 14, turned))
        return
    for child in node:
        _walk(child, x, y, found)


def _box(node: Any, text: str, x: float, y: float, turned: bool) -> Box:
    size = float(node.get("font-size").removesuffix("px"))
    long = text_width(text, size) * (1.05 if node.get("font-weight") == "bold" else 1)
    before = {"start": 0, "middle": long / 2, "end": long}[node.get("text-anchor", "start")]
    up, down = 0.72 * size, 0.2 * size
    if turned:
        return Box(text, x - up, y - (long - before), x + down, y + before)
    return Box(text, x - before, y - up, x - before + long, y + down)


def faults(svg: str) -> list[str]:
    """What is wrong with the words of an SVG: outside of it, or over each other."""
    found = [box for box in boxes(svg) if box.text.strip(" ▲▼•")]
    width, height = size_of(svg)
    outside = [f"{box.text!r} is cut off" for box in found if not box.inside(width, height)]
    over = [
        f"{one.text!r} lies over {two.text!r}"
        for one, two in combinations(found, 2)
        if one.overlaps(two)
    ]
    return outside + over


def words_of(svg: str) -> str:
    """All words of an SVG, a line each."""
    return "\n".join(box.text for box in boxes(svg))


def rows_of_spec(spec: dict[str, Any], part: Any = None) -> list[dict[str, Any]]:
    """Every datum of a specification in the order of its layers, or of a part of it."""
    pending: list[Any] = [spec if part is None else part]
    named, rows = spec.get("datasets", {}), []
    seen = set()
    while pending:
        part = pending.pop(0)
        if isinstance(part, dict):
            name = part.get("data", {}).get("name") if isinstance(part.get("data"), dict) else None
            if name and name not in seen:
                seen.add(name)
                rows += named[name]
            pending = [value for key, value in part.items() if key != "datasets"] + pending
        elif isinstance(part, list):
            pending = part + pending
    return rows
