"""Engines that tests put between the sweep and a real one."""

from frankenlab.engines import Engine


class Wrapped:
    """An engine that hands everything on; the base of the spies and saboteurs of the tests."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.token_trees = engine.token_trees
        self.n_layers = engine.n_layers
        self.device = engine.device

    def place(self, batch):
        return self.engine.place(batch)

    def embed(self, placed):
        return self.engine.embed(placed)

    def run(self, step, hidden, placed):
        return self.engine.run(step, hidden, placed)

    def finish(self, step, hidden, placed):
        return self.engine.finish(step, hidden, placed)

    def score(self, hidden, placed):
        return self.engine.score(hidden, placed)
