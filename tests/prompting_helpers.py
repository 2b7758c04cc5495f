"""What the prompting tests share: a small catalogue in several domains, and a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from palate.config import PromptConfig
from palate.prompting import Serializer, ShowFields
from palate.schema import Event, Item, Request, SlotPlan, Wording

ITEMS = {
    "1": Item("1", "Toy Story", {"year": "1995", "genres": "Animation, Comedy", "plot": "Toys come alive."}),
    "2": Item("2", "Star Wars", {"year": "1977", "genres": "Sci-Fi"}),
    "3": Item("3", "Heat", {"year": "1995", "genres": "Crime"}),
    "4": Item("4", "Alien", {"year": "1979", "genres": "Sci-Fi, Horror"}),
    "5": Item("5", "Jaws"),
}
PLANS: dict[str, SlotPlan] = {"1": (("image", 1), ("behaviour", 2)), "4": (("behaviour", 2),)}
WORDING = {
    "en": Wording("movie", "movies", "watched", "viewer"),
    "zh": Wording("电影", "电影", "看过", "观众"),
}
REQUEST = Request(
    "r1",
    "u1",
    (Event("1", 1.0, 4.0), Event("3", 2.0, 3.5), Event("5", 3.0)),
    ("2", "4"),
    {"time": "evening"},
    {"age": "24", "occupation": "artist"},
    "something with spaceships",
)
DOMAINS = {
    "shop": Wording("product", "products", "bought", "shopper"),
    "news": Wording("article", "articles", "read", "reader"),
    "video": Wording("video", "videos", "watched", "viewer"),
    "learning": Wording("course", "courses", "took", "learner"),
    "travel": Wording("place", "places", "visited", "traveller"),
    "health": Wording("workout", "workouts", "did", "member"),
}


def serializer(
    tokenizer: Any,
    items: Mapping[str, Item] | None = None,
    wording: Wording | None = None,
    plans: Mapping[str, SlotPlan] | None = None,
    **config: Any,
) -> Serializer:
    """A Serializer over ITEMS and PLANS, with a budget wide enough for the tiny tokenizer's short tokens."""
    known = PLANS if plans is None else plans
    return Serializer(
        tokenizer,
        ITEMS if items is None else items,
        wording or WORDING["en"],
        ShowFields(("year",), ("year", "genres")),
        PromptConfig(**{"max_tokens": 2048, **config}),
        lambda item_id: known.get(item_id, ()),
    )
