"""Run a notebook, and turn the executed copy into one self-contained HTML page."""

import base64
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import nbformat
import vl_convert
from ipykernel.kernelspec import get_kernel_dict
from traitlets.config import Config

from frankenlab.io.errors import UserError
from frankenlab.io.files import atomic_path

KERNEL = "python3"
# Nodes are shared: without this, others on the machine can read what the kernel sends.
ENCRYPTED = Config({"KernelManager": {"transport_encryption": "auto"}})

ASSETS = resources.files("frankenlab.report") / "assets"
SECTION = re.compile(r'<section[^>]* id="([^"]+)"[^>]*>\s*<h2[^>]*>(.*?)</h2>', re.DOTALL)


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
        path.write_text(assemble(body, title), encoding="utf-8")


def assemble(body: str, title: str) -> str:
    """Return a page of `body`, with the styles and scripts that it needs and its contents.

    The page loads nothing: its security policy allows the scripts that stand in it, by their
    hashes, and no connection.

    Args:
        body: HTML whose sections (as `elements.section` makes them) the contents list.
        title: text.
    """
    scripts = []
    if 'class="spec"' in body:
        scripts.append(_inline(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")))
    if "<table>" in body:
        scripts.append(_inline(_datatables("dt_bundle.js"), "module"))
    scripts.append(_inline(_asset("page.js"), "module"))
    hashes = " ".join(f"'sha256-{digest}'" for _, digest in scripts)
    contents = "\n".join(
        f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading in SECTION.findall(body)
    )
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        policy=(
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
            "img-src data:; base-uri 'none'; form-action 'none'"
        ),
        style=f"{_datatables('dt_bundle.css')}\n{_asset('page.css')}",
        contents=contents,
        body=body,
        scripts="\n".join(element for element, _ in scripts),
    )


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _datatables(name: str) -> str:
    """Return a file of DataTables as itables bundles it; its script sets `window.tables`."""
    text = (resources.files("itables") / "html" / name).read_text(encoding="utf-8")
    # A module that stands in a page exports nothing that the page's other scripts could import.
    return re.sub(r"export\{.*?(\w+) as jQuery.*?\}", r"window.tables=\1", text)


def _inline(script: str, kind: str = "text/javascript") -> tuple[str, str]:
    """Return a script as an element that nothing in it can end, and the hash of its text."""
    text = re.sub(r"<(?=/script|!--)", r"<\\", script, flags=re.IGNORECASE)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f'<script type="{kind}">{text}</script>', digest
