"""Elements of the page as HTML: sections, folded parts, figures, tables and plans in words.

What these functions return, and what they take as parts, is HTML. Titles, findings, summaries,
captions and cells are text and are escaped, unless they are `Html` (as `plan_cell` returns it).
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from html import escape as escape_text
from typing import Any

import pandas as pd

from frankenlab.io.errors import UserError
from frankenlab.plans.plan import parse
from frankenlab.plans.words import words
from frankenlab.report.figures.catalogue import Picture
from frankenlab.report.results import Results

Row = Mapping[str, Any]
# A cell's text: a template that the row fills, or a function of the row.
Columns = Mapping[str, str | Callable[[Row], Any]]

# A longer table shows its first rows, and the link to its file. On paper it has as many rows as the
# style's `.long` leaves.
MOST_ROWS, MOST_PRINTED = 2_000, 40
# A cell of more characters gets room.
WIDE = 30
NOTHING = "–"
# A number that begins a cell, and not a plan as in "0:24,23:30".
NUMBER = re.compile(r"(?:< ?)?([+−-]?\d[\d,]*(?:\.\d+)?)(?=$|[\s%×\[(])")
# What such a column is sorted by where it has no number.
LEAST = "-1e99"


@dataclass(frozen=True)
class Html:
    """A text that is HTML already. It is no `str`, as tables of pandas make others of those."""

    html: str

    def __str__(self) -> str:
        """Return the HTML."""
        return self.html


def escape(value: Any) -> str:
    """Return a text as HTML; what is HTML already stays as it is."""
    return value.html if isinstance(value, Html) else escape_text(str(value))


def section(id: str, title: str, finding: str, *parts: str) -> str:
    """Return a section of the page: its title, what was found, and then the parts.

    Args:
        id: an anchor, which the contents of the page link to.
        finding: one or two sentences; may be empty.
    """
    return (
        f'<section id="{escape(id)}" aria-labelledby="{escape(id)}-title">\n'
        f'<h2 id="{escape(id)}-title">{escape(title)}</h2>\n'
        f"{_paragraph('finding', finding)}\n{_lines(parts)}\n</section>"
    )


def details(summary: str, *parts: str) -> str:
    """Return parts that are folded away behind a summary; nothing where all parts are empty."""
    inside = _lines(parts)
    return f"<details><summary>{escape(summary)}</summary>\n{inside}\n</details>" if inside else ""


def note_html(text: str) -> str:
    """Return small print; nothing for nothing."""
    return _paragraph("note", text)


def _paragraph(name: str, text: str) -> str:
    return f'<p class="{name}">{escape(text)}</p>' if text else ""


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(filter(None, parts))


def plan_cell(text: str, n_layers: int | None) -> Html:
    """Return a plan in words and then its text; the words are left out where none are known.

    The page draws a strip of the model's layers where a pointer rests on it. Several plans are
    separated by "; ".
    """
    return Html("; ".join(_plan(part, n_layers) for part in text.split("; ")))


def _plan(text: str, n_layers: int | None) -> str:
    # A long text breaks after its commas.
    shown = escape(text).replace(",", ",<wbr>")
    code = f'<code class="plan" data-plan="{escape(text)}">{shown}</code>'
    try:
        said = words(parse(text, n_layers)) if n_layers else ""
    except UserError:
        said = ""
    return f'<span class="words">{said}</span> {code}' if said else code


def cells(rows: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    """Return a table of texts, one column for each of `columns`."""
    return pd.DataFrame(
        {
            name: text.format_map(row) if isinstance(text, str) else text(row)
            for name, text in columns.items()
        }
        for row in rows.to_dict("records")
    )


def table(
    frame: pd.DataFrame,
    caption: str,
    csv: str = "",
    first: str = "",
    frozen: Iterable[bool] = (),
) -> str:
    """Return a table of texts; nothing where it has no rows.

    Args:
        frame: the texts.
        caption: says what it shows, in one sentence.
        csv: the name of the analysis' table behind it, which is linked to.
        first: the column to move to the front, where it stays in sight when the others scroll.
        frozen: tells for each row whether it is of a frozen plan: these come first, highlighted.
    """
    if frame.empty:
        return ""
    marks = list(frozen) or [False] * len(frame)
    order = sorted(range(len(frame)), key=lambda place: not marks[place])[:MOST_ROWS]
    names = sorted(frame.columns, key=lambda name: name != first) if first else list(frame.columns)
    columns = [[frame[name].iloc[place] for place in order] for name in names]
    keys = [sort_keys(column) for column in columns]
    head = "".join(
        f'<th scope="col"{_class("n" if key else "")}>{escape(name)}</th>'
        for name, key in zip(names, keys, strict=True)
    )
    rows = []
    for line, place in enumerate(order):
        row = [_cell(column[line], key, line) for column, key in zip(columns, keys, strict=True)]
        if not keys[0]:
            row[0] = f'<th scope="row">{escape(columns[0][line])}</th>'
        rows.append(f"<tr{_class('frozen' if marks[place] else '')}>{''.join(row)}</tr>")
    return (
        f'<div class="table{" long" * (len(order) > MOST_PRINTED)}" role="region" tabindex="0" '
        f'aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{_lines(rows)}</tbody></table></div>{_under(len(order), len(frame), csv)}"
    )


def _cell(text: Any, keys: list[str], line: int) -> str:
    if keys:
        return f'<td class="n" data-order="{keys[line]}">{escape(text)}</td>'
    # Markup takes no room.
    lines = re.sub(r"<(?!br)[^>]*>", "", str(text)).split("<br>")
    return f"<td{_class('wide' if max(map(len, lines)) > WIDE else '')}>{escape(text)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _under(shown: int, rows: int, csv: str) -> str:
    """Return how much of a table is shown, and the link to all of it."""
    parts = [f"The first {shown:,} of {rows:,} rows are shown. "] if shown < rows else []
    if shown > MOST_PRINTED:
        printed = f"The first {MOST_PRINTED} of {rows:,} rows are printed. "
        parts.append(f'<span class="print-only">{printed}</span>')
    if csv:
        name = escape(csv)
        parts.append(f'All its columns are in <a href="../tables/{name}.csv">{name}.csv</a>.')
    return f'<p class="note">{"".join(parts)}</p>' if parts else ""


def sort_keys(texts: Iterable[Any]) -> list[str]:
    """Return the numbers that a column's texts begin with, to sort it by; none for words.

    What has no number, a dash, sorts below all numbers.
    """
    keys = []
    for text in texts:
        found = None if isinstance(text, Html) else NUMBER.match(str(text))
        if found:
            keys.append(found[1].replace(",", "").replace("−", "-").lstrip("+"))
        elif str(text) in (NOTHING, ""):
            keys.append(LEAST)
        else:
            return []
    return keys if set(keys) - {LEAST} else []


def figure(results: Results, picture: Picture) -> str:
    """Return a saved figure: what it shows in a sentence, the picture, and how to read it.

    The picture is an SVG that the page's script replaces by its interactive form. A figure without
    a finding has nothing to show and is left out; a note stands where one was not drawn.
    """
    path = results.figures / f"{picture.stem}.svg"
    finding = picture.finding(results.tables, results.levels)
    if not finding:
        return ""
    if not path.is_file():
        return note_html(f"Not drawn: {picture.title} ({picture.stem}).")
    id = "figure-" + re.sub(r"[^A-Za-z0-9]+", "-", picture.stem)
    caption = results.caption(f"figures/{picture.entry.name}", **picture.where)
    spec = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    title = escape(picture.title)
    where = "".join(
        f' data-{name}="{escape(picture.where[name])}"'
        for name in ("model", "quantization")
        if name in picture.where
    )
    return (
        f'<figure id="{id}"{where}>\n'
        f"<figcaption><b>{title}.</b> {escape(finding)}</figcaption>\n"
        f'<div class="picture" role="region" tabindex="0" aria-label="{title}">'
        f"{inline_svg(path.read_text(encoding='utf-8'), id, finding)}</div>\n"
        f"{json_script('spec', spec)}\n"
        f"{details('How to read this picture', caption)}\n</figure>"
    )


def inline_svg(svg: str, id: str, description: str) -> str:
    """Return an SVG as a part of a page: one image, with a description.

    Args:
        svg: the contents of a file.
        id: begins every id in it, as ids are unique on a page.
        description: what the picture says, for those who cannot see it.
    """
    head, body = svg[svg.index("<svg") :].split(">", 1)
    head, body = (re.sub(r' (?:aria-[a-z]+|role|class)="[^"]*"', "", part) for part in (head, body))
    body = re.sub(r'\bid="([^"]+)"', rf'id="{id}-\1"', body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{id}-", body)
    return f'{head} class="still" role="img" aria-label="{escape(description)}">{body}'


def json_script(name: str, value: Any) -> str:
    """Return a value as JSON for the page's script, in which nothing can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" class="{escape(name)}">{text}</script>'


def definitions(values: Mapping[str, Any]) -> str:
    """Return names and what they stand for, side by side."""
    rows = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(flat(value))}</dd>" for key, value in values.items()
    )
    return f"<dl>{rows}</dl>"


def flat(value: Any) -> str:
    """Return a mapping as "key value, key value", and anything else as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {flat(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(flat, value))
    return str(value)
