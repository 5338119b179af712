"""A key of marks that no scale of a chart explains."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from frankenlab.report.figures.style import PLOT, SMALL, TEXT


def text_width(text: str, size: float = SMALL) -> float:
    """Return about how wide a text is in pixels, in Arial."""
    return size * sum(_NARROW.get(character, 0.56) for character in text)


_NARROW = (
    dict.fromkeys("ijl'|", 0.225)
    | dict.fromkeys("ft .,:;I!/[]\\·", 0.28)
    | dict.fromkeys("r()-", 0.333)
    | dict.fromkeys("ckszJvxy", 0.5)
    | dict.fromkeys("wABEKPSVXYCDHNRU", 0.7)
    | dict.fromkeys("mMGOQW%", 0.85)
    | {"▼": 0.99, "▲": 0.99, "−": 0.584, "–": 0.556, "…": 1.0}
)

# A mark of the key: its kind ("point", "hollow", "thin", "thick", "band", "line", or a text of one
# character), its colour, its shape if it is a point, and what it means.
KeyItem = tuple[str, str, str, str]
BAND = "M-1,-0.8H1V0.8H-1Z"


def key(items: Sequence[KeyItem], width: int = PLOT) -> Any:
    """Return a key of marks that no scale explains, as lines under a figure."""
    line, step, mark = 18, 18, 22
    placed: list[dict[str, Any]] = []
    x, y = 0.0, 0
    for kind, color, shape, meaning in items:
        # A browser without Arial may take a font that is wider.
        wide = mark + 1.12 * text_width(meaning) + step
        if x and x + wide - step > width:
            x, y = 0.0, y + line
        what = {"kind": kind, "color": color, "shape": shape, "meaning": meaning}
        placed.append(what | {"x": round(x), "end": round(x + mark - 6), "y": y + line / 2})
        x += wide
    height = y + line
    across = alt.X("x:Q", scale=alt.Scale(domain=[0, width]), axis=None)
    down = alt.Y("y:Q", scale=alt.Scale(domain=[height, 0]), axis=None)
    layers = []
    for spot in placed:
        chart = alt.Chart(alt.InlineData(values=[spot])).encode(across, down)
        layers += [_key_mark(chart, spot), _key_text(chart, spot)]
    return alt.layer(*layers).properties(width=width, height=height)


def _key_text(chart: alt.Chart, spot: Mapping[str, Any]) -> alt.Chart:
    return chart.mark_text(align="left", dx=22, text=spot["meaning"], fontSize=SMALL)


def _key_mark(chart: alt.Chart, spot: Mapping[str, Any]) -> alt.Chart:
    kind, color = spot["kind"], spot["color"]
    if kind in ("point", "hollow"):
        fill = "white" if kind == "hollow" else color
        look: dict[str, Any] = {"stroke": color, "fill": fill, "size": 55, "opacity": 1}
        return chart.mark_point(shape=spot["shape"], xOffset=8, **look)
    if kind == "band":
        return chart.mark_point(
            shape=BAND, xOffset=8, size=256, color=color, filled=True, opacity=1
        )
    widths = {"thin": 1.4, "thick": 5, "line": 1.4}
    if kind in widths:
        dash: dict[str, Any] = {"strokeDash": [4, 3]} if kind == "line" else {}
        rule = chart.mark_rule(color=color, strokeWidth=widths[kind], **dash)
        return rule.encode(x2="end:Q")
    return chart.mark_text(text=kind, color=color, xOffset=8, fontSize=TEXT)
