"""Jinja templates of tasks, rendered in a sandbox with a limit on their work.

lm-eval renders the prompts of its tasks without a sandbox, so that a template can reach `os.popen`.
The environment here gives the same texts, and it refuses what is unsafe: access to the internals of
Python, work without an end, texts that fill the memory, and a null in the place of a text, which
would stand in the prompt as "None".
"""

import math
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import lru_cache, wraps
from types import FrameType
from typing import Any, cast

from jinja2 import StrictUndefined, Template, nodes
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.visitor import NodeTransformer

# The most work of one rendering, in characters and numbers that its operations read and write.
MAX_WORK = 10_000_000

# The most processor time that one regular expression may take.
MAX_SECONDS = 1.0

# The cost of one step of a loop or of one call, in characters that take as long.
STEP = 100

# The results of these filters can be as large as the product of their arguments.
_MULTIPLYING = frozenset(
    {"batch", "center", "indent", "replace", "slice", "tojson", "wordwrap", "xmlattr"}
)

# These draw at random, so that the same document would get another prompt in every run.
_RANDOM_FILTERS, _RANDOM_GLOBALS = ("random",), ("lipsum",)

# Format strings of `%` and of `str.format`: their parts with widths and precisions, and the parts
# that take these from a value.
_SPECIFICATION = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*|\{[^{}]*")
_FROM_VALUES = re.compile(r"%[^a-zA-Z%]*\*|\{[^{}]*\{")
_NUMBER = re.compile(r"\d+")


class TemplateError(SecurityError):
    """A template does too much work, or prints a null."""


class TaskTemplates(ImmutableSandboxedEnvironment):
    """An environment with the settings and the filter of lm-eval's, in a sandbox."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, keep_trailing_newline=True, finalize=self._printed
        )
        self._left: float = MAX_WORK
        for name in _RANDOM_FILTERS:
            del self.filters[name]
        for name in _RANDOM_GLOBALS:
            del self.globals[name]
        guarded = {name: self._guarded(name, filter_) for name, filter_ in self.filters.items()}
        self.filters = guarded | {
            "regex_replace": self._regex_replace,
            "_counted": self._counted,
            "_concatenated": self._concatenated,
        }
        self.template_class = _LimitedTemplate
        self._compiled = lru_cache(maxsize=1024)(super().from_string)

    def from_string(
        self, source: str | nodes.Template, globals: Any = None, template_class: Any = None
    ) -> Template:
        """Return the compiled template, from a cache.

        lm-eval compiles its templates again for every document and metric, which would take a tenth
        of an evaluation's time.
        """
        return self._compiled(source, globals, template_class)

    def start(self) -> None:
        """Give the next rendering its limit of work."""
        self._left = MAX_WORK

    def charge(self, work: float) -> None:
        """Take work off what the rendering has left.

        Raises:
            TemplateError: nothing is left.
        """
        self._left -= work
        if self._left < 0:
            raise TemplateError("the template takes too much memory or time")

    def weight(self, *values: Any) -> int:
        """Return the count of characters, items and numbers' bits in the values, however deep.

        Raises:
            TemplateError: it is more than the rendering has left.
        """
        total, pending = 0, list(values)
        while pending:
            value = pending.pop()
            if isinstance(value, str | bytes):
                total += len(value)
            elif isinstance(value, Mapping):
                pending += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple | Set | range):
                total += len(value)
                if not isinstance(value, range):
                    pending += value
            elif isinstance(value, int):
                total += 1 + value.bit_length()
            total += 1
            if total > self._left:
                self.charge(total)
        return total

    def call(self, context: Any, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, a macro or a global after charging for what it can make."""
        self.charge(STEP)
        # The sandbox wraps `str.format`.
        method = getattr(callee, "__wrapped__", callee)
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | int | float):
            self._charge_method(method.__name__, owner, [*args, *kwargs.values()])
        elif callee is not self._range:
            self.charge(self.weight(args, kwargs))
        return super().call(context, callee, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute an operator after charging for what it can make."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and numbers:
            bits = left.bit_length() if isinstance(left, int) else 64
            self.charge(bits * abs(right))
        elif operator == "*" and not numbers:
            self.charge(self.weight(left) * _count(right) + self.weight(right) * _count(left))
        elif operator == "%" and isinstance(left, str | bytes):
            self.charge(self._format_work(left, right))
        else:
            self.charge(self.weight(left, right))
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Metered().visit(super()._parse(source, name, filename))

    @property
    def _range(self) -> Any:
        return self.globals["range"]

    def _printed(self, value: Any) -> Any:
        if value is None:
            raise TemplateError("the template prints a null")
        if not isinstance(value, Undefined):
            self.charge(self.weight(value))
        return value

    def _guarded(self, name: str, filter_: Callable) -> Any:
        """Return the filter with a charge before it runs."""

        @wraps(filter_)
        def charged(*args: Any, **kwargs: Any) -> Any:
            given = [a for a in (*args, *kwargs.values()) if not _of_jinja(a)]
            if name == "format":
                self.charge(self._format_work(given[0], given[1:]))
            elif name in _MULTIPLYING:
                self.charge(math.prod(_size(self.weight(a), a) for a in given))
            elif name == "join":
                self.charge(self._join_work(*given))
            else:
                self.charge(sum(_size(self.weight(a), a) for a in given))
            made = filter_(*args, **kwargs)
            return self._counted(made) if isinstance(made, Iterator) else made

        return charged

    def _charge_method(self, name: str, owner: Any, args: list[Any]) -> None:
        if name in ("format", "format_map"):
            self.charge(self._format_work(owner, args))
        elif name == "join":
            self.charge(self._join_work(args[0] if args else (), owner))
        else:
            self.charge(math.prod(_size(self.weight(a), a) for a in (owner, *args)))

    def _join_work(self, items: Iterable, separator: Any = "", *rest: Any) -> int:
        weight = self.weight(items, *rest)
        count = len(items) if isinstance(items, list | tuple | Mapping | str | range) else weight
        return weight + count * self.weight(separator)

    def _format_work(self, text: Any, given: Any) -> float:
        """Return the count of what is formatted, plus every number that can be a width."""
        work = self.weight(text, given)
        written = _SPECIFICATION.findall(str(text))
        if _FROM_VALUES.search(str(text)):
            written.append(repr(given))
        numbers = (number for part in written for number in _NUMBER.findall(part))
        return work + sum(float(number[:12]) for number in numbers)

    def _regex_replace(self, text: str, pattern: str, repl: str, count: int = 0) -> str:
        """Call `re.sub` as lm-eval's filter does, with limits."""
        self.charge((self.weight(text) + 1) * (self.weight(repl) + 1))
        with _time_limit(MAX_SECONDS):
            return re.sub(pattern, repl, text, count=count)

    def _counted(self, items: Iterable) -> Iterator:
        for item in items:
            self.charge(STEP)
            yield item

    def _concatenated(self, parts: list[Any]) -> str:
        self.charge(self.weight(parts))
        return "".join(map(str, parts))


class _LimitedTemplate(Template):
    """A template whose every rendering starts with the full limit of work."""

    environment: TaskTemplates

    def render(self, *args: Any, **kwargs: Any) -> str:
        self.environment.start()
        return super().render(*args, **kwargs)


class _Metered(NodeTransformer):
    """Sends the items of loops, and what `~` joins, through filters that charge for them."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 (jinja's name)
        self.generic_visit(node)
        node.iter = _filtered(cast(nodes.Expr, node.iter), "_counted")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 (jinja's name)
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concatenated")


def _filtered(node: nodes.Expr, name: str) -> nodes.Filter:
    made = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
    made.environment = node.environment
    return made


def _of_jinja(value: Any) -> bool:
    """Tell whether an argument of a filter is jinja's own, and not the template's."""
    return type(value).__module__.startswith("jinja2.") and not isinstance(value, Undefined)


def _size(weight: int, value: Any) -> float:
    """Return an argument as a factor of the result's size; a number is a width or a count."""
    return max(1.0, abs(value)) if isinstance(value, int | float) else weight + 1


def _count(value: Any) -> int:
    return max(value, 0) if isinstance(value, int) else 0


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Stop the block after that time in the main thread, where signals can: `re` looks for them
    while it backtracks."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TemplateError("a regular expression of the template takes too long")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
