"""A conversation as plain data, and back: what a server keeps between two turns.

The present wish is kept as the messages that make it up, and parsed anew: its filters hold tuples and lists that mean
different things, which JSON does not tell apart.

    {"version": 1, "user": "42" | null, "history": [{"item": "12", ...}] | null, "context": {"weekday": "Friday"},
     "k": 5, "mode": null, "language": "en", "liked": ["12"], "disliked": [], "seen": [], "shown": ["7"],
     "latest": ["7"], "wish": [{"text": "a comedy from 1973", "without": ["year"]}], "offer": null}

history: null where it is the data set's. latest: what the last answer named. offer: what a "yes" would mean, a message
or a wish.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from palate.chat.languages import languages
from palate.chat.wishes import Said
from palate.errors import RequestError, did_you_mean
from palate.schema import Event

if TYPE_CHECKING:
    from palate.chat.talk import Chat
    from palate.recommender import Recommender

VERSION = 1
LISTS = ("liked", "disliked", "seen", "shown", "latest")
KEYS = ("version", "user", "history", "context", "k", "mode", "language", *LISTS, "wish", "offer")


def state(chat: Chat) -> dict[str, Any]:
    """What `restore` needs."""
    return {
        "version": VERSION,
        "user": chat.request.user_id,
        "history": None if chat.given is None else [_event(e) for e in chat.given],
        "context": dict(chat.request.context),
        "k": chat.k,
        "mode": chat.mode,
        "language": chat.language.name,
        **{name: list(getattr(chat, name)) for name in LISTS},
        "wish": None if chat.wish is None else _messages(chat.said),
        "offer": chat.offer if chat.offer is None or isinstance(chat.offer, str) else _messages(chat.offer),
    }


def restore(cls: type[Chat], rec: Recommender, kept: Mapping[str, Any], dense: bool | None) -> Chat:
    """The conversation of a state. Items that the catalogue no longer has are left out."""
    if kept.get("version") != VERSION:
        raise RequestError(
            f"chat state: expected version {VERSION}, got {kept.get('version')!r}; start a new conversation"
        )
    if missing := [k for k in KEYS if k not in kept]:
        raise RequestError(f"chat state: expected the keys of `Chat.state`, misses {', '.join(missing)}")
    if kept["language"] not in languages():
        raise RequestError(
            f"chat state: no language is called {kept['language']!r}; {did_you_mean(kept['language'], languages())}"
        )
    history = None
    if kept["history"] is not None:
        history = [_known_event(e) for e in kept["history"] if e["item"] in rec.shelf]
    chat = cls(rec, kept["user"], history, kept["k"], kept["mode"], dense, kept["context"])
    chat.language = languages()[kept["language"]]
    for name in LISTS:
        setattr(chat, name, [i for i in kept[name] if i in rec.shelf])
    if kept["wish"] is not None:
        chat.said = _said(kept["wish"])
        chat.wish = chat.wishes.folded(chat.said)
    chat.offer = kept["offer"] if kept["offer"] is None or isinstance(kept["offer"], str) else _said(kept["offer"])
    return chat


def _messages(said: Iterable[Said]) -> list[dict[str, Any]]:
    return [{"text": s.text, "without": list(s.without)} for s in said]


def _said(messages: Iterable[Mapping[str, Any]]) -> tuple[Said, ...]:
    return tuple(Said(m["text"], tuple(m["without"])) for m in messages)


def _event(event: Event) -> dict[str, Any]:
    """An event without what it does not tell."""
    names = ("timestamp", "rating", "context", "review")
    told = {name: value for name in names if (value := getattr(event, name)) not in (None, {}, "")}
    return {"item": event.item_id, **told}


def _known_event(kept: Mapping[str, Any]) -> Event:
    told = {k: v for k, v in kept.items() if k != "item"}
    return Event(kept["item"], **told)
