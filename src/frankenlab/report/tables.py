"""What the report's page shows, as HTML: the answer, pictures, tables and how it was made."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import yaml
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.analyse.selection import Frozen
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import read_parquet
from frankenlab.io.records import read_record
from frankenlab.report.answer import against_controls, answer, signed

NAMES = (
    "comparisons",
    "verdicts",
    "pairs",
    "costs",
    "ledger",
    "bits",
    "quantizations",
    "race",
)
# Plans and descriptions can be long: these columns wrap, all others keep their line.
LONG_COLUMNS = ("plan", "frozen", "control", "made by", "calibration")
STAGES = ("search", "select", "confirm")


class Provenance(TypedDict, total=False):
    """What the page shows of `provenance.json`, where it is there."""

    models: dict[str, dict[str, Any]]
    grid: dict[str, Any]
    precisions: dict[str, Any]
    machine: dict[str, Any]
    data: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, Any]


class Picture(Protocol):
    """What `frankenlab.figures.pictures` gives, as far as the page needs it."""

    stem: str
    title: str
    caption: str


def load_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """The analysis' tables in `folder` by name; those that are not there are left out.

    Raises:
        UserError: there is none at all.
    """
    paths = {name: Path(folder) / f"{name}.parquet" for name in NAMES}
    tables = {name: read_parquet(path) for name, path in paths.items() if path.is_file()}
    if not tables:
        raise UserError(f"{folder}: no tables here; expected {', '.join(NAMES)} as .parquet")
    return tables


def load_frozen(folder: str | Path) -> list[dict[str, Any]]:
    """The frozen plans in `folder`, `<model>.json` each, in the order of their names."""
    return [read_record(path, Frozen) for path in sorted(Path(folder).glob("*.json"))]


def load_provenance(path: str | Path) -> dict[str, Any]:
    """The experiment's `provenance.json`, or {} when it was not written."""
    return read_record(path, Provenance) if Path(path).is_file() else {}


def cases(tables: Mapping[str, pd.DataFrame]) -> list[tuple[str, str]]:
    """Each (model, quantization) that has results, in the tables' order."""
    found = [
        tables[name][["model", "quantization"]]
        for name in ("comparisons", "verdicts")
        if name in tables
    ]
    rows = pd.concat(found).drop_duplicates() if found else pd.DataFrame()
    return [tuple(row) for row in rows.itertuples(index=False)]


def title_html(experiment: str, provenance: Mapping[str, Any]) -> str:
    """The page's title, with the experiment, the models and the date under it."""
    models = ", ".join(provenance.get("models", {}))
    under = " · ".join(
        filter(None, [f"experiment {experiment}", models, provenance.get("created")])
    )
    return f'<h1>Are frankenmodels a free lunch?</h1><p class="note">{escape(under)}</p>'


def answer_html(
    tables: Mapping[str, pd.DataFrame], frozen: Sequence[Mapping[str, Any]], confidence: float
) -> str:
    """The three sentences of `answer`, a paragraph each."""
    sentences = answer(tables, frozen, confidence)
    return '<div class="answer">' + "".join(f"<p>{escape(s)}</p>" for s in sentences) + "</div>"


def gallery(pictures: Iterable[Picture], folder: str | Path, heading: str = "") -> str:
    """The saved pictures with their captions, embedded; one that was not drawn is named as such."""
    parts = [f"<h3>{escape(heading)}</h3>"] if heading else []
    for picture in pictures:
        path = Path(folder) / f"{picture.stem}.svg"
        title, caption = escape(picture.title), escape(picture.caption)
        if not path.is_file():
            parts.append(f'<p class="note">Not drawn: {title} ({escape(picture.stem)}).</p>')
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        alt = escape(f"{picture.title}. {picture.caption}", quote=True)
        parts.append(
            f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{alt}">'
            f"<figcaption><b>{title}.</b> {caption}</figcaption></figure>"
        )
    return "\n".join(parts)


def html_table(frame: pd.DataFrame, note: str = "", left: Sequence[str] = ()) -> str:
    """A table of texts; columns named in `left` align left, long ones wrap."""
    if frame.empty:
        return f'<p class="note">Nothing to show here. {escape(note)}</p>'
    classes = [("" if c in left else "n") + " long" * (c in LONG_COLUMNS) for c in frame.columns]
    head = "".join(
        f'<th class="{kind}">{escape(str(column))}</th>'
        for kind, column in zip(classes, frame.columns, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{kind}">{escape(str(cell))}</td>'
            for kind, cell in zip(classes, row, strict=True)
        )
        + "</tr>"
        for row in frame.itertuples(index=False)
    )
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{note_html(note)}"
    )


def note_html(text: str) -> str:
    """Small print under a table; nothing for nothing."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def by_case(
    table: pd.DataFrame | None,
    records: Callable[[pd.DataFrame], list[dict[str, str]]],
    note: str,
    left: Sequence[str],
) -> str:
    """One table for each (model, quantization), of records made from its rows; then the note."""
    if table is None or table.empty:
        return html_table(pd.DataFrame(), note)
    parts = [
        f"<h4>{escape(model)} · quantization {escape(quantization)}</h4>"
        + html_table(pd.DataFrame(records(rows)), "", left)
        for (model, quantization), rows in table.groupby(["model", "quantization"], sort=False)
    ]
    return "\n".join(parts) + note_html(note)


def interval_text(row: Any) -> str:
    """ "+1.2 [−0.8, +3.1]" of a row with an effect and its limits."""
    return f"{signed(row.effect)} [{signed(row.low)}, {signed(row.high)}]"


def native_text(value: float, kind: str) -> str:
    """A metric's value with the digits that its kind deserves."""
    return f"{value:.2f}" if kind == "perplexity" else f"{value:.3f}"


def count_text(value: Any) -> str:
    """A whole number, or a dash where there is none."""
    return "–" if pd.isna(value) else f"{int(value):,}"


def p_text(value: float) -> str:
    """A p-value, not beyond a thousandth."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def verdicts_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """Every frozen franken and control on every task, with intervals and verdicts."""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "task": f"{row.task} ({row.role})",
                "plan": f"{row.group} {row.plan}",
                "n": count_text(row.n),
                "metric: base → plan": f"{row.metric} {native_text(row.base_value, row.kind)} → "
                f"{native_text(row.value, row.kind)}",
                "change [interval]": interval_text(row),
                "unit": row.unit,
                "p (Holm)": p_text(row.p_holm),
                "verdict": row.verdict,
                "n needed": count_text(row.documents_needed)
                if row.verdict == "inconclusive"
                else "–",
            }
            for row in rows.itertuples()
        ]

    table = tables.get("verdicts", pd.DataFrame(columns=["margin"]))
    margins = " or ".join(f"±{margin:g}" for margin in sorted(table["margin"].unique()))
    note = "Positive changes are better. Equivalent: the 90 % interval lies within the margin"
    note += f" of {margins} in the change's unit" if margins else ""
    note += ". n needed: about how many documents would decide what is inconclusive."
    return by_case(table, records, note, ("task", "plan", "metric: base → plan", "unit", "verdict"))


def costs_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """What the base, the frozen frankens and the controls cost when they run."""

    def speed(row: Any, way: str, digits: int) -> str:
        values = (getattr(row, f"{way}_{end}") for end in ("tokens_per_second", "low", "high"))
        median, low, high = (f"{value:,.{digits}f}" for value in values)
        return f"{median} [{low}, {high}]"

    def named(group: str) -> str:
        return "control" if group == "control" else "frozen"

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "plan": row.plan if row.plan == "base" else f"{named(row.group)} {row.plan}",
                "layers": f"{row.depth:g} ({row.relative_depth:.2f}×)",
                "parameters": f"{row.parameters / 1e6:,.1f} M",
                "KV cache a token": f"{row.kv_bytes_per_token / 1024:,.1f} KiB",
                "prefill tokens/s": speed(row, "prefill", 0),
                "decode tokens/s": speed(row, "decode", 1),
                "peak memory": "–"
                if pd.isna(row.peak_memory_bytes)
                else f"{row.peak_memory_bytes / 2**20:,.0f} MiB",
            }
            for row in rows.itertuples()
        ]

    note = "Speeds are medians with the slowest and the fastest repeat; a franken's weights are "
    note += "its base's, each occurrence of a layer has a KV cache of its own."
    return by_case(tables.get("costs"), records, note, ("plan",))


def top_plans(
    comparisons: pd.DataFrame, model: str, quantization: str, count: int = 10
) -> pd.DataFrame:
    """The search's best plans by mean change over the search tasks, with every task's interval, of
    those that no race dropped.

    Where a plan went on to the select stage, its mean change there stands beside.
    """
    mine = comparisons[
        (comparisons["model"] == model)
        & (comparisons["quantization"] == quantization)
        & (comparisons["role"] == "search")
        & (comparisons["plan"] != "base")
    ]
    search = mine[(mine["stage"] == "search") & mine["dropped"].isna()]
    if search.empty:
        return pd.DataFrame()
    means = search.groupby("plan")["effect"].mean().sort_values(ascending=False, kind="stable")
    later = mine[mine["stage"] == "select"].groupby("plan")["effect"].mean()
    records = []
    for plan in means.index[:count]:
        rows = search[search["plan"] == plan]
        record = {
            "plan": plan,
            "made by": rows["group"].iloc[0],
            "layers": f"{rows['relative_depth'].iloc[0]:.2f}×",
            "mean": signed(means[plan]),
        }
        for row in rows.itertuples():
            star = " *" if row.significant else ""
            record[f"{row.task}, n = {row.n}"] = interval_text(row) + star
        record["mean at select"] = signed(later[plan]) if plan in later.index else "–"
        records.append(record)
    return pd.DataFrame(records).fillna("–")


def top_plans_html(tables: Mapping[str, pd.DataFrame], count: int = 10) -> str:
    """`top_plans` of every model that was searched, with the warning that they need."""
    comparisons = tables.get("comparisons")
    if comparisons is not None:
        comparisons = comparisons[comparisons["stage"].isin(["search", "select"])]

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        model, quantization = rows[["model", "quantization"]].iloc[0]
        return top_plans(rows, model, quantization, count).to_dict("records")

    note = "Changes in the task's unit with intervals; * marks q below the false discovery rate. "
    note += "The best of a grid is optimistic: it was chosen on these very documents, and part of "
    note += "its lead is luck. Only the verdicts above rest on documents that chose nothing."
    return by_case(comparisons, records, note, ("plan", "made by"))


def pairs_html(tables: Mapping[str, pd.DataFrame], frozen: Sequence[Mapping[str, Any]]) -> str:
    """The frozen frankens against their controls of equal depth, document by document."""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "task": row.task,
                "frozen": row.plan_a,
                "control": row.plan_b,
                "n": count_text(row.n),
                "frozen − control [interval]": interval_text(row),
                "unit": row.unit,
                "p": p_text(row.p),
            }
            for row in rows.itertuples()
        ]

    rows = against_controls(tables.get("pairs"), frozen)
    rows = rows.rename(columns={"model_a": "model", "quantization_a": "quantization"})
    note = "Positive changes speak for the frozen plan. These p are not corrected."
    return by_case(rows, records, note, ("task", "frozen", "control", "unit"))


def documents_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """How many documents, and what share of a task's, each stage saw."""
    rows = tables.get("comparisons", pd.DataFrame())
    if rows.empty:
        return html_table(rows)
    counts = rows.groupby(["task", "role", "stage"], sort=False)["n"].max().unstack(fill_value=0)
    counts = counts.reindex(columns=[stage for stage in STAGES if stage in counts.columns])
    shares = counts.div(counts.sum(axis=1), axis=0)
    frame = pd.DataFrame(
        {"task": task, "role": role}
        | {
            stage: f"{counts.at[(task, role), stage]:,} ({shares.at[(task, role), stage]:.0%})"
            for stage in counts.columns
        }
        for task, role in counts.index
    )
    note = "No document is in two stages. A stage that shows 0 did not run the task."
    return html_table(frame, note, ("task", "role"))


def ledger_html(tables: Mapping[str, pd.DataFrame]) -> str:
    """How often each confirm set was looked at: every look after the first weakens the verdict."""

    def records(rows: pd.DataFrame) -> list[dict[str, str]]:
        return [
            {
                "task": task,
                "looks": str(looks["looked"].nunique()),
                "plans": str(looks["plan"].nunique()),
                "documents": count_text(looks["documents"].max()),
                "first": looks["looked"].min(),
                "last": looks["looked"].max(),
            }
            for task, looks in rows.groupby("task", sort=False)
        ]

    note = "A look is one time at which results on the confirm documents were made known; every "
    note += "look after the first weakens the verdict."
    return by_case(tables.get("ledger"), records, note, ("task", "first", "last"))


def made_html(provenance: Mapping[str, Any], frozen: Sequence[Mapping[str, Any]]) -> str:
    """How it was made: models, what was frozen and why, data, code, versions, hashes, config."""
    if not provenance:
        return '<p class="note">No provenance was recorded.</p>'
    grid = provenance.get("grid", {})
    facts = {
        "experiment": provenance.get("experiment"),
        "made": provenance.get("created"),
        "frankenlab": provenance.get("frankenlab"),
        "engine": provenance.get("engine"),
        "precision": _flat(provenance.get("precisions", {})),
        "grid": f"{grid.get('plans', '?')} plans, {grid.get('duplicates_folded', 0)} other "
        "spellings of them folded",
        "made by": _flat(grid.get("generators", {})),
        "machine": _flat(provenance.get("machine", {})),
    }
    parts = [_definitions(facts)]
    for name, model in provenance.get("models", {}).items():
        parts.append(f"<h4>Model {escape(name)}</h4>")
        facts = {key: _flat(value) for key, value in model.items()}
        for freeze in (freeze for freeze in frozen if freeze["model"] == name):
            facts["frozen"] = f"{freeze['frozen']} ({freeze['reason']})"
            facts["controls"] = "; ".join(freeze["controls"])
        parts.append(_definitions(facts))
    for title, key in (("Data", "data"), ("Code", "code"), ("Versions", "versions")):
        if provenance.get(key):
            values = {name: _flat(value) for name, value in provenance[key].items()}
            parts.append(f"<h4>{title}</h4>{_definitions(values)}")
    config = yaml.safe_dump(provenance.get("config", {}), sort_keys=False, allow_unicode=True)
    parts.append(f"<h4>Config</h4><pre>{escape(config)}</pre>")
    return "\n".join(parts)


def _definitions(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def _flat(value: Any) -> str:
    """A mapping as "key value, key value"; anything else as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(inner) for inner in value)
    return str(value)
