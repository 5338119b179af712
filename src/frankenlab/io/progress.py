"""Progress of long work: a bar on a terminal, a line a minute in a log."""

import logging
import sys
import time

from tqdm import tqdm

LINE_EVERY = 60.0  # seconds

logger = logging.getLogger(__name__)


class Progress:
    """Shows how many of `total` units of work are done, with the rate and the time left.

    Args:
        title: the work's name.
        unit: the plural name of a unit.
    """

    def __init__(self, total: int, title: str, unit: str) -> None:
        self.total, self.title, self.unit = total, title, unit
        self.done = 0
        self.started = self.last_line = time.monotonic()
        terminal = sys.__stderr__
        shows = terminal is not None and terminal.isatty()
        self.bar = tqdm(total=total, desc=title, unit=f" {unit}", file=terminal) if shows else None
        # Beside a bar the log gets lines too, unless it goes to the same terminal.
        self.logs = self.bar is None or sys.stderr is not terminal

    def advance(self, count: int, detail: str = "") -> None:
        """Add `count` units that are done; `detail` says where the work stands."""
        self.done += count
        if self.bar is not None:
            self.bar.set_postfix_str(detail, refresh=False)
            self.bar.update(count)
        if self.logs and time.monotonic() - self.last_line >= LINE_EVERY:
            self._line(detail)

    def close(self) -> None:
        """End the bar, and write the last line."""
        if self.bar is not None:
            self.bar.close()
        if self.logs:
            self._line("done")

    def _line(self, detail: str) -> None:
        self.last_line = time.monotonic()
        elapsed = self.last_line - self.started
        rate = self.done / elapsed if elapsed > 0 else 0.0
        left = f"{(self.total - self.done) / rate:.0f} s left" if rate else "time left unknown"
        logger.info(
            "%s: %d/%d %s, %.1f/s, %s, %s",
            *(self.title, self.done, self.total, self.unit, rate, left, detail),
        )
