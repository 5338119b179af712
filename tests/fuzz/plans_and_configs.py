"""Random plans and mutated configs: each is taken, or refused by one `UserError`.

A refusal is one line (of a plan three: the line, the text, and a caret under the fault). Anything
else is a failure: another exception, a canonical text that means another plan, seconds of time.
Cases depend on the seed and their number alone, so that one can be looked at again.
"""

import json
import random
import string
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from frankenlab.config import experiment as config
from frankenlab.estimate.resources import predict
from frankenlab.estimate.summary import grid_summary
from frankenlab.io.errors import UserError
from frankenlab.plans.plan import omissions, parse
from frankenlab.plans.steps import MAX_STEPS
from tests.support.paths import ROOT

SHIPPED = ("config/config.yaml", "config/experiments/small.yaml", "config/experiments/llama.yaml")

# Plans for each config: they are a thousand times faster.
PLANS_PER_CONFIG = 50

# A config of the largest grid allowed takes some seconds on a busy machine, and nothing more.
SECONDS = 20.0
LONGEST_LINE = 1500
# A larger grid is made, but not summed up: that takes its time rightly.
SUMMED_PLANS = 2000

NUMBERS = ("0", "1", "2", "31", "32", "007", "9" * 12, "9" * 5000, "0" * 5000 + "1", "1e400", "-1")
SIGNS = (
    ":",
    ",",
    "x",
    "@",
    "*",
    "(",
    ")",
    " ",
    "-",
    "+",
    ".",
    "e",
    "\n",
    "\t",
    "\0",
    "٣",
    "²",
    "\u200b",
)
WORDS = ("base", "attn", "mlp", "block", "inf", "nan", "x999999999", "*1e-320", "*-0", "@att")

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 4.0, 0.5, -0.0, 1e308, 1e-320, 10**9, 10**18, 10**30, -(10**9),
    float("nan"), float("inf"), float("-inf"), "", " ", "4", "none", "base", "exl2-4.0",
    "exl2-٤.٠", "../../escape", "/dev/zero", "/", ".", "..", "store", "README.md", "name\n",
    "a/b", "a" * 300,
    "\x00", "\ud800", "é", "0:99999999999", "0:10:0", "1:", "9" * 5000, [], {}, [[]],
    [1, 2], [None], {"a": 1}, {1: 2}, {None: None}, [10**9], ["0:20,10:30"], list(range(100)),
    {"x": {"y": {"z": 0}}},
    "2020-01-01", b"bytes", "{{ 7 * 7 }}", "!function a.b", "&a", "*a", "<<",
)  # fmt: skip

# Every key of the generators that the shipped configs do without.
GENERATORS: list[Any] = [
    {"generator": "layer", "layer": [0.0, 0.5], "part": ["attn", "mlp"], "scale": [0.5, 1.0]},
    {"generator": "block", "start": 0.2, "length": 0.1, "part": "attn", "in_place": True},
    {"generator": "rys", "min_length": 0.4, "max_length": 0.5, "part": "mlp"},
    {"generator": "depth_up_scaling", "drop": [0.1, 2], "part": "attn"},
    {"generator": "random_block", "length": 3, "count": 4, "seed": 2, "scale": -0.5},
    {"generator": "multi_block", "blocks": 3, "start": "0:20:2", "length": 2, "count": 5},
    {"generator": "spread", "length": [1, 0.2], "times": 3},
    {"generator": "window", "start": 0.3, "length": 0.1, "times": [1, 2], "beta": 0.5},
    {"generator": "skip", "length": [1, 0.1], "part": "mlp"},
    {"generator": "swap", "length": 2},
    {"generator": "reverse", "start": [0.1, 5], "length": 3},
]

LINES = (
    "experiment: again", "? [a]\n: b", "x: &a [*a]", "y: {<<: *nothing}", "\tz: 1", "- 1", "---",
    "...", "z: !!python/object/apply:os.getcwd []", "w: 2001-13-99", "v: 0x" + "f" * 6000,
    "u: " + "[" * 200 + "]" * 200, "%YAML 9.9", "t: |", "s: 'open", 'r: "\\ud800"', "1: 2", "~: 3",
    "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n"
    "d: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e]",
)  # fmt: skip


def random_plan(draw: random.Random, n_layers: int = 32) -> str:
    """Return a text that is a plan of so many layers, nearly one, or none."""
    kind = draw.random()
    if kind < 0.05:
        return bytes(draw.randrange(256) for _ in range(draw.randrange(40))).decode("latin-1")
    if kind < 0.1:
        return "".join(chr(draw.randrange(0x110000)) for _ in range(draw.randrange(20)))
    if kind < 0.2:
        pieces = (*NUMBERS, *SIGNS, *WORDS)
        return "".join(draw.choice(pieces) for _ in range(draw.randrange(12)))
    text = ",".join(_item(draw, n_layers) for _ in range(draw.randrange(1, 8)))
    while draw.random() < 0.4:
        place = draw.randrange(len(text) + 1)
        new = draw.choice((*SIGNS, *NUMBERS, *WORDS, *string.printable))
        text = text[:place] + draw.choice(("", new)) + text[place + draw.randrange(3) :]
    return text


def _item(draw: random.Random, n_layers: int) -> str:
    if draw.random() < 0.8:
        return _segment(draw, n_layers)
    inside = ",".join(_segment(draw, n_layers) for _ in range(draw.randrange(1, 3)))
    return f"({inside}){draw.choice(('', 'x2', 'x3'))}{draw.choice(('', '*0.5', '*1', '*-2'))}"


def _segment(draw: random.Random, n_layers: int) -> str:
    start = draw.randrange(n_layers)
    stop = draw.randrange(start + 1, n_layers + 1)
    text = f"{start}:{stop}" if draw.random() < 0.6 else str(start)
    if draw.random() < 0.3:
        text += f"x{draw.choice((1, 2, 3, 99))}"
    if draw.random() < 0.3:
        text += f"@{draw.choice(('attn', 'mlp', 'block'))}"
    if draw.random() < 0.3:
        text += f"*{draw.choice(('0.5', '-2', '.7', '1', '1e-7', '3.', repr(draw.random())))}"
    return text


def check_plan(draw: random.Random) -> str:
    """Parse a random text; return what became of it."""
    n_layers = draw.choice((1, 2, 4, 32, 32, 1000))
    text = random_plan(draw, n_layers)
    try:
        plan = parse(text, n_layers)
    except UserError as error:
        line, shown, caret = str(error).split("\n")
        assert shown.startswith("  ") and caret.strip() == "^" and len(line) < LONGEST_LINE
        assert len(caret) <= len(shown) + 1 and shown.isprintable()
        return "refused"
    assert 0 < len(plan.steps) <= MAX_STEPS
    again = parse(plan.text, n_layers)
    assert again == plan and again.text == plan.text, plan.text
    assert "\n" not in omissions(plan) and len(plan.key) == 8 and plan.depth > 0
    return "taken"


def nodes(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Yield the places of all values below one."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        yield (*place, key)
        if isinstance(item, dict | list):
            yield from nodes(item, (*place, key))


def mutated(draw: random.Random, value: Any) -> Any:
    """Return the config with something at a random place that was not there."""
    value = deepcopy(value)
    places = list(nodes(value))
    if not places:
        return draw.choice(VALUES)
    *parents, last = draw.choice(places)
    parent = value
    for key in parents:
        parent = parent[key]
    kind = draw.randrange(6)
    if kind == 0:
        del parent[last]
    elif kind == 1:
        *others, key = draw.choice(places)
        found = value
        for step in (*others, key):
            found = found[step]
        parent[last] = deepcopy(found)
    elif kind == 2 and isinstance(parent, dict):
        name = draw.choice((*map(str, VALUES[:40]), f"{last}s", str(last)[:-1], str(last).upper()))
        parent[name] = parent.pop(last)
    elif kind == 3 and isinstance(parent[last], int | float):
        factor = draw.choice((-1, 0, 10, 1e3, 1e9, 1e30))
        parent[last] = type(parent[last])(parent[last] * factor)
    elif kind == 4 and isinstance(parent[last], str):
        parent[last] = random_plan(draw) if draw.random() < 0.5 else parent[last] + "\n"
    else:
        parent[last] = deepcopy(draw.choice(VALUES))
    return value


def random_config(draw: random.Random) -> bytes:
    """Return a shipped config with mutations of its values, its text, or both."""
    text = (ROOT / draw.choice(SHIPPED)).read_text()
    kind = draw.random()
    if kind < 0.7:
        value = yaml.safe_load(text)
        if draw.random() < 0.3:
            model = draw.choice(list(value["models"].values()))
            draw.choice((value, model))["plans"] = deepcopy(draw.sample(GENERATORS, 4))
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            value = mutated(draw, value) if isinstance(value, dict | list) else value
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    if kind > 0.6:
        lines = text.splitlines()
        for _ in range(draw.choice((1, 1, 2, 5))):
            place = draw.randrange(len(lines) + 1)
            extra = draw.choice((*LINES, draw.choice(lines or [""])))
            lines[place : place + draw.randrange(2)] = draw.choice(([], [extra], [" " + extra]))
        text = "\n".join(lines) + "\n"
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if kind > 0.85:
        for _ in range(draw.choice((1, 3, 10))):
            place = draw.randrange(len(data) + 1)
            new = bytes(draw.randrange(256) for _ in range(draw.randrange(3)))
            data[place : place + draw.randrange(3)] = new
    return draw.choice((b"\xef\xbb\xbf", b"", b"", b"")) + bytes(data)


def check_config(draw: random.Random) -> str:
    """Load a mutated config and make its grids, as the workflow does; return what became of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_bytes(random_config(draw))
        try:
            experiment = config.load(path)
            prediction = predict(experiment)
            grids = [prediction.workload.grid(model) for model in experiment.models]
            count = sum(len(work.grid.plans) for work in grids)
            json.dumps(experiment.settings.plain(), allow_nan=False).encode()
            if count <= SUMMED_PLANS:
                grid_summary(prediction).encode()
        except UserError as error:
            lines = str(error).split("\n")
            # A plan's text and a caret under its fault.
            assert len(lines) == 1 or (len(lines) == 3 and ': plan "' in lines[0]), lines
            assert len(lines[0]) < LONGEST_LINE and all(line.isprintable() for line in lines)
            return "refused"
    return "taken"


def fuzz(what: str, check: Callable[[random.Random], str], seed: int, cases: int) -> int:
    """Run the cases of one kind; print each failure and what became of the others; return the
    number of failures."""
    counts: Counter[str] = Counter()
    for case in range(cases):
        began = time.process_time()
        try:
            outcome = check(random.Random(f"{seed} {what} {case}"))
        except Exception:
            outcome = "failed"
            print(f"{what}, seed {seed}, case {case}:", traceback.format_exc(limit=-4), sep="\n")
        if time.process_time() - began > SECONDS:
            outcome = "failed"
            print(f"{what}, seed {seed}, case {case}: took more than {SECONDS:g} s")
        counts[outcome] += 1
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items()))
    print(f"{what}: {cases:,} cases: {said}", flush=True)
    return counts["failed"]


def run(seed: int, cases: int) -> int:
    """Try that many configs and fifty times as many plans; return the number of failures."""
    return fuzz("plans", check_plan, seed, PLANS_PER_CONFIG * cases) + fuzz(
        "configs", check_config, seed, cases
    )


def main(seed: int, cases: int) -> int:
    """Do as `run`; return the exit status."""
    return min(run(seed, cases), 1)


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:3]]
    sys.exit(main(*given))
