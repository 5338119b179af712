"""Draw what plans gain on the search tasks against what they lose on the guard tasks."""

from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.analyse.tradeoff import LEAST_PLANS
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    PLOT,
    blank,
    effect_title,
    finish,
    interval_rules,
    model_layers,
    number_axis,
    panel_title,
    plan_looks,
    short_unit,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    guard_name,
    interval,
    listed,
    plan_words,
    plural,
    signed,
)

# The width of each of two panels side by side.
COLUMN = (PLOT - 72) // 2


def tradeoff(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw the effect of each confirmed plan on a guard task against that on the search tasks.

    One panel for the mean of the guard tasks that have one unit, and one for each guard task.
    """
    rows = rows_of(tables.get("tradeoff"), **where)
    if rows.empty:
        return blank(f"{where['model']}: no plan was confirmed on search and guard tasks.")
    looks = plan_looks(tables, where["model"])
    layers = model_layers(tables, where["model"])
    each = [part for _, part in rows.groupby(["guard", "unit"], sort=False)]
    width = COLUMN if len(each) > 1 else PLOT
    panels = [_panel(part, looks, layers, width) for part in each]
    shown = [looks[plan] for plan in rows["plan"].unique() if plan in looks]
    items: list[KeyItem] = [
        ("point", look.color, look.shape, look.label) for look in shown if look.group == "frozen"
    ]
    others = next((look for look in shown if look.group != "frozen"), None)
    if others:
        items.append(("point", others.color, others.shape, "other plans that were confirmed"))
    items.append(("thin", "#444444", "", INTERVAL))
    chart = alt.vconcat(alt.concat(*panels, columns=2, spacing=14), key(items))
    finding = tradeoff_finding(tables, levels, **where)
    heading = "Gain on the search tasks against loss on the guard tasks"
    return finish(chart, heading, where, finding, ["confirm documents"])


def _panel(rows: pd.DataFrame, looks: Any, layers: int, width: int) -> Any:
    """Draw one guard task, or the mean of some."""
    first = rows.iloc[0]
    records = rows.to_dict("records")
    numbers = ["gain", "gain_low", "gain_high", "effect", "low", "high"]
    data = rows[["plan", "n"]].assign(
        **{name: rows[name].astype(float).round(3) for name in numbers},
        words=[plan_words(plan, layers) for plan in rows["plan"]],
        color=[looks[plan].color for plan in rows["plan"]],
        shape=[looks[plan].shape for plan in rows["plan"]],
        gain_text=[interval(row, "gain", short_unit(first["gain_unit"])) for row in records],
        effect_text=[interval(row, unit=short_unit(first["unit"])) for row in records],
    )
    across = _domain(data[["gain_low", "gain_high"]])
    down = alt.Scale(domain=_domain(data[["low", "high"]]), nice=False, zero=False)
    gain = alt.Scale(domain=across, nice=False, zero=False)
    title = f"search tasks: {effect_title(first['gain_unit'])}".removesuffix(", ")
    horizontal = number_axis(title, tickCount=5)
    vertical = value_axis(effect_title(first["unit"]))
    x = alt.X("gain:Q", scale=gain, axis=horizontal)
    y = alt.Y("effect:Q", scale=down, axis=vertical)
    chart = alt.Chart(data).encode(color=alt.Color("color:N", scale=None))
    low, left = alt.Y("low:Q", scale=down, axis=vertical), alt.X("gain_low:Q", scale=gain)
    tips = {"words": "plan", "plan": "as text", "gain_text": "search tasks"}
    tips |= {"effect_text": str(first["guard"])}
    drawn = [
        zero_rule(),
        zero_rule(horizontal=False),
        interval_rules(chart.encode(x=x), low, "high"),
        interval_rules(chart.encode(y=y), left, "gain_high"),
        chart.mark_point(filled=True, size=70, opacity=1).encode(
            x=x,
            y=y,
            shape=alt.Shape("shape:N", scale=None),
            tooltip=[
                *(alt.Tooltip(f"{name}:N", title=title) for name, title in tips.items()),
                alt.Tooltip("n:Q", title="documents"),
            ],
        ),
    ]
    name = guard_name(first["guard"], first["guards"])
    note = "" if pd.isna(first["correlation_low"]) else f"correlation {_correlation(first)}"
    return alt.layer(*drawn).properties(width=width, height=200, title=panel_title(name, note))


def _domain(ends: pd.DataFrame) -> list[float]:
    """Return the domain of an axis that holds intervals, and 0."""
    low, high = min(float(ends.min().min()), 0.0), max(float(ends.max().max()), 0.0)
    room = 0.05 * (high - low) or 1.0
    return [round(low - room, 3), round(high + room, 3)]


def _correlation(row: pd.Series) -> str:
    """Return "−0.61 [−0.90, −0.10]", or "unknown [...]" where plans differ only by noise."""
    low, high = signed(row["correlation_low"], 2), signed(row["correlation_high"], 2)
    known = pd.notna(row["correlation"])
    return f"{signed(row['correlation'], 2) if known else 'unknown'} [{low}, {high}]"


def tradeoff_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say whether plans that gain more on the search tasks lose more on the guard tasks."""
    rows = rows_of(tables.get("tradeoff"), **where)
    if rows.empty:
        return ""
    count = int(rows["plans"].iloc[0])
    if count < LEAST_PLANS:
        return (
            f"Only {plural(count, 'plan')} ran on both search and guard tasks, too few to say "
            "whether those that gain more also lose more."
        )
    said: dict[str, list[str]] = {}
    for _, part in rows.groupby(["guard", "unit"], sort=False):
        first = part.iloc[0]
        turn = "more" if first["correlation_high"] < 0 else "open"
        turn = "less" if first["correlation_low"] > 0 else turn
        name = guard_name(first["guard"], first["guards"])
        said.setdefault(turn, []).append(f"{name} ({_correlation(first)})")
    openings = {
        "more": "those that gain more on the search tasks lose more on",
        "less": "those that gain more on the search tasks do better on",
        "open": "there is no evidence that gain and loss go together on",
    }
    parts = [f"{text} {listed(said[turn])}" for turn, text in openings.items() if turn in said]
    return (
        f"Of {count} confirmed plans, {'; '.join(parts)}. In brackets are correlations over these "
        f"plans with their {INTERVAL}s."
    )
