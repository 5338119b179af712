"""The steps of the workflow by hand: the command `frankenlab`.

Each module has commands that belong together: a function that adds them to the parser, and one that
runs each. They import what they need when they run: that takes seconds, which --help does not wait
for.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from frankenlab import __version__
from frankenlab.cli import completion, evaluate, listings, plans, steps
from frankenlab.io.errors import UserError, one_line
from frankenlab.io.signals import Stopped, stopped_by_signals

DESCRIPTION = "Run the steps of the workflow by hand."
EPILOG = """\
examples:
  frankenlab show "0:24,23:30"
  frankenlab evaluate smollm2-135m-instruct --plan "0:24,23:30" --task arc_easy --limit 100

`frankenlab COMMAND --help` describes a command, with examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `frankenlab`, and return its exit status: 2 where the input is wrong."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # A failure is reported once, at the end, and not at each of many retries.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        with stopped_by_signals():
            options.run(options)
            sys.stdout.flush()
    except Stopped as stop:
        again = "the same command goes on from there"
        print(f"frankenlab: stopped by {stop.signal.name}: {stop.kept}; {again}", file=sys.stderr)
        raise
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough. Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UserError as error:
        print(f"frankenlab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror.lower() if error.strerror else one_line(error)
        print(f"frankenlab: {where}{reason}", file=sys.stderr)
        return 1
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one line, without the usage, which can be longer than the terminal is high."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = _Parser(
        prog="frankenlab",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"frankenlab {__version__}")
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    for module in (evaluate, plans, listings, steps):
        module.add_to(commands)
    completion.add_to(commands, parser)
    return made
