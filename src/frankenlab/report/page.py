"""Run a notebook, and turn the executed copy into one self-contained HTML page."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from traitlets.config import Config

from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path

KERNEL = "python3"
# Nodes are shared: without this, others on the machine can read what the kernel sends.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})

STYLE = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #595959; --rule: #d4d4d4; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 1rem/1.5 "DejaVu Sans", Verdana, "Segoe UI", Arial, sans-serif; }
main { max-width: 67rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 0.8rem; padding-top: 0.6rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1.1rem; margin: 1.8rem 0 0.6rem; }
h4 { font-size: 0.95rem; margin: 1.2rem 0 0.4rem; }
p, dl { max-width: 48rem; }
a { color: #0b5394; }
.answer { border-left: 5px solid #0173b2; background: #f3f7fb; padding: 0.6rem 1.2rem;
  margin: 1.2rem 0; overflow-wrap: anywhere; }
.answer p { max-width: none; }
.answer p:first-child { font-size: 1.2rem; font-weight: bold; line-height: 1.4; }
.note { color: var(--soft); font-size: 0.85rem; }
figure { margin: 1.2rem 0 2.2rem; }
figure img { display: block; width: 100%; max-width: 54rem; height: auto; margin: 0 auto; }
figcaption { color: var(--soft); font-size: 0.85rem; max-width: 48rem; margin: 0.6rem auto 0; }
figcaption b { color: var(--ink); }
figcaption p, div.note p { margin: 0.4rem 0; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.75rem; line-height: 1.35; width: 100%; }
th { text-align: left; vertical-align: bottom; border-bottom: 1.5px solid var(--ink); }
td { vertical-align: top; border-bottom: 1px solid var(--rule); }
th, td { padding: 0.3rem 0.45rem; }
td { white-space: nowrap; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 12em; }
.n { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: 9rem 1fr; gap: 0.15rem 1rem; font-size: 0.85rem;
  margin: 0.4rem 0 1rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { font: 0.75rem/1.45 "DejaVu Sans Mono", Consolas, monospace; background: #f6f6f6;
  padding: 0.8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
@page { size: A4; margin: 15mm 14mm; }
@media print {
  html { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  a { color: inherit; text-decoration: none; }
  nav { display: none; }
  h2, h3, h4 { break-after: avoid; }
  figure, .answer, tr { break-inside: avoid; }
  thead { display: table-header-group; }
  figure { margin: 0.6rem 0 1rem; }
  figure img { width: auto; max-width: 100%; max-height: 222mm; }
  .table { overflow: visible; }
  table { font-size: 6.8pt; }
  th, td { padding: 0.2rem 0.3rem; }
  td, td.long { white-space: normal; overflow-wrap: break-word; min-width: 0; }
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


@contextmanager
def _own_kernel() -> Iterator[None]:
    """Make `python3` the kernel of this interpreter, with nothing of the user's profile.

    A kernel of that name in the user's data directory would win over the environment's, and home
    directories are not always writable where jobs run.
    """
    names = ("JUPYTER_PATH", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "kernels", KERNEL, "kernel.json")
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps(get_kernel_dict()), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = folder
        os.environ["JUPYTER_RUNTIME_DIR"] = str(Path(folder, "runtime"))
        os.environ["IPYTHONDIR"] = str(Path(folder, "ipython"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def run_notebook(notebook: str | Path, executed: str | Path, parameters: Mapping[str, Any]) -> None:
    """Run a notebook with papermill in this interpreter's environment; save the executed copy.

    The copy appears whole, also when a cell fails: then it shows where.

    Args:
        notebook: has a cell tagged `parameters`.
        executed: where the executed copy goes.
        parameters: values for names of that cell.

    Raises:
        UserError: a parameter that the notebook does not have, or a cell that failed.
    """
    import papermill  # slow to import

    source = nbformat.read(notebook, as_version=4)
    # Whatever kernel the notebook was last edited with, it runs with ours.
    source.metadata["kernelspec"] = {"name": KERNEL, "language": "python", "display_name": KERNEL}
    known = set(papermill.inspect_notebook(source))
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise UserError(
            f"{notebook}: no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    failure = None
    with tempfile.TemporaryDirectory() as folder, _own_kernel():
        result = Path(folder, "executed.ipynb")
        try:
            papermill.execute_notebook(
                source,
                str(result),
                parameters={name: parameters[name] for name in sorted(parameters)},
                kernel_name=KERNEL,
                progress_bar=False,
                config=ENCRYPTED,
            )
        except papermill.PapermillExecutionError as error:
            failure = error
        with atomic_path(executed) as path:
            path.write_bytes(result.read_bytes())
    if failure:
        raise UserError(
            f"{notebook}: cell {failure.exec_count} failed with {failure.ename}: {failure.evalue}; "
            f"see {executed}"
        )


def render_html(executed: str | Path, html: str | Path, title: str) -> None:
    """Render an executed notebook as one HTML page that loads nothing, without its code."""
    from nbconvert import HTMLExporter  # slow to import

    notebook = nbformat.read(executed, as_version=4)
    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        anchor_link_text="",
        mathjax_url="",
        require_js_url="",
        mermaid_js_url="",
    )
    body, _ = exporter.from_notebook_node(notebook)
    with atomic_path(html) as path:
        path.write_text(PAGE.format(title=escape(title), style=STYLE, body=body), encoding="utf-8")
