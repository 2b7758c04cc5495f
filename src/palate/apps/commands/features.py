"""`palate features`: compute and cache item vectors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from palate.apps.shared import command_line

if TYPE_CHECKING:
    from palate.config import EncoderConfig
    from palate.data import Dataset
    from palate.features import FeatureSet, Problem
    from palate.schema import Item

SHOWN = 10
"""Problems printed in full; --json prints them all."""


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("features")(features)


def features(
    folder: Annotated[Path, typer.Argument(help="Data set folder", metavar="DIR")],
    modality: Annotated[
        str | None, typer.Option(help="Which, with commas; default: all the data set has", metavar="A,B")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Run config whose `features:` names the encoders")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the tables (.safetensors)")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object")] = False,
) -> None:
    """Turn pictures, texts and behaviour into vectors, cached by content: a second run only looks them up.

    Example: palate features data/ml-100k --modality image,behaviour
    """
    from palate.data import Dataset
    from palate.data.splits import leave_one_out
    from palate.features import compute, save_features

    dataset = Dataset.open(folder)
    items, unusable = _captioned(dataset, config, progress=not as_json)
    train = leave_one_out(dataset.histories.interactions).train
    chosen = _encoders(modality, config, items, learns=len(train.items) > 0)
    result = compute(items, train, chosen, progress=not as_json)
    result.problems.extend(unusable)
    if out is not None:
        save_features(out, result.tables, json.dumps(_made(dataset, result)))
    if as_json:
        typer.echo(json.dumps(_facts(result, out), ensure_ascii=False, indent=2))
    else:
        _print(result, out, len(items))


def _made(dataset: Dataset, result: FeatureSet) -> dict[str, Any]:
    """The run manifest; encoders are seeded by their options, which their fingerprints cover."""
    from palate.evaluate.environment import manifest

    prints = {m: table.fingerprint for m, table in result.tables.items()}
    return manifest(command_line(), None, {"data": dataset.fingerprint, "features": prints})


def _captioned(dataset: Dataset, config: Path | None, progress: bool) -> tuple[list[Item], list[Problem]]:
    """The items, with the text fields that the config's `captions:` writes, as training sees them."""
    from palate.config import RunConfig
    from palate.features import captions

    items = list(dataset.catalog.values())
    named = dict(RunConfig.load(config).captions) if config is not None else {}
    if not named:
        return items, []
    found = captions(items, named, progress=progress)
    return list(dataset.with_fields(found.texts).catalog.values()), found.problems


def _encoders(
    modality: str | None, config: Path | None, items: list[Item], learns: bool = True
) -> dict[str, EncoderConfig]:
    """Modality -> encoder config: the ones asked for, else the config's, else all that the items have.

    learns: whether there are interactions for the behaviour encoder.
    """
    from palate.config import EncoderConfig, RunConfig
    from palate.errors import ConfigError, did_you_mean
    from palate.features.encoders import PACKAGE, Encoder
    from palate.registry import plugins

    known = plugins(PACKAGE, Encoder)  # type: ignore[type-abstract]
    given = dict(RunConfig.load(config).features) if config is not None else {}
    if modality is None:
        media = {m for item in items for m in item.media}
        has = media | ({"text", "behaviour"} if learns else {"text"})
        return given or {name: EncoderConfig() for name in known if name in has}
    names = [name.strip() for name in modality.split(",") if name.strip()]
    for name in names:
        if name not in known and name not in given:
            raise ConfigError(f"--modality: there is no {name!r}; {did_you_mean(name, {*known, *given})}")
    if not names:
        raise ConfigError(f"--modality: expected names with commas, got {modality!r}; choose from {', '.join(known)}")
    return {name: given.get(name, EncoderConfig()) for name in names}


def _facts(result: FeatureSet, out: Path | None) -> dict[str, Any]:
    return {
        "modalities": {
            m: {**r.to_dict(), "fingerprint": result.tables[m].fingerprint} for m, r in result.report.items()
        },
        "problems": [p.to_dict() for p in result.problems],
        "out": None if out is None else str(out),
    }


def _print(result: FeatureSet, out: Path | None, total: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Features of {total} items")
    for column in ("modality", "width", "present", "missing", "failed", "cached", "new", "seconds"):
        table.add_column(column, justify="left" if column == "modality" else "right", no_wrap=True)
    for r in result.report.values():
        counts = (r.width, r.present, r.missing, r.failed, r.hits, r.computed)
        table.add_row(r.modality, *map(str, counts), f"{r.seconds:.2f}")
    Console().print(table)
    for problem in result.problems[:SHOWN]:
        typer.echo(f"  {problem}")
    if len(result.problems) > SHOWN:
        typer.echo(f"  and {len(result.problems) - SHOWN} more; --json prints them all")
    if out is not None:
        typer.echo(f"wrote {out}")
