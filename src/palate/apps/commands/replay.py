"""`palate replay`: the data set as a stream, asked and learned from slice by slice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palate.apps.shared import command_line


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("replay")(replay)


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run config, such as configs/ml-100k.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as train.epochs=2.")
    ] = None,
    base: Annotated[float, typer.Option(help="Share of the events, the oldest, that the first adapter learns.")] = 0.5,
    slices: Annotated[int, typer.Option(min=1, help="Slices of the events after that.")] = 4,
    events: Annotated[int, typer.Option(min=1, help="Questions a user and slice at most, a seeded draw.")] = 5,
    users: Annotated[
        int | None, typer.Option(min=1, help="Users a slice at most, a seeded draw; all if absent.")
    ] = None,
    epochs: Annotated[float, typer.Option(help="Of each continued training.")] = 1.0,
    against: Annotated[
        str, typer.Option(help="Baselines, comma-separated, as in palate evaluate.")
    ] = "popularity,ease",
    mode: Annotated[str, typer.Option(help="Scoring mode of the adapter.")] = "embedding",
    scratch: Annotated[
        bool, typer.Option("--scratch", help="Also train an adapter anew for each slice, to compare.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the draws and the intervals.")] = 1,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write FILE.md or FILE.json.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw FILE.svg or FILE.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> int:
    """Ask about later events one after the other, and learn from each slice before the next.

    Compares the adapter with histories as they were, with new events in them at once, and trained on after every slice
    (as train --continue does); baselines fitted once or anew. No answer knows what came later. An interrupted replay
    goes on with the same command.

    Example: palate replay configs/ml-100k.yaml model.layers=4 train.epochs=3 --slices 4 --plot stream.svg
    """
    from palate.errors import ConfigError
    from palate.evaluate.report import check_output
    from palate.train import read_config
    from palate.train.guard import Stopped
    from palate.train.replay import Plan
    from palate.train.replay import replay as run

    config = read_config(file, overrides or ())
    if output:
        check_output(output)
    if plot and plot.suffix.lower() not in (".svg", ".png"):
        raise ConfigError(f"--plot: expected a file ending in .svg or .png, got {str(plot)!r}")
    names = tuple(part.strip() for part in against.split(",") if part.strip())
    plan = Plan(base, slices, events, users, seed, epochs, names, mode, scratch)
    try:
        result = run(config, plan, say=lambda text: typer.echo(text, err=True))
    except Stopped as stop:
        typer.echo("stopped; the same command goes on from there", err=True)
        return 128 + stop.signal
    _show(result, output, plot, as_json)
    return 0


def _show(result: object, output: Path | None, plot: Path | None, as_json: bool) -> None:
    from rich.console import Console

    from palate.apps.stream_plot import over_time
    from palate.evaluate.stream import StreamResult
    from palate.evaluate.stream_report import facts, tables, to_json, write

    assert isinstance(result, StreamResult)
    if output:
        write(result, output, command_line())
    if plot:
        over_time(plot, result)
    if as_json:
        typer.echo(to_json(result, command_line()), nl=False)
        return
    console = Console()
    console.print(facts(result), markup=False, highlight=False)
    for table in tables(result):
        console.print(table)
    for path in (p for p in (output, plot) if p):
        console.print(f"written to {path}", markup=False)
