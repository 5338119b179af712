"""Predicts the GPU hours that are left by card, and names the models that a card does not hold."""

from collections.abc import Mapping, Sequence

from frankenlab.config.cards import Card
from frankenlab.estimate.jobs import PlannedJob
from frankenlab.estimate.memory import Requirements, requirements
from frankenlab.estimate.resources import Prediction
from frankenlab.estimate.throughput import EFFICIENCY, PRODUCT_SHARE
from frankenlab.models.memory import GB


def gpu_hours(prediction: Prediction, jobs: Sequence[PlannedJob]) -> dict[str, float] | None:
    """Return the hours by model of the jobs that are left and run one; None if they are unknown."""
    hours = dict.fromkeys(prediction.experiment.models, 0.0)
    for each in jobs:
        if each.left and each.runs_model:
            seconds = prediction.seconds(each.job)
            if seconds is None:
                return None
            hours[each.job.model] += max(each.gpus, 1) * seconds / 3600
    return {model: value for model, value in hours.items() if value}


def hours_by_model(hours: Mapping[str, float], at_most: str) -> str:
    """Return "3.2 (llama-7b 1.2, llama-13b 2.0)"."""
    models = ", ".join(f"{model} {value:.1f}" for model, value in hours.items())
    return f"{at_most}{sum(hours.values()):.1f} ({models})"


def card_lines(
    prediction: Prediction, jobs: Sequence[PlannedJob], cards: Sequence[Card], at_most: str = ""
) -> list[str]:
    """Return a line for each card with its GPU hours, and one with what it does not hold; none
    where sizes are not known."""
    on_cards = [gpu_hours(prediction.on(card), jobs) for card in cards]
    if not cards or None in on_cards:
        return []
    share = EFFICIENCY["cuda"] * PRODUCT_SHARE
    lines = [
        f"GPU hours of what is left by card, at {share:.0%} of what its data sheet promises (an "
        "H100's share), quantizing as on an H100:"
    ]
    width = max(len(card.name) for card in cards)
    for card, hours in zip(cards, on_cards, strict=True):
        said = hours_by_model(hours or {}, at_most)
        sizes = f"{card.tflops:4.0f} TFLOP/s, {card.memory_gb:3.0f} GB"
        lines.append(f"  {card.name:<{width}}  {sizes}: {said}")
        models = prediction.experiment.models
        if large := [text for model in models for text in _too_large(prediction, model, card)]:
            lines.append(f"  {'':<{width}}  does not hold {'; '.join(large)}")
    return lines


def _too_large(prediction: Prediction, model: str, card: Card) -> list[str]:
    """Return what of a model needs more than a card has, with what fits in its place."""
    found = requirements(prediction.workload, model).values()
    fits = [each.quantization for each in found if _fits(each, card)]
    instead = f"fits: {', '.join(fits)}" if fits else "nothing of it fits"
    return [
        f"{model} at {each.quantization}, {each.memory.total / GB:.1f} GB"
        f"{', which the config evaluates' if each.evaluated else ''} ({instead})"
        for each in found
        if not _fits(each, card)
    ]


def _fits(needed: Requirements, card: Card) -> bool:
    return needed.memory.total <= card.memory_gb * GB
