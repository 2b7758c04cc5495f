"""`palate captions`: write what pictures and sounds show as text."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.apps.shared import command_line

if TYPE_CHECKING:
    from palate.config import CaptionConfig
    from palate.data import Dataset
    from palate.features import CaptionSet

SHOWN = 10
"""Problems printed in full; --json prints them all."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("captions")(captions)


def captions(
    folder: Annotated[Path, typer.Argument(help="Data set folder", metavar="DIR")],
    captioner: Annotated[str, typer.Option(help="labels, caption or tags", metavar="NAME")] = "labels",
    source: Annotated[
        str | None, typer.Option(help="Model to caption with; labels has a default", metavar="SOURCE")
    ] = None,
    field: Annotated[str, typer.Option(help="Text field to write", metavar="NAME")] = "picture",
    config: Annotated[
        Path | None, typer.Option(help="Run config whose `captions:` names fields and captioners")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Items shown; --json prints all", min=0)] = 10,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the captions as a table (.csv)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object")] = False,
) -> None:
    """Caption pictures or sounds, cached by content, and show some. Training and recommending do the same for the
    fields that a run config names under `captions:`.

    Example: palate captions data/ml-100k --captioner labels
    """
    from palate.config import CaptionConfig
    from palate.data import Dataset
    from palate.features import captions as write

    chosen = _from(config) if config is not None else {field: CaptionConfig(captioner=captioner, source=source)}
    dataset = Dataset.open(folder)
    result = write(list(dataset.catalog.values()), chosen, progress=not as_json)
    if out is not None:
        _table(out, result)
        _beside(out, dataset, chosen)
    if as_json:
        typer.echo(json.dumps(_facts(result, out), ensure_ascii=False, indent=2))
    else:
        _print(dataset, result, limit, out)


def _from(config: Path) -> dict[str, CaptionConfig]:
    from palate.config import RunConfig
    from palate.errors import ConfigError

    chosen = dict(RunConfig.load(config).captions)
    if not chosen:
        raise ConfigError(
            f"{config}: expected captioners under `captions:`, for example picture: {{captioner: labels}}"
        )
    return chosen


def _table(path: Path, result: CaptionSet) -> None:
    """One row for each item with a caption, which `palate data import --media` joins by item_id."""
    ids = dict.fromkeys(item_id for texts in result.texts.values() for item_id in texts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", *result.texts])
        rows.writerows([item_id, *(texts.get(item_id, "") for texts in result.texts.values())] for item_id in ids)


def _beside(out: Path, dataset: Dataset, chosen: dict[str, CaptionConfig]) -> None:
    """OUT.manifest.json, as a table has no room for it."""
    from palate.evaluate.environment import manifest, write_beside
    from palate.features import captions_meta

    prints = {"data": dataset.fingerprint, "captions": captions_meta(chosen)}
    write_beside(out, manifest(command_line(), None, prints))


def _facts(result: CaptionSet, out: Path | None) -> dict[str, Any]:
    return {
        "fields": {field: report.to_dict() for field, report in result.report.items()},
        "captions": result.texts,
        "problems": [p.to_dict() for p in result.problems],
        "out": None if out is None else str(out),
    }


def _print(dataset: Dataset, result: CaptionSet, limit: int, out: Path | None) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(title=f"Captions of {len(dataset.catalog):,} items")
    for column in ("field", "written", "wordless", "missing", "failed", "cached", "new", "seconds"):
        table.add_column(column, justify="left" if column == "field" else "right", no_wrap=True)
    for r in result.report.values():
        counts = (r.written, r.wordless, r.missing, r.failed, r.hits, r.made)
        table.add_row(escape(r.field), *map(str, counts), f"{r.seconds:.2f}")
    console.print(table)
    for field, texts in result.texts.items():
        for item_id, text in list(texts.items())[:limit]:
            console.print(f"{dataset.catalog[item_id].title}: {text}", markup=False, highlight=False, soft_wrap=True)
        if len(texts) > limit:
            typer.echo(f"... and {len(texts) - limit:,} more in {field}; --json prints them all")
    for problem in result.problems[:SHOWN]:
        typer.echo(f"  {problem}")
    if len(result.problems) > SHOWN:
        typer.echo(f"  and {len(result.problems) - SHOWN} more; --json prints them all")
    if out is not None:
        typer.echo(f"wrote {out}; to keep the captions as fields, name it items.csv and import with --media its folder")
