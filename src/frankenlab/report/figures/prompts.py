"""Draw the effects of the confirmed plans under each prompt of a task."""

from typing import Any

import altair as alt
import pandas as pd

from frankenlab.analyse.settings import Statistics
from frankenlab.report.figures.key import KeyItem, key
from frankenlab.report.figures.style import (
    PLOT,
    RUNNER_UP,
    Look,
    blank,
    effect_title,
    finish,
    interval_rules,
    model_layers,
    panel_title,
    plan_looks,
    short_unit,
    shown_effect,
    value_axis,
    zero_rule,
)
from frankenlab.report.results import Tables, rows_of
from frankenlab.report.text import (
    INTERVAL,
    interval,
    plan_words,
    plural,
    shorten,
    signed,
    spoken_p,
    spoken_value,
)

# The width of each of two panels side by side, and the most prompts that fit into it.
COLUMN, MOST_BESIDE = (PLOT - 72) // 2, 3
# Between the leftmost and the rightmost plan at a prompt, of the way to the next prompt.
APART = 0.5
# With so few prompts, what they say of prompts in general is next to nothing.
FEW = 3
ALPHA = 0.05


def prompts(tables: Tables, levels: Statistics, **where: str) -> Any:
    """Draw each confirmed plan's change under each prompt, a panel for each task."""
    rows = rows_of(tables.get("prompts"), **where)
    if rows.empty:
        return blank(f"{where['model']}: no other prompt was run.")
    layers = model_layers(tables, where["model"])
    known = plan_looks(tables, where["model"])
    plans = rows.drop_duplicates("plan").set_index("plan")["group"].to_dict()
    looks = {
        plan: known.get(plan, Look(group, *RUNNER_UP, "runner-up")) for plan, group in plans.items()
    }
    parts = [part for _, part in rows.groupby("task", sort=False)]
    beside = len(parts) > 1 and rows["prompts"].max() <= MOST_BESIDE
    width = COLUMN if beside else PLOT
    panels = [_panel(part, looks, layers, width) for part in parts]
    items: list[KeyItem] = [
        ("point", look.color, look.shape, look.label)
        for plan, look in looks.items()
        if plans[plan] != "finalist"
    ]
    if "finalist" in plans.values():
        items.append(("point", *RUNNER_UP, "runners-up of the shortlist"))
    items.append(("thin", "#444444", "", INTERVAL))
    chart = alt.vconcat(alt.concat(*panels, columns=2 if beside else 1, spacing=14), key(items))
    finding = prompts_finding(tables, levels, **where)
    heading = "The effect under each prompt"
    return finish(chart, heading, where, finding, ["confirm documents, without verdicts"])


def _panel(rows: pd.DataFrame, looks: dict[str, Look], layers: int, width: int) -> Any:
    """Draw one task: the plans side by side at each prompt."""
    first = rows.iloc[0]
    names = list(rows["prompt"].unique())
    plans = list(rows["plan"].unique())
    step = APART / max(len(plans) - 1, 1)
    shift = {plan: (i - (len(plans) - 1) / 2) * step for i, plan in enumerate(plans)}
    records = rows.to_dict("records")
    data = rows[["plan", "task", "prompt", "n"]].assign(
        place=[names.index(row["prompt"]) + round(shift[row["plan"]], 3) for row in records],
        words=[plan_words(row["plan"], layers) for row in records],
        effect_text=[interval(row, unit=short_unit(row["unit"])) for row in records],
        base=[spoken_value(row["base_value"], row["kind"]) for row in records],
        color=[looks[row["plan"]].color for row in records],
        shape=[looks[row["plan"]].shape for row in records],
        **{name: rows[name].astype(float).round(3) for name in ("effect", "low", "high")},
    )
    low, high = min(data["low"].min(), 0.0), max(data["high"].max(), 0.0)
    room = 0.05 * (high - low) or 1.0
    domain = [round(low - room, 3), round(high + room, 3)]
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    bases = rows.drop_duplicates("prompt")
    said = [
        f"datum.value == {place} ? ['{shorten(row['prompt'], 18)}', "
        f"'base {spoken_value(row['base_value'], row['kind'])}']"
        for place, row in enumerate(bases.to_dict("records"))
    ]
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False),
        axis=alt.Axis(
            title="",
            values=list(range(len(names))),
            labelExpr=f"{' : '.join(said)} : ''",
            grid=False,
            ticks=False,
        ),
    )
    axis = value_axis(effect_title(first["unit"]))
    y = alt.Y("effect:Q", scale=scale, axis=axis)
    chart = alt.Chart(data).encode(x=x, color=alt.Color("color:N", scale=None))
    tips = {"words": "plan", "plan": "as text", "task": "task", "prompt": "prompt"}
    tips |= {"effect_text": "change", "base": "base"}
    drawn = [
        zero_rule(),
        interval_rules(chart, alt.Y("low:Q", scale=scale, axis=axis), "high"),
        chart.mark_point(filled=True, size=55, opacity=1).encode(
            y=y,
            shape=alt.Shape("shape:N", scale=None),
            tooltip=[
                *(alt.Tooltip(f"{name}:N", title=title) for name, title in tips.items()),
                alt.Tooltip("n:Q", title="documents"),
            ],
        ),
    ]
    title = panel_title(f"{shorten(str(first['task']))}, n = {first['n']:,}")
    return alt.layer(*drawn).properties(width=width, height=200, title=title)


def prompts_finding(tables: Tables, levels: Statistics, **where: str) -> str:
    """Say how the frozen plan's effect and the base's own score vary with the prompt."""
    rows = rows_of(tables.get("prompts"), **where, group="frozen")
    if rows.empty:
        return ""
    layers = model_layers(tables, where["model"])
    said, counts = [], rows.groupby("task", sort=False)["prompts"].first()
    for place, (task, own) in enumerate(rows.groupby("task", sort=False)):
        first = own.iloc[0]
        what = f"running {plan_words(first['plan'], layers)}" if place == 0 else "it"
        of = plural(int(first["prompts"]), "prompt")
        effects = own["effect"].min(), own["effect"].max()
        changes = " to ".join(_change(effect, first["unit"]) for effect in effects)
        bases = own["base_value"].min(), own["base_value"].max()
        scores = " to ".join(spoken_value(value, first["kind"]) for value in bases)
        said.append(
            f"Under {of} of {task}, {what} changed the result by {changes} {_unit(first['unit'])}, "
            f"while the base itself reached {scores}. {_spread(first)}"
        )
    few = counts[counts <= FEW]
    if len(few):
        number = {2: "Two", 3: "Three"}[int(few.max())]
        said.append(
            f"{number} prompts tell whether the effect differs between these, and next to nothing "
            "about how much it varies over all prompts that one could write."
        )
    return " ".join(said)


def _change(effect: float, unit: str) -> str:
    """Return an effect without its unit: "+1.2", or of a perplexity "+8.0 %"."""
    if unit == "log-percent":
        return f"{signed(shown_effect(effect, unit))} %"
    return signed(effect)


def _unit(unit: str) -> str:
    return "in perplexity" if unit == "log-percent" else unit


def _spread(row: pd.Series) -> str:
    """Say how large the standard deviation between prompts is, beside what documents explain."""
    unit = row["unit"]
    sure = row["spread_p"] < ALPHA
    depends = "the effect depends on the prompt"
    depends = depends if sure else f"there is no evidence that {depends}"
    low, high = row["spread_low"], row["spread_high"]
    return (
        f"The effect's standard deviation between prompts is {row['spread']:.1f} {unit} "
        f"[{low:.1f}, {high:.1f}], beside a noise of {row['noise']:.1f} {unit} from the "
        f"documents: {depends} ({spoken_p(row['spread_p'])})."
    )
