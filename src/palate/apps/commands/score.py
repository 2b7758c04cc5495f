"""palate score: candidate files to a score file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.apps.shared import Adapters, AsJson, Data, Device, Precision, Quantize, checked, load, print_json
from palate.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from palate.apps.scoring import Job, Summary

HELP = """Score the candidates of tables: Parquet, CSV or JSON lines, in and out; files, folders, globs or URLs.

A table has a row a candidate (request_id, user_id, item_id) or a row a request (request_id, user_id,
history, context, candidates); a history of its own makes any user scorable. With several -a, the column
adapter says which one answers; empty for the first. The output has request_id, user_id, item_id, score and rank.

Work is kept as it is done: after a crash the same command with --resume goes on. On several devices:
accelerate launch -m palate.score ... with the same arguments; on many machines: --engine ray.

Example: palate score candidates.csv --data data/ml-100k -a adapters/ml-100k -o scores.parquet
"""


def register(app: typer.Typer) -> None:
    app.command("score", help=HELP)(score)


def score(
    candidates: Annotated[
        list[str],
        typer.Argument(help="Tables (.parquet, .csv, .jsonl; text also .gz): files, folders, globs or fsspec URLs."),
    ],
    adapter: Adapters,
    data: Data = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="Score file, or a folder for parts; by default beside the candidates."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="likelihood, yes_no, letters, embedding or fused, or several with commas; by default what fits best.",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Only each request's best so many, best first.")
    ] = None,
    new_items: Annotated[
        Path | None,
        typer.Option(
            "--new-items",
            help="Table of items added after training: title, text fields, image file, item_id.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an unfinished run stopped, if there is one.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an unfinished run away.")] = False,
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder for unfinished work; by default OUTPUT.parts.")
    ] = None,
    max_rejects: Annotated[int, typer.Option("--max-rejects", min=0, help="Bad rows to put up with.")] = 0,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="Where bad rows go; by default OUTPUT.rejects.jsonl.")
    ] = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option("--engine", help="local, or ray: workers of a Ray cluster (RAY_ADDRESS) or of this machine.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --engine ray; by default one a GPU, or a few cores.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    from palate.apps.candidates import precheck
    from palate.apps.scoring import Job, Share, score_file
    from palate.apps.scoring.watch import watch

    if engine not in ("local", "ray"):
        raise ConfigError(f"--engine: expected local or ray, got {engine!r}; {did_you_mean(engine, ('local', 'ray'))}")
    if workers is not None and engine != "ray":
        raise ConfigError("--workers goes with --engine ray; several devices without it: accelerate launch")
    if resume and restart:
        raise ConfigError("--resume and --restart: expected one of them; --restart throws the unfinished run away")
    precheck(*candidates)
    modes = [m.strip() for m in mode.split(",") if m.strip()] if mode else None
    job = Job(
        source=candidates,
        output=output or _beside(candidates),
        mode=modes,
        new_items=new_items,
        rejects=rejects,
        max_rejects=max_rejects,
        top_k=top_k,
        resume=resume,
        restart=restart,
        work=work,
    )
    if engine == "ray":
        _tell(_on_ray(job, adapter, data, quantization, dtype, device, workers), as_json)
        return
    share = Share.of_environment()
    rec = load(adapter, data, quantization, share.device(device), dtype)
    with watch(share) as show:
        summary = score_file(rec, job, show, share)
    if summary.finished:
        _tell(summary, as_json)


def _on_ray(
    job: Job,
    adapter: list[str],
    data: Path | None,
    quantization: str | None,
    dtype: str | None,
    device: str,
    workers: int | None,
) -> Summary:
    from palate.apps.scoring import Share
    from palate.apps.scoring.ray import Loading, score_on_ray
    from palate.apps.scoring.watch import watch

    path, kind, number = checked(adapter, quantization, dtype)
    with watch(Share()) as show:
        return score_on_ray(Loading(path, str(data) if data else None, kind, number, device), job, show, workers)


def _tell(summary: Summary, as_json: bool) -> None:
    if as_json:
        print_json(summary.to_dict())
        return
    typer.echo(
        f"{summary.rows:,} candidates of {summary.requests:,} requests scored by {summary.mode} "
        f"in {summary.seconds:.1f} s ({summary.rows_per_second:,.0f} rows/s) -> {summary.output}"
    )
    if summary.resumed_rows:
        typer.echo(f"{summary.resumed_rows:,} of them by the run that this one went on from")
    if summary.rejects_file:
        typer.echo(f"{summary.rejected:,} bad rows left out -> {summary.rejects_file}")


def _beside(candidates: list[str]) -> str:
    """NAME.scores.FORMAT beside one local table."""
    path = Path(candidates[0])
    if len(candidates) > 1 or not path.is_file():
        raise ConfigError("several tables, a folder or a URL: name the output with -o")
    stem, *more = path.name.split(".")
    return str(
        path.with_name(".".join([stem, "scores", *(m for m in more if m.lower() in ("parquet", "csv", "jsonl"))]))
    )
