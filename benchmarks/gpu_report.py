"""What the GPU check found, as a markdown page."""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "exllamav2", "transformers", "flash-attn", "triton", "lm_eval", "mergekit")


@dataclass
class Result:
    """Outcome of one step: `error` is None where it passed; rows are (what, value)."""

    step: str
    title: str
    error: str | None = None
    seconds: float = 0.0
    rows: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status(self) -> str:
        return "passed" if self.error is None else f"FAILED: {self.error}"


def run_step(step: str, title: str, work: Callable[[list[tuple[str, str]]], None]) -> Result:
    """Runs a step whatever it does; what it had found before it failed is kept."""
    result = Result(step, title)
    started = time.monotonic()
    try:
        work(result.rows)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a step that exits or asserts must not end the others
        import traceback

        traceback.print_exc()
        words = " ".join(str(error).split()).replace("|", "/") or "no message"
        result.error = f"{type(error).__name__}: {words[:300]}"
    result.seconds = time.monotonic() - started
    return result


@dataclass
class Report:
    """All steps of one or several commands on a machine.

    Attributes:
        path: of the page; the same with `.json` holds the results for a later command.
        commit: of the code, where the checkout itself cannot tell.
    """

    path: Path
    gpu: str
    commands: list[str]
    commit: str | None = None
    results: list[Result] = field(default_factory=list)

    def take(self, earlier: Path) -> None:
        """Takes over what an earlier command found."""
        found = json.loads(earlier.read_text())
        self.commands = [*found["commands"], *self.commands]
        self.results = [Result(**result) for result in found["results"]]

    def record(self, result: Result) -> None:
        """Adds a step, in place of an earlier outcome of it, and writes the page: a kill later on
        costs nothing that was found."""
        print(f"{result.step}: {result.status} ({result.seconds:.1f} s)", flush=True)
        self.results = [r for r in self.results if r.step != result.step] + [result]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(self.page())
        kept = {"commands": self.commands, "results": [asdict(r) for r in self.results]}
        self.path.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")

    def page(self) -> str:
        """Markdown: machine, steps, figures."""
        return render(self.results, self.gpu, self.commands, self.commit or commit())


def render(results: Sequence[Result], gpu: str, commands: Sequence[str], commit: str) -> str:
    lines = [
        "# On a GPU",
        "",
        *(line for command in commands for line in (f"`{command}`", "")),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine(gpu, commit)),
        "",
        "| step | what | seconds | outcome |",
        "|---|---|---|---|",
        *(f"| {r.step} | {r.title} | {r.seconds:.1f} | {r.status} |" for r in results),
    ]
    for result in results:
        if result.rows:
            lines += ["", f"## {result.title}", "", "| | |", "|---|---|"]
            lines += [f"| {what} | {value} |" for what, value in result.rows]
    return "\n".join(lines) + "\n"


def machine(gpu: str, commit: str) -> list[tuple[str, str]]:
    """GPU, versions, commit."""
    import torch

    rows = [("GPU", gpu), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    rows.append(("CUDA of torch", str(torch.version.cuda)))
    rows.append(("commit", commit))
    return rows


def commit() -> str:
    """Of this checkout, `not a checkout` where there is no git."""
    try:
        found = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
    return found.stdout.strip()
