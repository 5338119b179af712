"""Templates of tasks give lm-eval's texts, and run no code."""

import resource
import time
from pathlib import Path

import lm_eval.tasks
import pytest
from jinja2 import BaseLoader, Environment, StrictUndefined, meta
from lm_eval import utils as harness_utils

from frankenlab.io.errors import UserError
from frankenlab.tasks.folders import harness_tasks
from frankenlab.tasks.templates import TaskTemplates
from frankenlab.tasks.yaml_files import read_task_file
from tests.support.processes import one_line
from tests.support.task_rows import load_task, task_settings

OURS = TaskTemplates()


def lm_evals_environment() -> Environment:
    """Return the environment that `lm_eval.utils` makes; the sandbox has replaced its own."""
    environment = Environment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["regex_replace"] = harness_utils.regex_replace
    return environment


THEIRS = lm_evals_environment()

# What a document's fields may be, for templates of any task.
FIELDS = (
    "a word. Of [text]",
    "2",
    2,
    True,
    ["x y", "z", "w", "q"],
    {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"], "en": "e"},
    [{"text": "p", "label": 1, "question": "w"}, {"text": "q", "label": 0, "question": "k"}],
)


def texts(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


def shipped_templates() -> list[str]:
    """One of every 15th task file of lm-eval, and of every file that others include."""
    included = Path(lm_eval.tasks.__file__).parent.rglob("*yaml")
    shared = [path for path in included if path.suffix != ".yaml"]
    files = [*list(harness_tasks().tasks.values())[::15], *shared]
    found = {}
    for path in files:
        text = path.read_bytes()
        # Some are commented out as a whole.
        if b"{{" in text and not text.startswith(b"#"):
            found |= {t: None for t in texts(read_task_file(path)) if "{{" in t or "{%" in t}
    return list(found)


def rendered(environment: Environment, template: str, field) -> str | None:
    names = meta.find_undeclared_variables(environment.parse(template))
    try:
        return environment.from_string(template).render(**dict.fromkeys(names, field))
    except Exception:
        return None


@pytest.mark.slow
def test_the_harnesss_templates_give_the_same_texts():
    templates = shipped_templates()
    assert len(templates) > 150
    same = 0
    for template in templates:
        for field in FIELDS:
            expected = rendered(THEIRS, template, field)
            assert rendered(OURS, template, field) == expected, (template, field)
            same += expected is not None
    assert same > 600


UNSAFE = [
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ q|attr('__class__') }}",
    "{{ q.format.__globals__ }}",
    "{{ '{0.__class__.__mro__}'.format(q) }}",
    "{{ [].append(1) }}",
    "{% include '/etc/passwd' %}",
]
LARGE = [
    "{{ 'a' * 10**9 }}",
    "{{ q.ljust(10**9) }}",
    "{{ q|center(10**9) }}",
    "{{ q|indent(10**9, true) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{w}}'.format(1, w=10**9) }}",
    "{{ '{:{w}}'.format_map({'w': '1000000000'}) }}",
    "{{ 10**(10**8) }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ ('a' * 10000).replace('a', 'b' * 100000) }}",
    "{{ (['x' * 1000000] * 10000)|join }}",
    "{{ ''.join(['x' * 1000000] * 10000) }}",
    "{{ [1]|batch(10**9, 'x')|list }}",
    "{{ ('a ' * 100000)|wordwrap(1, true, 'b' * 1000000) }}",
    "{{ (1).to_bytes(10**9, 'big') }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in 'x' * 99999 %}{% for j in 'x' * 99999 %}{% endfor %}{% endfor %}",
    "{{ range(99999)|map('string')|map('center', 99999)|join }}",
    "{% set n = namespace(x=q) %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x=q) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=q) %}"
    "{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}",
    "{% set n = namespace(x=q) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
    "{{ n.x }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "{{ ('a' * 40)|regex_replace('(a+)+b', '') }}",
    "{{ " + "(" * 20000 + "1" + ")" * 20000 + " }}",
]


@pytest.mark.slow
@pytest.mark.parametrize("template", UNSAFE + LARGE, ids=lambda text: text[:50])
def test_what_is_unsafe_or_without_an_end_is_refused_soon(template):
    started, most = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Exception) as error:  # noqa: PT011 (of any kind: the loader tells it)
        OURS.from_string(template).render(q="question")
    assert not isinstance(error.value, MemoryError)
    assert time.process_time() - started < 15
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 300_000


@pytest.mark.parametrize("template", ["{{ [1, 2]|random }}", "{{ lipsum() }}", "{{ q }}"])
def test_chance_and_nulls_do_not_reach_a_prompt(template):
    with pytest.raises(Exception, match=r"random|lipsum|null"):
        OURS.from_string(template).render(q=None)


@pytest.mark.parametrize(
    "template",
    [
        "{{ q * 3 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ '%s=%05d' % (q, 42) }} {{ '{:>9}'.format(q) }}",
        "{% for x in l %}{{ loop.index }}/{{ loop.length }} {{ x }}{{ ', ' if not loop.last }}"
        "{% endfor %}\n",
        "{{ l|join('; ')|replace('a', 'b')|truncate(9) ~ q ~ 1 ~ l }}",
        "{{ 'call 5551234567 %s' % 'now' }}{{ 'in 1999999999 {}'.format('1999999999') }}",
        "{{ (q * 100000)|regex_replace('w', '') }}{{ range(1000)|list|length }}{{ [] }}",
    ],
)
def test_ordinary_work_gives_jinjas_own_text(template):
    given = {"q": "what is", "l": ["a b", "c", "größer"]}
    expected = THEIRS.from_string(template).render(**given)
    for _ in range(3):
        assert OURS.from_string(template).render(**given) == expected


def test_lm_eval_renders_in_the_sandbox(tmp_path):
    """Whatever renders a template of a task: prompt, answer, choices, description, examples."""
    marker = tmp_path / "was-run"
    code = f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}"
    for key in ("doc_to_text", "doc_to_target", "doc_to_choice", "description", "gen_prefix"):
        with pytest.raises(UserError) as error:
            task = load_task(task_settings(tmp_path, overrides={key: code}))
            task.documents(task.indices(None))
        assert "unsafe" in one_line(error)
    assert not marker.exists()
