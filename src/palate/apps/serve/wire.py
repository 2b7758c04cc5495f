"""The bodies that come in: checked, bounded, and nothing in them is ignored without a word."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from palate.errors import RequestError
from palate.schema import Event

Text = Annotated[str, Field(max_length=8192)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Context = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]], Field(max_length=32)
]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
DEPTH = 8
"""How deep filters may be nested."""
MAX_ITEMS = 10_000
"""What a body may list at all; the server's own limit is a setting."""


class Body(BaseModel):
    """A request body; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: Name | None = Field(None, description="An adapter by name; the first one where left out.")


class Chosen(BaseModel):
    """One past choice."""

    model_config = ConfigDict(extra="forbid")

    item: Name
    timestamp: float | None = Field(None, description="Seconds since 1970.")
    rating: float | None = None


class Asker(Body):
    """Who asks: a user by id, or a history of ids or titles, oldest first; with both the history counts."""

    user: Name | None = None
    history: list[Name | Chosen] | None = Field(None, max_length=MAX_ITEMS)
    context: Context = Field(default_factory=dict, description="Such as time, device, place.")
    mode: Name | None = Field(None, description="How to score; see /v1/about.")


class RecommendBody(Asker):
    """What to recommend. filters: see `Recommender.recommend`; a two-number list [low, high] is a range."""

    k: int = Field(10, ge=1, le=1000)
    filters: dict[str, Any] = Field(default_factory=dict, max_length=32)
    diversity: float = Field(0.0, ge=0, le=1)
    rerank: Literal["mmr", "dpp"] = "mmr"


class ExplainBody(Asker):
    """What to explain."""

    item: Name


class EventBody(BaseModel):
    """Something a person did. Later answers count it at once."""

    model_config = ConfigDict(extra="forbid")

    item: Name
    user: Name | None = None
    session: Name | None = None
    kind: Literal["interaction", "like", "dislike", "seen"] = "interaction"
    rating: float | None = None
    timestamp: float | None = None
    context: Context = Field(default_factory=dict)


class EventsBody(BaseModel):
    """Several events, all stored or none."""

    model_config = ConfigDict(extra="forbid")

    events: list[EventBody] = Field(min_length=1, max_length=1000)


class SessionBody(Body):
    """Whose conversation."""

    user: Name | None = None
    history: list[Name] | None = Field(None, max_length=1000)
    context: Context = Field(default_factory=dict)


class ScoreBody(Asker):
    """Either a person and catalogue items (`user` or `history`; `query` may say what they want), or a raw `query` and
    `items` as SGLang's /v1/score and vLLM's generative scoring take them.
    """

    query: Text | Ids | None = Field(None, validation_alias=AliasChoices("query", "text_1"))
    items: list[Text] | list[Ids] | Text = Field(validation_alias=AliasChoices("items", "text_2"))
    label_token_ids: Annotated[Ids, Field(max_length=256)] | None = None
    apply_softmax: bool = False
    item_first: bool = False

    @property
    def raw(self) -> bool:
        """Whether the query is a prompt of the caller's own."""
        return self.user is None and self.history is None

    @model_validator(mode="after")
    def _one_kind(self) -> ScoreBody:
        if self.raw:
            if self.query is None or not self.query:
                raise ValueError("expected a user or a history with items of the catalogue, or a query with raw items")
            if self.mode is not None or self.context:
                raise ValueError("mode and context go with a user or a history, not with a raw query")
            if not self.items:
                raise ValueError("items: expected at least one, got none")
            return self
        if not isinstance(self.query, str | None) or not all(isinstance(i, str) for i in self.items):
            raise ValueError("token ids go with a raw query, not with a user or a history")
        if self.label_token_ids is not None or self.apply_softmax or self.item_first:
            raise ValueError("label_token_ids, apply_softmax and item_first go with a raw query alone")
        return self


class Part(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: str = ""


class Message(BaseModel):
    """One message of a conversation; keys of OpenAI's that mean nothing here are let through."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatBody(BaseModel):
    """OpenAI's chat completion, with `session`, `k` and `context` of our own.

    Sampling options are taken and change nothing: the same question has the same answer.
    """

    model_config = ConfigDict(extra="forbid")

    model: Name | None = None
    messages: list[Message] = Field(min_length=1, max_length=200)
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Name | None = None
    session: Name | None = None
    k: int = Field(5, ge=1, le=50)
    context: Context = Field(default_factory=dict)
    n: Literal[1] | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None


def events(history: list[Any] | None) -> list[str | Event] | None:
    """A body's history as the recommender takes it; the items are found by the caller."""
    if history is None:
        return None
    return [h if isinstance(h, str) else Event(h.item, h.timestamp, h.rating) for h in history]


def filters(given: dict[str, Any]) -> dict[str, Any]:
    """JSON has no tuples: a list of two numbers (or null) is a range. Raises RequestError for what is endless."""

    def read(value: Any, depth: int = 0) -> Any:
        if depth > DEPTH:
            raise RequestError(f"filters: nested too deeply; expected at most {DEPTH} levels")
        if isinstance(value, dict):
            return {k: read(v, depth + 1) for k, v in value.items()}
        if isinstance(value, list) and len(value) == 2 and all(v is None or _number(v) for v in value):
            return tuple(value)
        return [read(v, depth + 1) for v in value] if isinstance(value, list) else value

    return {field: read(value) for field, value in given.items()}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
