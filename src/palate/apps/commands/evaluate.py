"""`palate evaluate`: systems side by side under one named protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from palate.apps.ratings import DEFAULT_AGAINST, check_options, rate
from palate.apps.shared import command_line
from palate.errors import ConfigError

if TYPE_CHECKING:
    from palate.evaluate import Result, System
    from palate.evaluate.bench import Bench
    from palate.evaluate.modalities import Study
    from palate.evaluate.rating import RatingResult

Bars = Callable[[str, int, int], None]


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("evaluate")(evaluate)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Data set folder.")],
    adapter: Annotated[list[Path] | None, typer.Option("-a", "--adapter", help="Adapter bundle; repeatable.")] = None,
    against: Annotated[
        str,
        typer.Option(
            help="Baselines, comma-separated; options as ease:penalty=500:recency=10, mixtures as ease+sasrec:epochs=9."
        ),
    ] = DEFAULT_AGAINST,
    protocol: Annotated[
        str,
        typer.Option(
            help="loo-full, loo-20, temporal, cold-items, cold-users or rating; options as cold-items:share=0.2:seed=3."
        ),
    ] = "loo-20",
    metrics: Annotated[
        str, typer.Option(help="Other metrics than the protocol's, the headline first, as NDCG@10,MAP@10,Precision@5.")
    ] = "",
    mode: Annotated[str | None, typer.Option(help="Scoring modes of the adapter, comma-separated.")] = None,
    fuse: Annotated[
        str, typer.Option(help="Retrievers to mix with the (first) adapter, as --against; weights from validation.")
    ] = "",
    ablate: Annotated[str | None, typer.Option(help="modalities: what each adds to the adapter.")] = None,
    diversity: Annotated[
        float, typer.Option("--diversity", help="Add each system with its lists reordered: above 0, up to 1.")
    ] = 0.0,
    rerank: Annotated[Literal["mmr", "dpp"], typer.Option("--rerank", help="How --diversity reorders.")] = "mmr",
    users: Annotated[int | None, typer.Option(min=1, help="A seeded draw of this many users; all if absent.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the negatives, the draw of users and the intervals.")] = 1,
    untuned: Annotated[bool, typer.Option("--untuned", help="Add the plain base model.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write FILE.md or FILE.json.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Put the numbers, and weights of --fuse, onto the first adapter's card.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Compare an adapter with baselines on held-out items, with 95% intervals.

    Example: palate evaluate data/ml-100k -a adapters/ml-100k --against popularity,ease --protocol loo-20
    """
    from palate.data import Dataset
    from palate.evaluate import protocol as named
    from palate.evaluate.baselines import parts_of
    from palate.evaluate.bench import Bench
    from palate.evaluate.report import check_output
    from palate.evaluate.run import measured_by
    from palate.recommender.rerank import check

    check(diversity, rerank)
    chosen = measured_by(named(protocol), _split(metrics))
    if output:
        check_output(output)
    if chosen.split_by == "rating":
        odd = {"--fuse": fuse, "--ablate": ablate, "--untuned": untuned, "--metrics": metrics, "--diversity": diversity}
        check_options(against, odd)
        with _bars() as bars:
            modes = _split(mode or "")
            rated = rate(folder, chosen, adapter or [], modes, users=users, seed=seed, record=record, bars=bars)
        _show_rated(rated, output, as_json)
        return
    baselines, mixed, modes, adapters = _split(against), _split(fuse), _split(mode or ""), adapter or []
    for name in [*baselines, *mixed]:
        parts_of(name)  # a wrong name fails before anything is loaded or fitted
    if record and not adapters:
        raise ConfigError("--record puts numbers onto an adapter's card; name the adapter with -a")
    if not (baselines or adapters or untuned or mixed):
        raise ConfigError("there is nothing to evaluate; name an adapter (-a), a baseline (--against) or --untuned")
    if ablate is not None:
        _check_ablation(
            ablate,
            adapters,
            modes,
            {"--fuse": fuse, "--untuned": untuned, "--record": record, "--diversity": diversity},
        )
    bench = Bench(Dataset.open(folder), chosen, users, seed)
    for path in adapters:
        bench.load(path)
    with _bars() as bars:
        others = [*(bench.untuned() if untuned else []), *bench.baselines(baselines, bars)]
        if ablate is not None:
            found = _study(bench, modes, others, bars)
        else:
            systems = [*bench.tuned(modes), *others]
            if mixed:
                systems = bench.fused(systems, mixed, bars)
            if diversity:
                systems = bench.diverse(systems, diversity, rerank)
            result = bench.run(systems, bars)
    if ablate is not None:
        _show_study(found, output, as_json)
        return
    if record:
        _record(bench, modes, systems, result)
    _show(result, output, as_json)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_ablation(what: str, adapters: list[Path], modes: list[str], others: dict[str, object]) -> None:
    """ConfigError where --ablate cannot go with the other options."""
    if what != "modalities":
        raise ConfigError(f"--ablate: expected 'modalities', got {what!r}")
    if len(adapters) != 1 or len(modes) > 1:
        raise ConfigError(
            f"--ablate looks at one adapter in one mode, got {len(adapters)} adapters and {len(modes)} modes; "
            "run it once for each"
        )
    if given := [name for name, value in others.items() if value]:
        raise ConfigError(f"--ablate does not go with {' or '.join(given)}; run them one after the other")


def _study(bench: Bench, modes: list[str], others: list[System], bars: Bars) -> Study:
    from palate.evaluate.modalities import study

    (folder, recommender), mode = next(iter(bench.adapters.items())), next(iter(modes), None)
    name = f"{folder.name} ({mode or recommender.default_mode})"
    return study(recommender, bench, mode, name=name, baselines=others, progress=bars)


def _record(bench: Bench, modes: list[str], systems: list[System], result: Result) -> None:
    """The numbers, and the weights that did best on validation, onto the first adapter's card."""
    from palate.evaluate.fused import FusedSystem
    from palate.evaluate.report import card_rows
    from palate.model import bundle

    folder, recommender = next(iter(bench.adapters.items()))
    fused = [s.learned for s in systems if isinstance(s, FusedSystem) and s.asked_about]
    best = max(fused, key=lambda learned: learned.value, default=None)
    mode = next(iter(modes), recommender.default_mode)
    decision = None if best is None else best.decision(systems[0].name, mode)
    bundle.record(folder, card_rows(result), decision)


@contextmanager
def _bars() -> Iterator[Bars]:
    """A progress bar a system, on standard error; called with (name, done, total)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = shown.add_task(name, total=total)
            shown.update(tasks[name], completed=done, total=total)

        yield progress


def _show(result: Result, output: Path | None, as_json: bool) -> None:
    from palate.evaluate.report import beyond_table, difference_table, to_json, to_table, write

    if output:
        write(result, output, command_line())
    if as_json:
        typer.echo(to_json(result, command=command_line()), nl=False)
    else:
        _print([to_table(result), difference_table(result), beyond_table(result)], output)


def _show_study(study: Study, output: Path | None, as_json: bool) -> None:
    from palate.evaluate.modality_report import tables, to_json, write

    if output:
        write(study, output, command_line())
    if as_json:
        typer.echo(to_json(study, command=command_line()), nl=False)
    else:
        _print([tables(study)], output)


def _show_rated(result: RatingResult, output: Path | None, as_json: bool) -> None:
    from palate.evaluate.rating_output import tables, to_json, write

    if output:
        write(result, output, command_line())
    if as_json:
        typer.echo(to_json(result, command=command_line()), nl=False)
    else:
        _print(list(tables(result)), output)


def _print(shown: list[Any], output: Path | None) -> None:
    from rich.console import Console

    console = Console()
    for part in shown:
        if part is not None:
            console.print(part)
    if output:
        console.print(f"written to {output}", markup=False)
