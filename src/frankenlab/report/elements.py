"""Elements of the page as HTML: tables, notes, figures with their captions."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from frankenlab.report.figures.catalogue import Picture
from frankenlab.report.results import Results

Row = Mapping[str, Any]
# A cell's text: a template that the row fills, or a function of the row.
Columns = Mapping[str, str | Callable[[Row], str]]

# Columns of words align left, those of numbers right.
WORDS = {
    *("task", "role", "plan", "frozen", "control", "unit", "metric", "metric: base → plan"),
    *("verdict", "the change is", "first", "last", "made by", "calibration", "quantization"),
    *("base, by read", "by read", "base, by memory", "by memory", "unit of changes"),
}
# Plans and descriptions can be long: these columns wrap, all others keep their line.
LONG = {"plan", "frozen", "control", "made by", "calibration"}


def note_html(text: str) -> str:
    """Return small print; nothing for nothing."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def cells(rows: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return a table of texts, one column for each of `columns`."""
    return pd.DataFrame(
        {
            name: text.format_map(row) if isinstance(text, str) else text(row)
            for name, text in columns.items()
        }
        for row in rows.to_dict("records")
    )


def html_table(frame: pd.DataFrame, note: str = "") -> str:
    """Return a table of texts, with a note under it."""
    if frame.empty:
        return note_html(f"There is nothing to show here. {note}".strip())
    classes = [("" if c in WORDS else "n") + " long" * (c in LONG) for c in frame.columns]

    def line(tag: str, texts: Iterable[Any]) -> str:
        found = zip(classes, texts, strict=True)
        each = (f'<{tag} class="{kind}">{escape(str(text))}</{tag}>' for kind, text in found)
        return f"<tr>{''.join(each)}</tr>"

    body = "".join(line("td", row) for row in frame.itertuples(index=False))
    table = f"<table><thead>{line('th', frame.columns)}</thead><tbody>{body}</tbody></table>"
    return f'<div class="table">{table}</div>{note_html(note)}'


def tables_html(
    rows: pd.DataFrame,
    texts: Columns | Callable[[pd.DataFrame], pd.DataFrame],
    caption: str,
    by: Sequence[str] = ("model", "quantization"),
) -> str:
    """Return a table for each model and quantization under its name, then the caption.

    Args:
        rows: what the tables show; may be empty.
        texts: the columns, or a function that makes the table of texts from rows.
        caption: HTML, as `Results.caption` gives it.
        by: what has a table of its own. A single model alone is not named.
    """
    note = f'<div class="note">{caption}</div>'
    if rows.empty:
        return html_table(rows) + note
    parts = []
    cases = rows.groupby(list(by), sort=False)
    for case, part in cases:
        if len(by) > 1 or len(cases) > 1:
            parts.append(f"<h4>{escape(' · quantization '.join(map(str, case)))}</h4>")
        parts.append(html_table(texts(part) if callable(texts) else cells(part, texts)))
    return "\n".join([*parts, note])


def gallery(results: Results, pictures: Iterable[Picture], heading: str = "") -> str:
    """Return the saved figures with their captions, embedded; says which were not drawn."""
    parts = [f"<h3>{escape(heading)}</h3>"] if heading else []
    for picture in pictures:
        path = results.figures / f"{picture.stem}.svg"
        title = escape(picture.title)
        if not path.is_file():
            parts.append(note_html(f"Not drawn: {picture.title} ({picture.stem})."))
            continue
        data = base64.b64encode(path.read_bytes()).decode()
        caption = results.caption(f"figures/{picture.entry.name}", **picture.where)
        caption = caption.replace("<p>", f"<p><b>{title}.</b> ", 1)
        parts.append(
            f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{title}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return "\n".join(parts)


def definitions(values: Mapping[str, Any]) -> str:
    """Return names and what they stand for, side by side."""
    rows = "".join(
        f"<dt>{escape(str(key))}</dt><dd>{escape(flat(value))}</dd>"
        for key, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def flat(value: Any) -> str:
    """Return a mapping as "key value, key value", and anything else as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(flat, value))
    return str(value)
