"""One validated config per stage, read from one YAML file; an unknown key is an error that suggests the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from palate.errors import ConfigError, did_you_mean
from palate.schema import Dtype, Quantization

MAX_TOLD = 20
"""Mistakes of one file that an error lists."""


class Config(BaseModel):
    """Base of every config: frozen, and strict about unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """Validate `values`; errors name the key, what came and what is allowed. `where` names the file."""
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected a mapping of keys, got {type(values).__name__}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            told = [f"{where}: {_explain(cls, e)}" for e in error.errors()[:MAX_TOLD]]
            more = [f"and {error.error_count() - MAX_TOLD} more"] if error.error_count() > MAX_TOLD else []
            raise ConfigError("\n".join([*told, *more])) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file and validate it."""
        return cls.parse(read_yaml(path), str(path))


MAX_YAML = 1_000_000
"""Bytes of a YAML file; what is written by hand is a thousandth of it."""
MAX_NODES, MAX_DEPTH = 100_000, 50
"""Values of a YAML file, those that an alias repeats counted again, and how deep they may be nested."""


def read_yaml(path: str | Path) -> Any:
    """Parse a YAML file with the safe loader; a missing, malformed or monstrous file is a ConfigError."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_YAML + 1)
        if len(data) > MAX_YAML:
            raise ConfigError(f"{path}: expected a YAML file of at most {MAX_YAML:,} bytes, got more")
        return _parsed(data.decode("utf-8-sig"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"expected a YAML file at {path}, found nothing there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; expected at most {MAX_DEPTH} levels") from None


def _parsed(text: str, where: str) -> Any:
    """A YAML text's value. Its size is known before anything is made of it: aliases may repeat aliases."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        size, depth = _extent(node, {}, where)
        if size > MAX_NODES or depth > MAX_DEPTH:
            raise ConfigError(
                f"{where}: expected at most {MAX_NODES:,} values, nested at most {MAX_DEPTH} deep, got {size:,} values "
                f"(those behind aliases counted each time), {depth} deep"
            )
        try:
            return loader.construct_document(node)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # of a 13th month, an empty !!int and their like the constructors raise anything
            raise ConfigError(f"{where}: a value is not what its form or tag promises: {error}; quote it") from None
    finally:
        loader.dispose()


def _extent(node: yaml.Node, known: dict[int, tuple[int, int]], where: str) -> tuple[int, int]:
    """How many values a node stands for, and how deep they are nested."""
    if id(node) not in known:
        known[id(node)] = (0, 0)  # being looked at
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [c for part in parts for c in (part if isinstance(part, tuple) else (part,))]
        extents = [_extent(child, known, where) for child in children]
        known[id(node)] = 1 + sum(n for n, _ in extents), 1 + max((d for _, d in extents), default=0)
    elif known[id(node)] == (0, 0):
        raise ConfigError(f"{where}: an anchor stands inside what it names; expected values that end")
    return known[id(node)]


def shown(value: Any, most: int = 200) -> str:
    """A value in an error text: its start, however large it is."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _explain(cls: type[BaseModel], error: Any) -> str:
    """One pydantic error as a sentence: key, expected, came."""
    key = ".".join(map(str, error["loc"])) or "(top level)"
    if error["type"] == "extra_forbidden":
        known = _fields(cls, error["loc"][:-1])
        return f"unknown key {key!r}; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {key!r} is required and missing"
    return f"key {key!r}: {error['msg'].lower()}, got {shown(error['input'])}"


def _fields(cls: Any, path: tuple[Any, ...]) -> list[str]:
    """Field names of the model that `path` leads to, looking through dict and optional annotations."""
    for part in path:
        if isinstance(cls, type) and issubclass(cls, BaseModel) and part in cls.model_fields:
            cls = cls.model_fields[part].annotation
        inner = [a for a in getattr(cls, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        if inner:
            cls = inner[0]
    return list(cls.model_fields) if isinstance(cls, type) and issubclass(cls, BaseModel) else []


# --- features ---------------------------------------------------------------------------------------


class EncoderConfig(Config):
    """One modality: which encoder plug-in turns its media into vectors, from which weights."""

    encoder: str | None = None
    """Plug-in name; None takes the plug-in named after the modality."""
    source: str | None = None
    """Model source (alias, hub:, path:, pypi:); None takes the plug-in's embedded default."""
    options: dict[str, Any] = {}
    """Options of the plug-in."""


class CaptionConfig(Config):
    """One text field written from a medium: which captioner plug-in reads it, from which weights."""

    captioner: str = "labels"
    """Plug-in name."""
    medium: str | None = None
    """Which of an item's media to read; None takes what the captioner is made for."""
    source: str | None = None
    """Model source (alias, hub:, path:, pypi:); None takes the captioner's embedded default, if it has one."""
    options: dict[str, Any] = {}
    """Options of the plug-in."""


# --- prompting --------------------------------------------------------------------------------------


class PromptConfig(Config):
    """Which templates, in which language, within which token budget."""

    language: str = "en"
    """Folder of prompts/ that the templates come from."""
    max_tokens: int = Field(768, ge=32)
    """Of one prompt; where it would be longer, the oldest history goes first."""
    max_history: int = Field(32, ge=0)
    """History items a text prompt shows at most."""
    max_sequence: int = Field(128, ge=1)
    """History items a soft-token sequence (embedding mode) shows at most."""
    max_field_chars: int = Field(300, ge=8)
    """Any one text field is cut to this many characters."""
    max_title_chars: int | None = Field(None, ge=8)
    """A title is cut to this many characters, so that a long one cannot argue; None: to max_field_chars."""
    quote_titles: bool = False
    """Titles stand between quotation marks that nothing in them can close, except where a title is the answer."""
    calibration: float = Field(0.0, ge=0, le=1)
    """How much of a candidate's score without any history modes likelihood, yes_no and letters take away from its
    score, from 0 to 1: what its text gains from every user alike. See docs/results/attacks.md."""
    templates: dict[str, str] = {}
    """Shipped template -> the one to use in its place, such as next_item: next_item_reviews."""
    context: tuple[Literal["time_of_day", "weekday", "season"], ...] = ()
    """What prompts say of the time of a request: in training that of the event asked about, else what the caller gives
    as `time`. Without a time zone or a hemisphere what depends on them stays unknown."""
    timezone: str | None = None
    """Of all users, as +02:00 or Europe/Berlin; a request may bring its own."""
    hemisphere: Literal["north", "south"] | None = None
    """Of all users, for the season; a request may bring its own."""
    interests: bool = False
    """Sum up in one line what a prompt has no room for of a long history; written among the profile."""

    def template(self, name: str) -> str:
        """The template in use where the shipped one is called `name`."""
        return self.templates.get(name, name)


# --- model ------------------------------------------------------------------------------------------


class LoraConfig(Config):
    """Low-rank adaptation (Hu et al., 2021) of the base's linear layers."""

    rank: int = Field(8, ge=1)
    """Width of the two matrices beside each linear layer."""
    alpha: int = Field(16, ge=1)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(0, ge=0, lt=1)
    """On a CPU any dropout here costs a third of the training speed: a mask for each adapted linear."""
    targets: str | list[str] = "all-linear"
    """Which layers, as peft names them."""


class ModelConfig(Config):
    """Base model, quantization, LoRA and the soft tokens."""

    base: str = "smollm2-135m-instruct"
    """Model source: a short name (`palate models`), hub:, path: or pypi:."""
    quantization: Quantization = "none"
    """How the frozen base is held."""
    dtype: Dtype = "auto"
    """auto: bfloat16 where the device multiplies it natively, else float32."""
    layers: int | None = Field(None, ge=1)
    """Keep only the first this many layers of the base (depth pruning); None keeps all."""
    lora: LoraConfig = LoraConfig()
    fusion: Literal["model", "feature"] = "model"
    """model: a projector per modality, the LLM's attention fuses them; feature: one projector over all."""
    soft_tokens: int = Field(1, ge=1)
    """Soft tokens per modality (per item with feature-level fusion)."""
    hidden: int = Field(512, ge=8)
    """Width of the projectors' hidden layer."""
    matching: int = Field(256, ge=8)
    """Width E of the space where histories and items are matched (embedding mode)."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout on the projectors' inputs in training."""
    modality_dropout: float = Field(0.1, ge=0, lt=1)
    """Chance that one modality of an item is hidden in training, so that missing ones are no surprise."""


# --- training ---------------------------------------------------------------------------------------

TASKS = ("embedding", "next_title", "yes_no", "letters", "rating", "rated")


class TasksConfig(Config):
    """The task mixture: how many examples of each task one epoch holds.

    A share of the task's pool: for the text tasks one example for each user with enough events, for `embedding` all
    windows of all histories, so that 1.0 supervises every train event once an epoch. 0 turns a task off.
    """

    embedding: float = Field(1.0, ge=0)
    """The next item, by its vector, at every place of a history."""
    next_title: float = Field(0.25, ge=0)
    """The next item, by its title."""
    yes_no: float = Field(0.25, ge=0)
    """Whether an item comes next."""
    letters: float = Field(0.25, ge=0)
    """Which of a shuffled list comes next, by its letter."""
    rating: float = Field(0.25, ge=0)
    """The rating of one item."""
    rated: float = Field(0.0, ge=0)
    """The rating of every item of a whole history, given the others: one example for each user with ratings."""


class TeacherConfig(Config):
    """Soft targets for the embedding task from other recommenders, fitted on the train split."""

    retrievers: dict[str, float] = Field(min_length=1)
    """Retriever, with options as `--against` takes them -> weight of its z-scores in the logits."""
    share: float = Field(0.5, gt=0, le=1)
    """Of the loss; the rest is for the item that came next."""
    top: int = Field(100, ge=2)
    """Likeliest items kept of each distribution."""
    folds: int = Field(1, ge=1)
    """Parts the users fall into: each is taught by retrievers fitted on the others, who have not seen what they teach.
    1 fits one set on all users."""


class PrivacyConfig(Config):
    """Differentially private training (DP-SGD): what one user's events, all together, can change is bounded."""

    epsilon: float | None = Field(None, gt=0)
    """What the whole run may spend; the noise follows from it. Give this or `noise`."""
    noise: float | None = Field(None, gt=0)
    """Standard deviation of the noise of a step over `clip`; epsilon follows from it."""
    delta: float | None = Field(None, gt=0, lt=1)
    """Chance that the bound does not hold; None means 1 / users ** 1.1."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of one user's gradient, in the place of `train.clip`."""
    users: int = Field(64, ge=1)
    """Users a step takes on average: each is drawn by itself with the same chance."""
    seed: int | None = None
    """For tests: draws and noise that can be repeated, and so taken away again. None draws them from the system."""


class TrainConfig(Config):
    """Optimisation, checkpoints and validation."""

    output: str | None = None
    """Bundle folder; None means adapters/NAME."""
    run: str | None = None
    """Folder for checkpoints, metrics.jsonl and TensorBoard; None means runs/NAME."""
    start: str | None = None
    """An adapter to go on from (a warm start): its weights in the place of fresh ones."""
    tasks: TasksConfig = TasksConfig()
    epochs: float = Field(5, gt=0)
    """Passes over the task mixture; the learning rate falls over their length."""
    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps at most; None lets `epochs` alone decide."""
    until: float | None = Field(None, gt=0)
    """Stop after this many epochs of the schedule that `epochs` sets; a later run may go on from there."""
    skip: float = Field(0.0, ge=0, lt=1)
    """Chance that the embedding task leaves an event out of a history it shows (what came next stays the target)."""
    shuffle_ties: bool = False
    """The embedding task shows events of the same moment in an order drawn for each example: where times are coarse,
    the order within a tie is that of the file and says nothing."""
    batch_tokens: int = Field(4096, ge=64)
    """Token budget of one pack (one forward pass of one process)."""
    accumulate: int = Field(1, ge=1)
    """Packs per optimizer step and process."""
    lr: float = Field(3e-4, gt=0)
    """Peak rate of the LoRA weights."""
    projector_lr: float = Field(1e-3, gt=0)
    """Peak rate of projectors and matching head."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of all steps spent warming up; cosine decay to a tenth follows."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradients of one step."""
    seed: int = 1
    """Of everything random in training: weights, draws of examples, dropout."""
    task_weights: dict[str, float] = {}
    """Loss weight per task; 1 where absent."""
    teacher: TeacherConfig | None = None
    privacy: PrivacyConfig | None = None
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints; a signal saves one as well."""
    validate_every: int = Field(0, ge=0)
    """Steps between validations; 0 means once an epoch."""
    validate_users: int = Field(943, ge=0)
    """Users a validation asks, a seeded draw."""
    patience: int = Field(3, ge=1)
    """Validations without a better NDCG@10 before training stops early."""
    gradient_checkpointing: bool = False
    """Compute activations twice to hold fewer: slower, with less memory."""
    protocol: str = "loo-full"
    """What training must not see, and what validation asks: loo-full, temporal, cold-items or cold-users, which keep
    whole items or users out, or rating, which keeps a share of all ratings out; options as for `--protocol`."""


class RunConfig(Config):
    """The whole of one training run: `palate train FILE` and `accelerate launch -m palate.train FILE`."""

    name: str
    """Of the adapter, its folder and its run."""
    data: str
    """A data set folder, or a known name (`palate data import` lists them)."""
    media: str | None = None
    """Folder with extra item fields and media for a known data set."""
    features: dict[str, EncoderConfig] = {"image": EncoderConfig(), "behaviour": EncoderConfig()}
    """Modality -> encoder: what becomes soft tokens."""
    captions: dict[str, CaptionConfig] = {}
    """Text field to write -> captioner; prompts show these fields, and text encoders read them."""
    prompt: PromptConfig = PromptConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
