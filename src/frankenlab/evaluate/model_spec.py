"""Which model scores, and what identifies its scores: weights, arithmetic, code and libraries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frankenlab.config.experiment import Experiment
from frankenlab.config.stages import Stage
from frankenlab.estimate.memory import check_fits
from frankenlab.io.directories import file_states, has_manifest, verify_directory
from frankenlab.io.errors import UserError
from frankenlab.io.files import sha256_file
from frankenlab.io.fingerprints import MESSAGES, code_fingerprint, engine_libraries
from frankenlab.models.directory import weights_hash
from frankenlab.models.exl2.declaration import is_exl2
from frankenlab.models.files import identity_files
from frankenlab.models.quantization import NONE, Quantization

# What imports torch, which takes seconds, is imported where it is needed.
if TYPE_CHECKING:
    from frankenlab.engines.protocol import Engine

# Everything that a log-likelihood depends on beside the module of its engine, with all that these
# import. The rest of the package may change freely.
SCORING_MODULES = (
    "frankenlab.evaluate.sweep",
    "frankenlab.tasks.encoding",
    "frankenlab.tasks.task",
)

# The module of each engine, whose `make_engine` loads a model.
ENGINES = {"torch": "frankenlab.engines.torch", "exllamav2": "frankenlab.engines.exllamav2"}

DEFAULT_TOKEN_BUDGET = 4096


@dataclass(frozen=True)
class ModelSpec:
    """A model ready to be loaded, and what identifies the scores that it makes.

    Attributes:
        directory: Hugging Face or EXL2 directory.
        name: that of the model in tables.
        weights: hash of its weights, config and tokenizer.
        quantization: "none" or an EXL2 bitrate.
        engine: one of `ENGINES`.
        precision: dtype of weights and arithmetic; exllamav2's is float16.
        gpus: over how many GPUs it is split. This is no part of the identity, because each layer's
            arithmetic is the same on any of them.
        states: the states of its files when they were hashed (see `directories.file_states`).
    """

    directory: Path
    name: str
    weights: str
    quantization: str = "none"
    engine: str = "torch"
    precision: str = "bfloat16"
    device: str = "cpu"
    token_budget: int = DEFAULT_TOKEN_BUDGET
    gpus: int = 1
    states: Mapping[str, list[int]] = field(default_factory=dict, compare=False)

    @classmethod
    def for_stage(
        cls, experiment: Experiment, model: str, quantization: str, stage: Stage
    ) -> "ModelSpec":
        """Return a model of an experiment, with the arithmetic of a stage.

        Raises:
            UserError: it does not fit the memory that the config names, or its files are not what
                their manifest says.
        """
        check_fits(experiment, model, quantization)
        directory = experiment.weights_folder(model, quantization)
        verified = verify_directory(directory)
        return cls(
            directory=directory,
            name=model,
            weights=weights_hash(verified.manifest),
            quantization=quantization,
            engine=experiment.engine(model, quantization),
            precision=experiment.precision(stage, model, quantization),
            device=experiment.settings.device,
            token_budget=experiment.settings.token_budget,
            gpus=max(experiment.gpus(model, quantization), 1),
            states=verified.states,
        )

    @classmethod
    def for_directory(
        cls,
        directory: str | Path,
        precision: str | None = None,
        device: str = "cpu",
        engine: str = "torch",
    ) -> "ModelSpec":
        """Return the model of any Hugging Face or EXL2 directory.

        Without a manifest its files are hashed, which takes a second a GB.

        Args:
            precision: None for float16 in exllamav2, else bfloat16.

        Raises:
            UserError: exllamav2 does not compute in that precision, or the files are not what
                their manifest says.
        """
        directory = Path(directory)
        if engine == "exllamav2":
            from frankenlab.engines.exllamav2 import Exllamav2Engine, check_precision

            precision = precision or Exllamav2Engine.precision
            check_precision(precision)
        precision = precision or cls.precision
        weights, states = _identify(directory)
        return cls(
            directory,
            directory.name,
            weights,
            quantization_of(directory),
            engine,
            precision,
            device,
            states=states,
        )

    @property
    def device_kind(self) -> str:
        """Return "cpu" or "cuda", without the device's number."""
        return self.device.partition(":")[0]

    def identity(self, task: str) -> dict[str, Any]:
        """Return what identifies the store of a task's rows.

        The prompt and the data are in the hash of each row's requests.
        """
        return {
            "weights": self.weights,
            "quantization": self.quantization,
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device_kind,
            "task": task,
            "code": scoring_fingerprint(self.engine),
            "libraries": engine_libraries(self.engine, self.device_kind),
        }

    def check_unchanged(self) -> None:
        """Check that the files still are those that `weights` is the hash of.

        Raises:
            UserError: they are not.
        """
        if file_states(self.directory, self.states) == self.states:
            return
        weights, _ = _identify(self.directory)
        if weights != self.weights:
            raise UserError(
                f"{self.directory}: the model in it was replaced while it was being scored; "
                "run again, what was stored before is kept"
            )

    def load_engine(self) -> "Engine":
        """Load the model, which takes seconds and the memory of its weights.

        Raises:
            UserError: as the engine's `make_engine`.
        """
        given = self.directory, self.precision, self.device, self.token_budget, self.gpus
        if self.engine == "exllamav2":
            from frankenlab.engines import exllamav2

            return exllamav2.make_engine(*given)
        from frankenlab.engines import torch

        return torch.make_engine(*given)


def scoring_fingerprint(engine: str = "torch") -> str:
    """Return the hash of the code that makes an engine's log-likelihoods."""
    return code_fingerprint(*SCORING_MODULES, ENGINES[engine], without=MESSAGES)


def quantization_of(directory: Path) -> str:
    """Return the quantization of a directory: "none", or EXL2 at the bitrate that it declares.

    Early versions of exllamav2 declared nothing; then the bits on disk are counted.

    Raises:
        UserError: as `Exl2Directory`.
    """
    if not is_exl2(directory):
        return NONE.text
    from frankenlab.models.exl2.reading import Exl2Directory

    exl2 = Exl2Directory(directory)
    return Quantization("exl2", float(exl2.declaration.bits or round(exl2.bits_per_weight, 2))).text


def _identify(directory: Path) -> tuple[str, dict[str, list[int]]]:
    """Return the hash of the model in a directory, and the states of the files that decide it.

    Raises:
        UserError: as `verify_directory`, where there is a manifest.
    """
    if has_manifest(directory):
        manifest, states = verify_directory(directory)
        return weights_hash(manifest), states
    names = identity_files(directory)
    states = file_states(directory, names)
    files = {name: {"sha256": sha256_file(path)} for name, path in names.items()}
    return weights_hash({"files": files}), states
