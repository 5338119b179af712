"""A plan as a strip of layers for the terminal: a column for each layer, a line for each pass."""

from collections.abc import Iterator

from frankenlab.plans.plan import Plan
from frankenlab.plans.steps import Step

KEY = "█ layer  ▀ attention alone  ▄ MLP alone  ▒ scaled or damped"


def strip(plan: Plan) -> list[str]:
    """Return the lines: numbers of the layers, then what runs, from top to bottom.

    A new line begins where the plan goes back to a layer that the line is past.
    """
    tens = "".join(f"{layer:<10}" for layer in range(0, plan.n_layers, 10))
    return [tens.rstrip(), *(_line(steps) for steps in _passes(plan))]


def _passes(plan: Plan) -> Iterator[list[Step]]:
    """Yield the steps in runs whose layers only go up."""
    run: list[Step] = []
    for step in plan.steps:
        if run and step.layer <= run[-1].layer:
            yield run
            run = []
        run.append(step)
    yield run


def _line(steps: list[Step]) -> str:
    cells = {step.layer: _cell(step) for step in steps}
    # The last step of a damped window carries the scale of all its steps.
    for number, step in enumerate(steps):
        for earlier in steps[max(number + 1 - step.span, 0) : number] if step.span > 1 else ():
            cells[earlier.layer] = "▒"
    return "".join(cells.get(layer, " ") for layer in range(max(cells) + 1))


def _cell(step: Step) -> str:
    if step.scale != 1 or step.span > 1:
        return "▒"
    return {"block": "█", "attn": "▀", "mlp": "▄"}[step.part]
