"""`palate tune`: search a space of config keys, or of a retriever's options, by validation items."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from palate.train.tune.file import TuneConfig
    from palate.train.tune.report import Summary
    from palate.train.tune.run import Tuned

SHOWN = 10
"""Trials in the table on the terminal; all are in trials.csv."""


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("tune")(tune)


def tune(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tune file; with --retriever a data set folder.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The same in all trials, as train.epochs=2.")
    ] = None,
    retriever: Annotated[
        str | None, typer.Option(help="Tune this retriever (ease, itemknn or sasrec) in place of an adapter.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many trials in all; by default the file's.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="With --retriever: whose validation items are asked; by default loo-full.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Start anew instead of going on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the study as JSON.")] = False,
) -> int:
    """Search for better settings by the NDCG@10 of validation items; test items are never asked.

    The study is saved after every trial, and the same command goes on where it was ended. Run it in several terminals
    to work on one study with several processes.

    Example: palate tune configs/ml-100k-tune.yaml --trials 30
    """
    from palate.errors import ConfigError

    if protocol is not None and retriever is None:
        raise ConfigError("--protocol goes with --retriever; a tune file's base names its own (train.protocol)")
    from palate.train.tune.run import check_ended
    from palate.train.tune.run import tune as run

    config = _config(file, retriever, protocol or "loo-full", trials)
    tuned = run(config, overrides or (), where=str(file), restart=restart, say=lambda text: typer.echo(text, err=True))
    check_ended(tuned)
    _show(tuned, as_json)
    if tuned.stopped:
        typer.echo("stopped; the same command goes on from there", err=True)
        return 128 + tuned.stopped
    return 0


def _config(file: Path, retriever: str | None, protocol: str, trials: int | None) -> TuneConfig:
    from palate.train.tune.file import for_retriever, read

    config = read(file) if retriever is None else for_retriever(retriever, file, protocol)
    return config if trials is None else config.model_copy(update={"trials": trials})


def _show(tuned: Tuned, as_json: bool) -> None:
    from palate.apps.tune_plot import study_plot
    from palate.train.tune.report import to_json

    found = tuned.summary
    if found.best is not None:
        study_plot(tuned.folder / "study.svg", found)
    if as_json:
        typer.echo(to_json(found), nl=False)
    elif found.best is not None:
        _print(tuned, found)


def _print(tuned: Tuned, found: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    ended = sorted((r for r in found.rows if r.value is not None), key=lambda r: -(r.value or 0.0))
    keys = list(ended[0].values)
    counts = ", ".join(f"{found.count(s)} {s}" for s in ("ended", "given up", "failed") if found.count(s))
    table = Table(title=f"{found.name}: {counts}", title_justify="left", box=None, pad_edge=False)
    for head in ("trial", found.metric, *keys):
        table.add_column(head, justify="right")
    for row in ended[:SHOWN]:
        values = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values.values()]
        table.add_row(str(row.number), f"{row.value:.4f}", *values)
    console = Console(file=sys.stdout)
    console.print(table)
    if found.importances:
        shares = ", ".join(f"{k} {v:.2f}" for k, v in found.importances.items())
        console.print(f"importances: {shares}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"{tuned.use}\nvalidation items chose it, so ask test items once, with palate evaluate\n"
        f"trials.csv, summary.json and study.svg are in {tuned.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
