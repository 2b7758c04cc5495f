"""palate score: a candidate file to a score file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.apps.shared import Adapters, AsJson, Data, Device, Mode, Precision, Quantize, load, print_json

if TYPE_CHECKING:
    from palate.apps.batch import Job, Summary
    from palate.recommender import Recommender

HELP = """Score the candidates of a file: Parquet, CSV or JSON lines, in and out.

The file has a row a candidate (request_id, user_id, item_id) or a row a request (request_id, user_id,
history, context, candidates); a history of its own makes any user scorable. With several -a, the column
adapter says which one answers; empty for the first. The output has request_id, user_id, item_id, score and rank.

Example: palate score candidates.csv --data data/ml-100k -a adapters/ml-100k -o scores.parquet
"""


def register(app: typer.Typer) -> None:
    app.command("score", help=HELP)(score)


def score(
    candidates: Annotated[Path, typer.Argument(help="Candidate file: .parquet, .csv or .jsonl.")],
    adapter: Adapters,
    data: Data = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Score file; by default beside the candidates.")
    ] = None,
    mode: Mode = None,
    new_items: Annotated[
        Path | None,
        typer.Option(
            "--new-items",
            help="Table of items added after training: title, text fields, image file, item_id.",
        ),
    ] = None,
    max_rejects: Annotated[int, typer.Option("--max-rejects", min=0, help="Bad rows to put up with.")] = 0,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="Where bad rows go; by default OUTPUT.rejects.jsonl.")
    ] = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    from palate.apps.batch import Job
    from palate.apps.candidates.requests import precheck

    precheck(candidates)
    job = Job(
        candidates,
        output or candidates.with_name(f"{candidates.stem}.scores{candidates.suffix}"),
        mode,
        new_items,
        rejects,
        max_rejects,
    )
    summary = _run(load(adapter, data, quantization, device, dtype), job)
    if as_json:
        print_json(summary.to_dict())
        return
    typer.echo(
        f"{summary.rows:,} candidates of {summary.requests:,} requests scored by {summary.mode} "
        f"in {summary.seconds:.1f} s ({summary.rows_per_second:,.0f} rows/s) -> {summary.output}"
    )
    if summary.rejects_file:
        typer.echo(f"{summary.rejected:,} bad rows left out -> {summary.rejects_file}")


def _run(rec: Recommender, job: Job) -> Summary:
    from palate.apps.batch import Progress, score_file, total_rows

    if not sys.stderr.isatty():
        return score_file(rec, job)
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("scoring"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[rows]:,} candidates, {task.fields[rate]:,.0f} rows/s"),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total_rows(job.source) or None, rows=0, rate=0.0)

        def show(done: Progress) -> None:
            bar.update(task, completed=done.read, rows=done.rows, rate=done.rate)

        return score_file(rec, job, show)
