"""What the commands have in common: loading with a spinner, JSON, and lists as tables. Light at the top."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from palate.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from palate.recommender import Recommendation, Recommender
    from palate.schema import Dtype, Quantization

Adapter = Annotated[
    str,
    typer.Option("-a", "--adapter", help="Adapter bundle folder, or a base model to use untuned.", metavar="PATH"),
]
Adapters = Annotated[
    list[str],
    typer.Option(
        "-a",
        "--adapter",
        help="Adapter bundle folder, or a base model to use untuned; repeat it, as PATH or NAME=PATH, for several "
        "adapters on one base, which the file's column adapter chooses from.",
        metavar="PATH",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data set folder; by default the one the adapter was trained on."),
]
Mode = Annotated[
    str | None,
    typer.Option("--mode", help="likelihood, yes_no, letters, embedding or generate; by default what fits best."),
]
Quantize = Annotated[
    str | None, typer.Option("--quantization", help="none, int8, nf4, int4 or fp8; by default as trained.")
]
Precision = Annotated[
    str | None,
    typer.Option("--dtype", help="auto, bfloat16, float16 or float32; by default as trained, where fast here."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda:N or balanced (over all CUDA devices).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="A user of the data set.")]
History = Annotated[
    list[str] | None,
    typer.Option("--history", "-H", help="A chosen item by title or id, oldest first; repeat, or separate with ;"),
]

QUANTIZATIONS = ("none", "int8", "nf4", "int4", "fp8")
DTYPES = ("auto", "bfloat16", "float16", "float32")


def load(
    adapter: str | list[str], data: Path | None, quantization: str | None, device: str, dtype: str | None = None
) -> Recommender:
    """Load a recommender, with a spinner on a terminal. Several adapters: see `Adapters`."""
    path, kind, number = checked(adapter, quantization, dtype)
    from palate.recommender import Recommender

    with spinner(f"loading {path if isinstance(path, str) else ', '.join(path)}"):
        return Recommender.load(path, data=data, quantization=kind, device=device, dtype=number)


def checked(
    adapter: str | list[str], quantization: str | None, dtype: str | None
) -> tuple[str | dict[str, str], Quantization | None, Dtype | None]:
    """What `Recommender.load` takes, from options. Raises ConfigError."""
    for option, value, choices in (("--quantization", quantization, QUANTIZATIONS), ("--dtype", dtype, DTYPES)):
        if value is not None and value not in choices:
            known = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise ConfigError(f"{option}: expected {known}, got {value!r}; {did_you_mean(value, choices)}")
    path = adapter if isinstance(adapter, str) else _named(adapter)
    return path, cast("Quantization | None", quantization), cast("Dtype | None", dtype)


def _named(adapters: Sequence[str]) -> str | dict[str, str]:
    """--adapter options as one path, or as names and paths; a path without a name is called as its folder."""
    if len(adapters) == 1 and ("=" not in adapters[0] or Path(adapters[0]).exists()):
        return adapters[0]
    found: dict[str, str] = {}
    for text in adapters:
        name, mark, path = ("", "", text) if Path(text).exists() else text.partition("=")
        if not mark:
            name, path = Path(text).name, text
        if not name or not path or name in found:
            raise ConfigError(f"--adapter: expected NAME=PATH with a name of its own each, got {text!r}")
        found[name] = path
    return found


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """A spinner on stderr while something slow runs; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def titles(history: Sequence[str] | None) -> list[str] | None:
    """The --history options as a list; None where there were none."""
    if not history:
        return None
    return [part.strip() for text in history for part in text.split(";") if part.strip()]


def context(pairs: Sequence[str] | None) -> dict[str, str]:
    """--context time=evening options as a mapping."""
    out = {}
    for pair in pairs or ():
        name, mark, value = pair.partition("=")
        if not mark or not name.strip() or not value.strip():
            raise ConfigError(f"--context: expected NAME=VALUE such as time=evening, got {pair!r}")
        out[name.strip()] = value.strip()
    return out


def note_stranger(rec: Recommender, user: str | None, history: Sequence[str] | None) -> None:
    """Say so where a user id is not in the data set: the list would be a newcomer's."""
    if user is not None and not history and user not in rec.dataset.histories:
        known = rec.dataset.histories.interactions.user_ids
        shown = ", ".join(known[:3])
        typer.echo(
            f"palate: note: user {user!r} is not in {rec.dataset.name} (its {len(known):,} users have "
            f"ids like {shown}); recommending for a newcomer",
            err=True,
        )


def plain(recommendations: Sequence[Recommendation]) -> list[dict[str, Any]]:
    """Recommendations as plain data."""
    return [
        {
            "rank": r.rank,
            "item_id": r.item_id,
            "title": r.title,
            "score": round(r.score, 6),
            "reason": r.reason,
        }
        for r in recommendations
    ]


def command_line() -> str:
    """The command this process was started with, as a shell takes it, without the folder of the program."""
    from palate.evaluate.environment import command_line as told

    return told()


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def print_list(recommendations: Sequence[Recommendation], title: str) -> None:
    """Recommendations as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("title")
    table.add_column("score", justify="right")
    table.add_column("why")
    for r in recommendations:
        table.add_row(str(r.rank), f"[bold]{escape(r.title)}[/]", f"{r.score:.3f}", f"[dim]{escape(r.reason)}[/]")
    Console().print(table)
