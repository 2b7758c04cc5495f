"""One validated config per stage, read from one YAML file; an unknown key is an error that suggests the right one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from palate.errors import ConfigError, did_you_mean
from palate.schema import Dtype, Quantization


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
            raise ConfigError("\n".join(f"{where}: {_explain(cls, e)}" for e in error.errors())) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file and validate it."""
        return cls.parse(read_yaml(path), str(path))


def read_yaml(path: str | Path) -> Any:
    """Parse a YAML file with the safe loader; a missing or malformed file is a ConfigError."""
    path = Path(path)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"expected a YAML file at {path}, found nothing there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def _explain(cls: type[BaseModel], error: Any) -> str:
    """One pydantic error as a sentence: key, expected, came."""
    key = ".".join(map(str, error["loc"])) or "(top level)"
    if error["type"] == "extra_forbidden":
        known = _fields(cls, error["loc"][:-1])
        return f"unknown key {key!r}; {did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"key {key!r} is required and missing"
    return f"key {key!r}: {error['msg'].lower()}, got {error['input']!r}"


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


class CaptionConfig(Config):
    """One text field written from a medium: which captioner plug-in reads it, from which weights."""

    captioner: str = "labels"
    medium: str | None = None
    """Which of an item's media to read; None takes what the captioner is made for."""
    source: str | None = None
    """Model source (alias, hub:, path:, pypi:); None takes the captioner's embedded default, if it has one."""
    options: dict[str, Any] = {}


# --- prompting --------------------------------------------------------------------------------------


class PromptConfig(Config):
    """Which templates, in which language, within which token budget."""

    language: str = "en"
    max_tokens: int = Field(768, ge=32)
    max_history: int = Field(32, ge=0)
    """History items a text prompt shows at most."""
    max_sequence: int = Field(128, ge=1)
    """History items a soft-token sequence (embedding mode) shows at most."""
    max_field_chars: int = Field(300, ge=8)
    """Any one text field is cut to this many characters."""
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
    alpha: int = Field(16, ge=1)
    dropout: float = Field(0, ge=0, lt=1)
    """On a CPU any dropout here costs a third of the training speed: a mask for each adapted linear."""
    targets: str | list[str] = "all-linear"


class ModelConfig(Config):
    """Base model, quantization, LoRA and the soft tokens."""

    base: str = "smollm2-135m-instruct"
    quantization: Quantization = "none"
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
    next_title: float = Field(0.25, ge=0)
    yes_no: float = Field(0.25, ge=0)
    letters: float = Field(0.25, ge=0)
    rating: float = Field(0.25, ge=0)
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
    max_steps: int | None = Field(None, ge=1)
    until: float | None = Field(None, gt=0)
    """Stop after this many epochs of the schedule that `epochs` sets; a later run may go on from there."""
    skip: float = Field(0.0, ge=0, lt=1)
    """Chance that the embedding task leaves an event out of a history it shows (what came next stays the target)."""
    batch_tokens: int = Field(4096, ge=64)
    """Token budget of one pack (one forward pass of one process)."""
    accumulate: int = Field(1, ge=1)
    """Packs per optimizer step and process."""
    lr: float = Field(3e-4, gt=0)
    """Peak rate of the LoRA weights."""
    projector_lr: float = Field(1e-3, gt=0)
    """Peak rate of projectors and matching head."""
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of all steps spent warming up; cosine decay to a tenth follows."""
    clip: float = Field(1.0, gt=0)
    seed: int = 1
    task_weights: dict[str, float] = {}
    """Loss weight per task; 1 where absent."""
    teacher: TeacherConfig | None = None
    checkpoint_every: int = Field(100, ge=1)
    validate_every: int = Field(0, ge=0)
    """Steps between validations; 0 means once an epoch."""
    validate_users: int = Field(943, ge=0)
    patience: int = Field(3, ge=1)
    """Validations without a better NDCG@10 before training stops early."""
    gradient_checkpointing: bool = False
    protocol: str = "loo-full"
    """What training must not see, and what validation asks: loo-full, temporal, cold-items or cold-users, which keep
    whole items or users out, or rating, which keeps a share of all ratings out; options as for `--protocol`."""


class RunConfig(Config):
    """The whole of one training run: `palate train FILE` and `accelerate launch -m palate.train FILE`."""

    name: str
    data: str
    """A data set folder, or a known name (`palate data import` lists them)."""
    media: str | None = None
    """Folder with extra item fields and media for a known data set."""
    features: dict[str, EncoderConfig] = {"image": EncoderConfig(), "behaviour": EncoderConfig()}
    captions: dict[str, CaptionConfig] = {}
    """Text field to write -> captioner; prompts show these fields, and text encoders read them."""
    prompt: PromptConfig = PromptConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
