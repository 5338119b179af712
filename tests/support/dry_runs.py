"""Dry runs in forks of one process that has imported all that they need, which takes half of the
time of each."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

END = "--- the end of a dry run ---"


class DryRuns:
    """Dry runs of a laboratory's config as it stands, with the copied package as it was first."""

    def __init__(self, lab) -> None:
        self._lab = lab
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
            cwd=lab.folder,
            env=lab._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def jobs(self, *targets: str) -> Counter:
        """Return rule -> how many jobs a run would have now."""
        from tests.support.laboratory import listed

        return listed(self.text(*targets))

    def text(self, *targets: str) -> str:
        """Return what a dry run prints."""
        from tests.support.laboratory import CONFIG, FAST

        self._lab.write_config()
        arguments = [*targets, "--dry-run", "--quiet", "reason", "rules", *FAST, *self._lab.how]
        self._process.stdin.write(json.dumps([*arguments, "--configfile", CONFIG]) + "\n")
        self._process.stdin.flush()
        text = "".join(iter(self._process.stdout.readline, END + "\n"))
        assert "job  " in text or "Nothing to be done" in text, text[-3000:]
        return text

    def end(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Fork for each line on stdin, a JSON list of arguments; the fork runs Snakemake and ends as a
    process of its own would."""
    import pandas  # noqa: F401
    import snakemake.api  # noqa: F401
    import snakemake.cli

    import frankenlab.report.figures.catalogue
    import frankenlab.runtime.workflow  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if not child:
            sys.argv[1:] = json.loads(line)
            snakemake.cli.main(sys.argv[1:])
            return
        os.waitpid(child, 0)
        print(END, flush=True)


if __name__ == "__main__":
    main()
