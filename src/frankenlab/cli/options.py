"""Give several commands the options that they share, and the notices that they print of plans."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frankenlab.io.errors import excerpt

if TYPE_CHECKING:
    from frankenlab.config.experiment import Experiment
    from frankenlab.plans.plan import Plan


def add_command(
    commands: Any,
    name: str,
    summary: str,
    run: Callable[[argparse.Namespace], None],
    *examples: str,
) -> argparse.ArgumentParser:
    """Return the parser of a new command, whose --help ends with the examples."""
    shown = "\n".join(f"  frankenlab {name} {example}".rstrip() for example in examples)
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example{'s' * (len(examples) > 1)}:\n{shown}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option --config."""
    parser.add_argument(
        "--config",
        type=path,
        nargs="+",
        action="extend",
        metavar="FILE",
        help="the config of the experiment; of several files, later ones change earlier ones "
        "(default: config/config.yaml)",
    )


def experiment_of(options: argparse.Namespace) -> "Experiment":
    """Return the experiment that --config names."""
    from frankenlab.config import experiment

    return experiment.load(*(options.config or [experiment.default_file()]))


def config_name(options: argparse.Namespace) -> str:
    """Return what the config is called in messages."""
    return ", ".join(map(str, options.config)) if options.config else "the default config"


def path(text: str) -> Path:
    """Return the file or folder that an option names."""
    if not text:
        raise argparse.ArgumentTypeError("the name of a file or folder is expected, not ''")
    return Path(text)


def positive(text: str) -> int:
    """Return the number of 1 or more that an option says."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", text):
        shown = excerpt(repr(text))
        raise argparse.ArgumentTypeError(f"{shown} is not a number of 1 or more (up to 9 digits)")
    return int(text)


def whole(text: str) -> int:
    """Return the number of 0 or more that an option says."""
    return 0 if re.fullmatch("0{1,9}", text) else positive(text)


def notice(text: str) -> None:
    """Tell the user something that is legal and may be a slip."""
    print(f"notice: {text}", file=sys.stderr)


def notice_omissions(plans: "Sequence[Plan]") -> None:
    """Tell which plans leave layers out."""
    from frankenlab.plans.plan import omissions

    for plan in plans:
        if what := omissions(plan):
            notice(f"plan {excerpt(plan.text)} {what}")
