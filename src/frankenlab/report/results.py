"""What an experiment left for the report: its tables, frozen plans, provenance and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from docutils.core import publish_parts
from jinja2 import ChainableUndefined, Environment
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from frankenlab.analyse.selection import Frozen
from frankenlab.analyse.settings import Statistics
from frankenlab.io.errors import UserError
from frankenlab.io.parquet import read_parquet
from frankenlab.io.records import read_record
from frankenlab.plans.plan import BASE

NAMES = (
    *("comparisons", "verdicts", "against_controls", "pairs", "costs", "ledger", "bits"),
    *("quantizations", "race", "beam", "search", "path", "repetitions", "dose_response", "flips"),
    *("documents", "tradeoff", "profile", "reliability", "plane"),
    *("probe", "similarity", "predictors"),
    *("oracle", "prompts"),
    *("sizes", "transfer", "family"),
)
# Of the checkout; a package that was built (setup.py) has a copy.
_CHECKOUT = Path(__file__).resolve().parents[3]
_SHIPPED = Path(__file__).resolve().parent / "shipped"
CAPTIONS = _SHIPPED / "captions" if _SHIPPED.is_dir() else _CHECKOUT / "workflow" / "report"
NOTEBOOKS = (_SHIPPED if _SHIPPED.is_dir() else _CHECKOUT) / "notebooks"

# The analysis' tables by name.
Tables = Mapping[str, pd.DataFrame]


class Provenance(TypedDict, total=False):
    """What the page shows of `provenance.json`, where it is there."""

    models: dict[str, dict[str, Any]]
    grid: dict[str, Any]
    commit: str | None
    command: str | None
    resolved: dict[str, Any]
    machine: dict[str, Any]
    data: dict[str, Any]
    code: dict[str, Any]
    versions: dict[str, Any]


class Unrecorded(ChainableUndefined):
    """A setting that a caption names and the provenance lacks."""

    def __str__(self) -> str:
        return "(not recorded)"


@dataclass(frozen=True)
class Results:
    """What the page shows.

    Attributes:
        tables: the analysis' tables by name; those that were not made are absent.
        frozen: the contents of `frozen/*.json`.
        provenance: the contents of `provenance.json`, or {} when it was not written.
        figures: the folder of the saved figures.
        captions: the folder of the captions, which Snakemake's report shows too.
        only: the one of several models that these are the results of.
    """

    experiment: str = ""
    tables: Tables = field(default_factory=dict)
    frozen: Sequence[Mapping[str, Any]] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    figures: Path = Path("figures")
    captions: Path = Path("captions")
    only: str = ""

    @classmethod
    def load(
        cls,
        experiment: str,
        tables: str | Path,
        figures: str | Path,
        frozen: str | Path,
        provenance: str | Path,
        captions: str | Path,
    ) -> "Results":
        """Read the folders and files of an experiment.

        Raises:
            UserError: there are no tables, or a file is damaged.
        """
        return cls(
            experiment,
            load_tables(tables),
            load_frozen(frozen),
            load_provenance(provenance),
            Path(figures),
            Path(captions),
        )

    def of(self, model: str) -> "Results":
        """Return the results of one of the models alone."""
        tables = {name: _of_model(table, model) for name, table in self.tables.items()}
        if "documents" in tables and "flips" in tables:
            keys = ["task", "document"]
            flipped = tables["flips"][keys].drop_duplicates()
            tables["documents"] = tables["documents"].merge(flipped, on=keys)
        models = self.provenance.get("models", {})
        made = dict(self.provenance)
        if model in models:
            made["models"] = {model: models[model]}
        frozen = [record for record in self.frozen if record["model"] == model]
        return replace(self, tables=tables, frozen=frozen, provenance=made, only=model)

    def table(self, name: str) -> pd.DataFrame:
        """Return a table, empty where it was not made."""
        return self.tables.get(name, pd.DataFrame())

    @property
    def levels(self) -> Statistics:
        """Return how the comparisons were judged; the defaults where it was not recorded."""
        return Statistics.model_validate(self.provenance.get("config", {}).get("statistics", {}))

    def n_layers(self, model: str) -> int | None:
        """Return how many layers a model has, or None where none of its plans was run."""
        depths = rows_of(self.tables.get("comparisons"), model=model, plan=BASE).get("depth")
        return None if depths is None or depths.empty else int(depths.iloc[0])

    def cases(self) -> list[tuple[str, str]]:
        """Return each (model, quantization) that has results, in the tables' order."""
        found = [
            self.tables[name][["model", "quantization"]]
            for name in ("comparisons", "verdicts")
            if name in self.tables
        ]
        rows = pd.concat(found).drop_duplicates() if found else pd.DataFrame()
        return list(rows.itertuples(index=False, name=None))

    def caption(self, name: str, **wildcards: str) -> str:
        """Return a caption as HTML: `<name>.rst` in the folder of captions.

        A caption is reStructuredText with Jinja, and reads `snakemake.config` and
        `snakemake.wildcards`, as in Snakemake's report.
        """
        source = (self.captions / f"{name}.rst").read_text(encoding="utf-8")
        config = self.provenance.get("config", {})
        snakemake = SimpleNamespace(config=config, wildcards=wildcards)
        environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=Unrecorded)
        text = environment.from_string(source).render(snakemake=snakemake)
        body: str = publish_parts(text, writer="html")["body"]
        return body.strip()


def _of_model(table: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return the rows of a model, or of a pair within it; all of a table that names no model."""
    columns = [name for name in ("model", "model_a", "model_b") if name in table]
    return rows_of(table, **dict.fromkeys(columns, model)) if len(table) else table


def load_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the analysis' tables in a folder by name; those that are not there are left out.

    Raises:
        UserError: there is none at all.
    """
    paths = {name: Path(folder) / f"{name}.parquet" for name in NAMES}
    tables = {name: read_parquet(path) for name, path in paths.items() if path.is_file()}
    if not tables:
        raise UserError(f"{folder}: no tables here; expected {', '.join(NAMES)} as .parquet")
    return tables


def load_frozen(folder: str | Path) -> list[dict[str, Any]]:
    """Read the frozen plans in a folder, `<model>.json` each, in the order of their names."""
    return [read_record(path, Frozen) for path in sorted(Path(folder).glob("*.json"))]


def load_provenance(path: str | Path) -> dict[str, Any]:
    """Read an experiment's `provenance.json`; return {} when it was not written."""
    return read_record(path, Provenance) if Path(path).is_file() else {}


def rows_of(table: pd.DataFrame | None, **wanted: Any) -> pd.DataFrame:
    """Return the rows whose columns have the wanted values: `rows_of(t, stage="search")`."""
    if table is None or table.empty:
        return pd.DataFrame() if table is None else table
    mask = pd.Series(True, index=table.index)
    for column, value in wanted.items():
        mask &= (table[column] == value).fillna(False).astype(bool)
    return table[mask]
