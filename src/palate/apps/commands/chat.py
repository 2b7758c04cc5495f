"""palate chat: a conversation in the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.apps.shared import (
    Adapter,
    AsJson,
    Data,
    Device,
    History,
    Mode,
    Precision,
    Quantize,
    User,
    load,
    note_stranger,
    plain,
    print_json,
    titles,
)  # fmt: skip

if TYPE_CHECKING:
    from palate.chat import Answer, Chat

HELP = """Talk about what to choose next. Without MESSAGE a conversation starts; with it, one answer is given.

In a conversation: "more", "why TITLE", "I liked TITLE", "I hated TITLE", "I have seen TITLE", "reset",
"quit".

Example: palate chat "a comedy from the 90s, not romantic, under 100 minutes" --user 42 -a adapters/ml-100k
"""


def register(app: typer.Typer) -> None:
    app.command("chat", help=HELP)(chat)


def chat(
    adapter: Adapter,
    message: Annotated[list[str] | None, typer.Argument(help="Messages to answer in turn, then stop.")] = None,
    user: User = None,
    history: History = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items an answer.")] = 5,
    data: Data = None,
    mode: Mode = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    rec = load(adapter, data, quantization, device, dtype)
    chosen = titles(history)
    note_stranger(rec, user, chosen)
    talk = rec.chat(user, chosen)
    talk.k, talk.mode = k, mode
    if message:
        for text in message:
            _show(text, talk.ask(text), as_json)
        return
    _converse(talk, as_json)


def _converse(talk: Chat, as_json: bool) -> None:
    terminal = sys.stdin.isatty()
    if terminal:
        _complete(talk)
        typer.echo(f'Ask for {talk.rec.dataset.wording.items}; "more", "why", "reset" and "quit" work too.')
    while True:
        try:
            text = input("> " if terminal else "")
        except EOFError:
            return
        if text.strip().casefold() in ("quit", "exit", "q", ":q"):
            return
        _show(text, talk.ask(text), as_json)


def _show(asked: str, answer: Answer, as_json: bool) -> None:
    if as_json:
        print_json({"asked": asked, "text": answer.text, "items": plain(answer.items)})
    else:
        typer.echo(f"{answer.text}\n")


def _complete(talk: Chat) -> None:
    """Tab completes titles where the readline module is there."""
    try:
        import readline
    except ImportError:
        return
    names = sorted(talk.rec.shelf.column("title"), key=str.casefold)

    def complete(text: str, state: int) -> Any:
        matches = (n for n in names if n.casefold().startswith(text.casefold()))
        return next((n for at, n in enumerate(matches) if at == state), None) if text else None

    readline.set_completer(complete)
    readline.set_completer_delims("\t\n\"'")
    readline.parse_and_bind("tab: complete")
