"""`palate evaluate`: systems side by side under one named protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.errors import ConfigError

if TYPE_CHECKING:
    from palate.data import Dataset
    from palate.evaluate import Result, System
    from palate.evaluate.protocol import Protocol


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("evaluate")(evaluate)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Data set folder.")],
    adapter: Annotated[list[Path] | None, typer.Option("-a", "--adapter", help="Adapter bundle; repeatable.")] = None,
    against: Annotated[
        str, typer.Option(help="Baselines, comma-separated; options as ease:penalty=500:recency=10.")
    ] = "popularity",
    protocol: Annotated[str, typer.Option(help="loo-full, loo-20 or temporal.")] = "loo-20",
    mode: Annotated[str | None, typer.Option(help="Scoring modes of the adapter, comma-separated.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="A seeded draw of this many users; all if absent.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the negatives, the draw of users and the intervals.")] = 1,
    untuned: Annotated[bool, typer.Option("--untuned", help="Add the plain base model.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write FILE.md or FILE.json.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Put the numbers onto the first adapter's card.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Compare an adapter with baselines on held-out items, with 95% intervals.

    Example: palate evaluate data/ml-100k -a adapters/ml-100k --against popularity,ease --protocol loo-20
    """
    from palate.data import Dataset
    from palate.evaluate import protocol as named
    from palate.evaluate.baselines import parse
    from palate.evaluate.report import check_output, write

    chosen = named(protocol)
    if output:
        check_output(output)
    baselines = _split(against)
    for name in baselines:
        parse(name)  # a wrong name fails before anything is loaded or fitted
    if record and not adapter:
        raise ConfigError("--record puts numbers onto an adapter's card; name the adapter with -a")
    if not (baselines or adapter or untuned):
        raise ConfigError("there is nothing to evaluate; name an adapter (-a), a baseline (--against) or --untuned")
    data = Dataset.open(folder)
    systems = [
        *_adapters(adapter or [], data, _split(mode or "")),
        *(_untuned(adapter or [], data) if untuned else []),
        *_baselines(baselines, data, chosen),
    ]
    result = _run(data, systems, chosen, users, seed)
    if output:
        write(result, output)
    if record and adapter:
        _record(adapter[0], result)
    _show(result, output, as_json)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _adapters(folders: list[Path], data: Dataset, modes: list[str]) -> list[System]:
    """Every adapter in every mode asked for; the adapter's own default where none is."""
    from palate.evaluate.baselines import RecommenderSystem
    from palate.recommender import Recommender

    systems: list[System] = []
    for folder in folders:
        recommender = Recommender.load(folder, data=data)
        chosen: list[str | None] = [*modes] or [None]
        for mode in chosen:
            name = f"{folder.name} ({mode or recommender.default_mode})"
            systems.append(RecommenderSystem(recommender, data, mode, name))
    return systems


def _untuned(folders: list[Path], data: Dataset) -> list[System]:
    """The first adapter's base (else the default one), untuned, by its log-probability of each title."""
    from palate.evaluate.baselines import RecommenderSystem, base_of
    from palate.recommender import Recommender

    recommender = Recommender.load(base_of(folders[0] if folders else None), data=data)
    return [RecommenderSystem(recommender, data, "likelihood", "untuned base (likelihood)")]


def _baselines(names: list[str], data: Dataset, protocol: Protocol) -> list[System]:
    from palate.evaluate.baselines import baseline, features_for

    if not names:
        return []
    train = protocol.split(data.histories.interactions).train
    return [baseline(name, train, features_for(name, data, train)) for name in names]


def _run(data: Dataset, systems: list[System], protocol: Protocol, users: int | None, seed: int) -> Result:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from palate.evaluate import evaluate as run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {s.name: bar.add_task(s.name, total=None) for s in systems}

        def progress(name: str, done: int, total: int) -> None:
            bar.update(tasks[name], completed=done, total=total)

        return run(data, systems, protocol, users, seed, progress=progress)


def _record(adapter: Path, result: Result) -> None:
    from palate.evaluate.report import card_rows
    from palate.model import bundle

    bundle.record(adapter, card_rows(result))


def _show(result: Result, output: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from palate.evaluate.report import difference_table, to_json, to_table

    if as_json:
        typer.echo(to_json(result), nl=False)
        return
    console = Console()
    console.print(to_table(result))
    differences = difference_table(result)
    if differences:
        console.print(differences)
    if output:
        console.print(f"written to {output}", markup=False)
