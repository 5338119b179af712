"""What the GPU check found, as a markdown page."""

import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "exllamav2", "transformers", "flash-attn", "triton")


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


def render(results: Sequence[Result], gpu: str, command: str) -> str:
    """The page: machine, steps, figures."""
    lines = [
        "# EXL2 on a GPU",
        "",
        f"`{command}`",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine(gpu)),
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


def machine(gpu: str) -> list[tuple[str, str]]:
    """GPU, versions, commit."""
    import torch

    rows = [("GPU", gpu), ("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            rows.append((name, "not installed"))
    rows.append(("CUDA of torch", str(torch.version.cuda)))
    rows.append(("commit", commit()))
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
