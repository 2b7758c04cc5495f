"""`palate neighbours`: what an encoder finds alike, as a list and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.apps import shared

if TYPE_CHECKING:
    from palate.config import EncoderConfig
    from palate.data import Dataset
    from palate.features.neighbours import Agreement, Neighbours
    from palate.schema import Features

SHOWN = 32
"""Letters of a title in the printed list."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("neighbours")(neighbours)


def neighbours(
    folder: Annotated[Path, typer.Argument(help="Data set folder", metavar="DIR")],
    modality: Annotated[str, typer.Option("--modality", "-m", help="Compared by what", metavar="NAME")] = "image",
    items: Annotated[
        list[str] | None, typer.Option("--item", "-i", help="Asked about, by title or id; repeat", metavar="ITEM")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Without --item: so many, a seeded draw")] = 8,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours of each")] = 6,
    field: Annotated[
        str | None, typer.Option(help="Text field whose values should agree; default category, if there", metavar="F")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Run config whose `features:` names the encoder")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also draw a contact sheet (.png, .jpg)")] = None,
    as_json: shared.AsJson = False,
) -> None:
    """Show each item's nearest neighbours by one modality's vectors (cosine), and how often they share a field.

    Example: palate neighbours data/ml-100k --modality image --field genres -o posters.png
    """
    from palate.data import Dataset
    from palate.evaluate.environment import manifest, write_beside
    from palate.features.neighbours import agreement, nearest

    dataset = Dataset.open(folder)
    label = _field(dataset, field)
    table = _table(dataset, modality, _encoder(modality, config), progress=not as_json)
    found = nearest(table, _asked(dataset, table, items, queries, seed), k)
    labels = [dataset.catalog[i].text.get(label, "") for i in table.item_ids] if label else []
    enough = sum(bool(name) and bool(here) for name, here in zip(labels, table.present, strict=False)) > k
    shares = agreement(table, labels, k, seed=seed) if enough else None
    if out is not None:
        _draw(out, dataset, table, found, label, shares)
        made = manifest(
            shared.command_line(), {"draw": seed}, {"data": dataset.fingerprint, "features": table.fingerprint}
        )
        write_beside(out, made)
    if as_json:
        shared.print_json(_facts(dataset, table, found, label, shares, out))
        return
    _print(dataset, table, found)
    if shares is not None:
        typer.echo(_sentence(label, shares))
    if out is not None:
        typer.echo(f"wrote {out}")


def _field(dataset: Dataset, field: str | None) -> str:
    """The text field to compare; empty where there is none."""
    from palate.errors import DataError, did_you_mean

    known = dataset.catalog.text_fields
    if field is not None and field not in known:
        raise DataError(f"--field: expected a text field of the items, got {field!r}; {did_you_mean(field, known)}")
    return field or ("category" if "category" in known else "")


def _encoder(modality: str, config: Path | None) -> EncoderConfig:
    from palate.config import EncoderConfig, RunConfig

    given = dict(RunConfig.load(config).features) if config is not None else {}
    return given.get(modality, EncoderConfig())


def _table(dataset: Dataset, modality: str, encoder: EncoderConfig, progress: bool) -> Features:
    """The modality's vectors of all items."""
    from palate.data.splits import leave_one_out
    from palate.features import compute

    train = leave_one_out(dataset.histories.interactions).train
    rows = list(dataset.catalog.values())
    return compute(rows, train, {modality: encoder}, progress=progress).tables[modality]


def _asked(dataset: Dataset, table: Features, items: list[str] | None, queries: int, seed: int) -> list[int]:
    """Row numbers of the items asked about; without names a seeded draw of those with a vector."""
    import numpy as np

    from palate.errors import FeatureError

    if items:
        return [_row(dataset, table, typed) for typed in items]
    able = np.flatnonzero(table.present)
    if not len(able):
        raise FeatureError(f"no item of {dataset.name} has a usable {table.modality}; choose another --modality")
    drawn = np.random.default_rng(seed).choice(able, min(queries, len(able)), replace=False)
    return [int(n) for n in np.sort(drawn)]


def _row(dataset: Dataset, table: Features, typed: str) -> int:
    """The item of that id or title; of several that fit equally well the first with a vector."""
    catalog = dataset.catalog
    if typed in catalog:
        return catalog.index(typed)
    found = [(catalog.index(i), score) for i, score in catalog.find(typed)]
    if not found:
        return catalog.index(typed)
    best = [row for row, score in found if score == found[0][1]]
    return next((row for row in best if table.present[row]), best[0])


def _sentence(label: str, shares: Agreement) -> str:
    times = f", {shares.shared / shares.chance:.1f} times as often" if shares.chance else ""
    return (
        f"{shares.shared:.1%} of the {shares.k} nearest have the same {label}, by chance {shares.chance:.1%}{times} "
        f"({shares.n:,} items)"
    )


def _facts(
    dataset: Dataset, table: Features, found: Neighbours, label: str, shares: Agreement | None, out: Path | None
) -> dict[str, Any]:
    from dataclasses import asdict

    def item(row: int) -> dict[str, str]:
        return {"item_id": table.item_ids[row], "title": dataset.catalog[table.item_ids[row]].title}

    return {
        "modality": table.modality,
        "fingerprint": table.fingerprint,
        "items": [
            {**item(row), "neighbours": [{**item(n), "cosine": round(float(c), 4)} for n, c in zip(*pair, strict=True)]}
            for row, *pair in zip(found.rows.tolist(), found.nearest.tolist(), found.cosine, strict=True)
        ],
        "agreement": None if shares is None else {"field": label, **asdict(shares)},
        "out": None if out is None else str(out),
    }


def _print(dataset: Dataset, table: Features, found: Neighbours) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = f"Nearest by {table.modality}, {int(table.present.sum()):,} of {len(table.item_ids):,} items have a vector"
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False)
    shown.add_column("item")
    shown.add_column("neighbours (cosine)")
    for row, near, cosine in zip(found.rows, found.nearest, found.cosine, strict=True):
        names = [f"{_short(dataset, n)} ({c:.2f})" for n, c in zip(near.tolist(), cosine, strict=True)]
        shown.add_row(f"[bold]{escape(_short(dataset, int(row)))}[/]", escape(", ".join(names)))
    Console().print(shown)


def _short(dataset: Dataset, row: int) -> str:
    title = dataset.catalog.at(row).title
    return title if len(title) <= SHOWN else f"{title[: SHOWN - 1].rstrip()}…"


def _draw(
    out: Path, dataset: Dataset, table: Features, found: Neighbours, label: str, shares: Agreement | None
) -> None:
    """A row for each item asked about; neighbours that share the field are marked."""
    from palate.apps.contact_sheet import Cell, draw

    rows = []
    for row, near, cosine in zip(found.rows, found.nearest, found.cosine, strict=True):
        asked = dataset.catalog.at(int(row))
        value = asked.text.get(label, "")
        cells = [Cell(asked.title, asked.media.get("image"), value)]
        for n, c in zip(near, cosine, strict=True):
            item = dataset.catalog.at(int(n))
            same = bool(value) and item.text.get(label) == value
            cells.append(Cell(item.title, item.media.get("image"), f"{c:.2f} {item.text.get(label, '')}", same))
        rows.append(cells)
    title = f"{dataset.name}: items (left) and their nearest by {table.modality}"
    draw(out, rows, title, "" if shares is None else _sentence(label, shares))
