"""The command that a workflow was started with, as its results record it."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

# In it every job finds the command line of the Snakemake that it belongs to.
COMMAND_VARIABLE = "FRANKENLAB_COMMAND"
HIDDEN = "[hidden]"
SECRET = re.compile(r"token|password|passwd|secret|credential|api[-_]?key|access[-_]?key", re.I)
# Who logs in, in an address: https://user:word@host.
LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def command_line(arguments: Sequence[str]) -> str:
    """Return a command as one would type it, without what may be a secret.

    Hidden are the values of options and of `--config` keys whose names say so, and logins in
    addresses.
    """
    said, hide = [Path(arguments[0]).name], False
    for argument in arguments[1:]:
        name, equals, _ = argument.partition("=")
        if hide and not argument.startswith("-"):
            said.append(HIDDEN)
        elif equals and SECRET.search(name):
            said.append(f"{name}={HIDDEN}")
        else:
            said.append(LOGIN.sub(f"{HIDDEN}@", argument))
        hide = argument.startswith("-") and not equals and bool(SECRET.search(argument))
    return " ".join(word if HIDDEN in word else shlex.quote(word) for word in said)


def recorded() -> str | None:
    """Return the command of the workflow that this job belongs to; None outside of one."""
    return os.environ.get(COMMAND_VARIABLE)
