"""`palate data`: import, check and describe data sets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from palate.data import Report
    from palate.features.consistency import Consistency

HARDLY_ANY = -2.0
"""No item is likely to lie below a consistency threshold as low as this."""
Json = Annotated[bool, typer.Option("--json", help="Print a JSON object")]


def register(app: typer.Typer) -> None:
    """Add the sub-commands to the application."""
    group = typer.Typer(help="Import, check and describe data sets.", no_args_is_help=True)
    group.command("import")(import_)
    group.command("check")(check)
    group.command("stats")(stats)
    app.add_typer(group, name="data")


def import_(
    name_or_path: Annotated[str, typer.Argument(help="ml-100k, or a folder in a known layout")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write; default data/NAME", metavar="DIR")
    ] = None,
    media: Annotated[
        Path | None, typer.Option(help="Folder with items.csv and media to join by item_id", metavar="DIR")
    ] = None,
    reader: Annotated[str | None, typer.Option(help="Layout; default: found out", metavar="NAME")] = None,
    max_rejects: Annotated[
        float | None,
        typer.Option(help="Bad rows a table may have: a number, or a share below 1; default 1%", metavar="N"),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Of the texts, such as de; default: what the layout says", metavar="CODE")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read MovieLens, RecBole, Amazon Reviews 2023, plain tables, a saved `datasets` folder or a folder of media
    files into a clean folder.

    Example: palate data import ml-100k --media ../ml-100k-mm --out data/ml-100k
    """
    from rich.console import Console

    from palate.data import check as report_on
    from palate.data import import_dataset

    target = out or Path("data") / (Path(name_or_path).resolve().name if Path(name_or_path).exists() else name_or_path)
    with Console(stderr=True).status(f"Importing {name_or_path}"):
        import_dataset(name_or_path, target, media, reader, max_rejects, language)
        report = report_on(target)
    if as_json:
        typer.echo(_json(asdict(report)))
        return
    _print(report)
    typer.echo(f"wrote {target}; next: palate data stats {target}")


def check(
    folder: Annotated[Path, typer.Argument(help="Data set folder", metavar="DIR")],
    consistency: Annotated[
        bool, typer.Option("--consistency", help="Also list items whose medium does not fit their text")
    ] = False,
    medium: Annotated[str, typer.Option(help="Which medium, with --consistency", metavar="NAME")] = "image",
    source: Annotated[
        str | None,
        typer.Option(help="Model with a tower for the medium and one for text (CLIP, CLAP), with --consistency"),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="List items whose z is below; default: set from the data", metavar="Z")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Items listed; --json lists all", min=0)] = 20,
    as_json: Json = False,
) -> None:
    """Show what a data set has, what is missing, and each kind of bad row; all bad rows go to rejects.jsonl.

    Example: palate data check data/ml-100k --consistency
    """
    from palate.data import check as report_on

    report = report_on(folder)
    found = _consistency(folder, medium, source, threshold) if consistency else None
    if as_json:
        told = {} if found is None else {"consistency": found.to_dict()}
        typer.echo(_json({**asdict(report), **told}))
        return
    _print(report)
    if found is not None:
        _print_consistency(found, limit)


def _consistency(folder: Path, medium: str, source: str | None, threshold: float | None) -> Consistency:
    from palate.apps.shared import spinner
    from palate.data import Dataset
    from palate.features.consistency import consistency

    items = list(Dataset.open(folder, strict=False).catalog.values())
    with spinner(f"comparing {medium} and text"):
        return consistency(items, medium=medium, source=source, threshold=threshold)


def stats(
    folder: Annotated[Path, typer.Argument(help="Data set folder", metavar="DIR")], as_json: Json = False
) -> None:
    """Show sizes, density, history lengths, ratings, time span and how unequal popularity is.

    Example: palate data stats data/ml-100k
    """
    from palate.data import Dataset
    from palate.data import stats as numbers_of

    numbers = numbers_of(Dataset.open(folder))
    if as_json:
        typer.echo(_json(numbers))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Data set {numbers['name']}", show_header=False)
    for name, value in numbers.items():
        if name != "name":
            table.add_row(name.replace("_", " "), _shown(name, value))
    Console().print(table)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _shown(name: str, value: Any) -> str:
    from datetime import UTC, datetime

    if value is None:
        return "unknown"
    if name in ("first", "last"):
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M} UTC"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v:,g}" if isinstance(v, float) else f"{k}: {v:,}" for k, v in value.items()) or "none"
    if name in ("density", "top10_share"):
        return f"{value:.2%}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)[:16]


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=f"Data set {escape(report.name)}: {escape(report.folder)}")
    for column in ("table", "rows", "field", "filled"):
        table.add_column(column, justify="right" if column in ("rows", "filled") else "left")
    sizes = {**report.counts, "users": report.counts["profiles"]}
    for name, fields in report.filled.items():
        rows = sizes[name]
        table.add_row(name, f"{rows:,}", "", "")
        for field, n in fields.items():
            table.add_row("", "", escape(field), f"{n / max(1, rows):.1%}")
    console.print(table)
    console.print(f"{report.counts['users']:,} users, fingerprint {report.fingerprint[:16]}")
    for modality, (present, missing) in report.media.items():
        console.print(f"{escape(modality)}: {present:,} items have a file, {missing:,} have none")
    if report.clean:
        console.print("no bad rows, no bad media")
        return
    bad = Table(title="Left out (all of it is in rejects.jsonl)")
    for column in ("kind", "file", "reason", "how many"):
        bad.add_column(column, justify="right" if column == "how many" else "left")
    for kind, file, reason, n in report.rejected:
        bad.add_row(kind, escape(file), escape(reason), f"{n:,}")
    console.print(bad)
    for reject in report.first:
        console.print(f"  {reject}", markup=False, highlight=False, soft_wrap=True)


def _print_consistency(found: Consistency, limit: int) -> None:
    from rich.console import Console

    console = Console()
    console.print(f"\nConsistency of {found.medium} and text", style="bold", markup=False)
    lines = [
        f"{found.judged:,} of {found.items:,} items judged; {found.missing:,} have no {found.medium}, {found.failed:,} "
        f"an unusable one, {found.unclear:,} one too unclear to name"
    ]
    if found.judged:
        lines += [
            f"compared in the space of {found.space}, each with {found.compared:,} other texts",
            f"an item's own text fits better than {found.agreement:.0%} of the others on average (50% is chance)",
        ]
        if not found.shared:
            lines.append("this way is weaker than a model with a tower for each (--source): look before you believe")
    if not found.judged:
        lines.append("nothing to compare")
    elif found.threshold is None:
        lines.append("nothing can be told: own texts fit no better than those of others")
    else:
        lines.append(f"{len(found.conflicts):,} items below the threshold z = {found.threshold:.2f}, worst first")
        if found.threshold < HARDLY_ANY:
            lines.append("the two agree too little here to single any out; --threshold Z lists the worst all the same")
    for conflict in found.conflicts[:limit]:
        shows = f"shows {conflict.shows}; " if conflict.shows else ""
        lines.append(
            f"  {conflict.item_id}  {conflict.title}: {shows}nearest {conflict.nearest!r} "
            f"(z {conflict.z:.2f}, rank {conflict.rank:,}, better than {conflict.percentile:.0%} of the others; "
            f"{conflict.file})"
        )
    if len(found.conflicts) > limit:
        lines.append(f"  and {len(found.conflicts) - limit:,} more; --json lists them all")
    for line in [*lines, *(f"  {p}" for p in found.problems[:limit])]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
