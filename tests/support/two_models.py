"""A config of a small and a larger model, for tests of how fast models read prompts."""

SMALL = {"hidden_size": 64, "intermediate_size": 128, "n_heads": 4, "vocab_size": 300}
LARGE = {**SMALL, "intermediate_size": 640}


def settings(**keys) -> dict:
    models = {
        name: {"source": {"path": "x"}, "n_layers": 6, "shapes": shapes}
        for name, shapes in (("small", SMALL), ("large", LARGE))
    }
    return {
        "experiment": "e",
        "models": models,
        "tasks": {"arc_easy": {"metric": "acc"}},
        "plans": [{"generator": "layer"}],
        "stages": {stage: {"precision": "float32"} for stage in ("search", "select", "confirm")},
        "token_budget": 256,
        **keys,
    }
