"""A model ready to be loaded, and what identifies the scores that it makes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from frankenlab.capacity import check_fits
from frankenlab.config import Experiment
from frankenlab.directories import complete_manifest, read_manifest
from frankenlab.engines import Engine
from frankenlab.engines.exllamav2 import Exllamav2Engine
from frankenlab.engines.torch import TorchEngine
from frankenlab.errors import UserError
from frankenlab.files import sha256_file
from frankenlab.fingerprints import NUMERIC_LIBRARIES, code_fingerprint, library_versions
from frankenlab.memory import pass_tokens
from frankenlab.model_files import identity_files
from frankenlab.models import model_info, weights_hash

# Everything that a log-likelihood depends on, with the engine that makes it; the rest of the
# package may change freely.
SCORING_MODULES = ("frankenlab.sweep", "frankenlab.encoding", "frankenlab.tasks")

# Of an engine: its module, and the libraries beside those of every score.
ENGINES = {
    "torch": ("frankenlab.engines.torch", ()),
    "exllamav2": ("frankenlab.engines.exllamav2", ("exllamav2",)),
}

DEFAULT_TOKEN_BUDGET = 4096


@dataclass(frozen=True)
class Scorer:
    """A model ready to be loaded, and what identifies the scores that it makes.

    Attributes:
        directory: Hugging Face directory; model: its name in tables.
        weights: hash of its weights, config and tokenizer.
        quantization: "none" or an EXL2 bitrate.
        engine: one of `ENGINES`.
        precision: dtype of weights and arithmetic; exllamav2's is float16.
    """

    directory: Path
    model: str
    weights: str
    quantization: str = "none"
    engine: str = "torch"
    precision: str = "bfloat16"
    device: str = "cpu"
    token_budget: int = DEFAULT_TOKEN_BUDGET

    @classmethod
    def for_stage(
        cls, experiment: Experiment, model: str, quantization: str, stage: str
    ) -> "Scorer":
        """A model of an experiment, with the arithmetic of a stage.

        Raises:
            UserError: it does not fit the memory that the config names.
        """
        check_fits(experiment, model, quantization)
        directory = experiment.weights_folder(model, quantization)
        return cls(
            directory=directory,
            model=model,
            weights=weights_hash(read_manifest(directory)),
            quantization=quantization,
            engine=experiment.engine(model, quantization),
            precision=experiment.precision(stage, model, quantization),
            device=experiment.raw["device"],
            token_budget=experiment.raw["token_budget"],
        )

    @classmethod
    def for_directory(
        cls, directory: str | Path, precision: str, device: str, engine: str = "torch"
    ) -> "Scorer":
        """Any Hugging Face or EXL2 directory; without a manifest its files are hashed (a second a
        GB)."""
        directory = Path(directory)
        manifest = complete_manifest(directory)
        if manifest is None:
            files = identity_files(directory).items()
            manifest = {"files": {name: {"sha256": sha256_file(path)} for name, path in files}}
        return cls(
            directory,
            directory.name,
            weights_hash(manifest),
            engine=engine,
            precision=precision,
            device=device,
        )

    def identity(self, task: str) -> dict[str, Any]:
        """Of a store's folder. The prompt and the data are in the hash of each row's requests."""
        return {
            "weights": self.weights,
            "quantization": self.quantization,
            "engine": self.engine,
            "precision": self.precision,
            "task": task,
            "code": scoring_fingerprint(self.engine),
            "libraries": library_versions((*NUMERIC_LIBRARIES, *ENGINES[self.engine][1])),
        }

    def load_engine(self) -> Engine:
        """Loads the model; takes seconds and the memory of its weights.

        Raises:
            UserError: as the engine's; exllamav2 at another precision than its own.
        """
        if self.engine == "torch":
            return TorchEngine(self.directory, self.precision, self.device)
        if self.precision != Exllamav2Engine.precision:
            raise UserError(
                f'precision "{self.precision}": engine exllamav2 computes in '
                f"{Exllamav2Engine.precision} only"
            )
        context = model_info(self.directory).max_position_embeddings
        return Exllamav2Engine(self.directory, self.device, pass_tokens(self.token_budget, context))


def scoring_fingerprint(engine: str = "torch") -> str:
    """Hash of the code that makes an engine's log-likelihoods."""
    return code_fingerprint(*SCORING_MODULES, ENGINES[engine][0])
