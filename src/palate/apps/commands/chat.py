"""palate chat: a conversation in the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

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
    titles,
)  # fmt: skip
from palate.apps.shared import context as pairs
from palate.errors import PalateError

if TYPE_CHECKING:
    from palate.chat import Chat, Piece

HELP = """Talk about what to choose next. Without MESSAGE a conversation starts; with it, one answer is given.

In a conversation: "more", "why TITLE", "I liked TITLE", "I hated TITLE", "I have seen TITLE", "reset", "quit"; Tab
completes titles. With --json each answer is one line of JSON.

Example: palate chat "a comedy from the 90s, not romantic, under 100 minutes" --user 42 -a adapters/ml-100k
"""
SHOWN = 40
"""Completions shown at most."""
LEAVE = ("quit", "exit", "bye", "q", ":q")
_CUE = re.compile(
    r"^.*\b(?:like|liked|loved?|hated?|disliked?|enjoyed|why|explain|seen|watched|read|than|and|or) +(?=\S*)", re.I
)
_STARTS = ("more", "why ", "reset", "quit", "something like ", "I liked ", "I hated ", "I have seen ")


def register(app: typer.Typer) -> None:
    app.command("chat", help=HELP)(chat)


def chat(
    adapter: Adapter,
    message: Annotated[list[str] | None, typer.Argument(help="Messages to answer in turn, then stop.")] = None,
    user: User = None,
    history: History = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Items an answer.")] = 5,
    context: Annotated[
        list[str] | None, typer.Option("--context", help="What is known of the moment, as NAME=VALUE; repeat it.")
    ] = None,
    data: Data = None,
    mode: Mode = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    moment = pairs(context)
    rec = load(adapter, data, quantization, device, dtype)
    chosen = titles(history)
    note_stranger(rec, user, chosen)
    if mode is not None:
        rec.mode(mode)  # a misspelt one is refused before the first word
    talk = rec.chat(user, chosen, moment, k)
    talk.mode = mode
    answer = _as_json if as_json else _spoken
    if message:
        for text in message:
            answer(talk, text)
        return
    _converse(talk, answer)


def _converse(talk: Chat, answer: Callable[[Chat, str], None]) -> None:
    """Until "quit" or Ctrl-D. Ctrl-C stops an answer, or empties the line; a mistake is said and talk goes on."""
    terminal = sys.stdin.isatty()
    if terminal:
        _completes(talk)
        noun = talk.rec.dataset.wording.items
        typer.echo(f'Ask for {noun}; "more", "why", "reset" and "quit" work too. Tab completes titles.', err=True)
    while True:
        try:
            text = input("> " if terminal else "")
            if text.strip().casefold() in LEAVE:
                return
            answer(talk, text)
        except EOFError:
            if terminal:
                typer.echo("Bye.", err=True)
            return
        except KeyboardInterrupt:
            if not terminal:
                raise
            typer.echo('\nStopped. "quit" or Ctrl-D leaves.', err=True)
        except PalateError as error:
            typer.echo(f"palate: {error}", err=True)


def _as_json(talk: Chat, text: str) -> None:
    answer = talk.ask(text)
    found = {"asked": text, "text": answer.text, "items": plain(answer.items)}
    typer.echo(json.dumps(found, ensure_ascii=False))


def _spoken(talk: Chat, text: str) -> None:
    """An answer line by line, as it comes."""
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for piece in talk.stream(text):
        typer.echo(_coloured(piece) if colour else piece.text, nl=False)
        sys.stdout.flush()
    typer.echo("\n")


def _coloured(piece: Piece) -> str:
    """The title of an item in bold, its reason dimmed."""
    if piece.item is None:
        return piece.text
    head, title, rest = piece.text.partition(piece.item.title)
    return f"{head}{typer.style(title, bold=True)}{typer.style(rest, dim=True)}"


# --- completion -------------------------------------------------------------------------------------


def completions(line: str, names: Sequence[str]) -> Iterator[str]:
    """What a line may be completed to: its last words as a title, or a command where it has just begun."""
    cue = _CUE.match(line)
    start, typed = (line[: cue.end()], line[cue.end() :]) if cue else ("", line)
    low = typed.lstrip("\"'“").casefold()
    if low:
        yield from (start + name for name in names if name.casefold().startswith(low))
    if not cue:
        yield from (s for s in _STARTS if s.casefold().startswith(low))


def _completes(talk: Chat) -> None:
    """Tab completes titles where the readline module is there."""
    try:
        import readline
    except ImportError:
        return
    names = sorted(set(talk.rec.shelf.column("title")), key=str.casefold)
    found: list[str] = []

    def complete(text: str, state: int) -> str | None:
        if state == 0:
            found[:] = completions(text, names)
        return found[state] if state < len(found) else None

    def show(common: str, matches: Iterable[str], longest: int) -> None:
        """The titles alone, not the line before them."""
        known = list(matches)
        cue = _CUE.match(common)
        cut = cue.end() if cue else 0
        typer.echo("\n" + "   ".join(name[cut:] for name in known[:SHOWN]) + (" ..." if len(known) > SHOWN else ""))
        typer.echo(f"> {readline.get_line_buffer()}", nl=False)
        sys.stdout.flush()

    readline.set_completer(complete)
    readline.set_completer_delims("\n")
    if hasattr(readline, "set_completion_display_matches_hook"):
        readline.set_completion_display_matches_hook(show)
    readline.parse_and_bind("set show-all-if-ambiguous on")
    readline.parse_and_bind("tab: complete")
