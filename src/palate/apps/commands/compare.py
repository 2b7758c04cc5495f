"""`palate compare`: one adapter for each setting of a config, trained alike, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("compare")(compare)


def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A run config, such as configs/ml-100k.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The same for all, such as train.epochs=2.")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="Values to compare, as model.fusion=feature,model; repeat it for a grid."),
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help='Sets of the config\'s features to compare, as "text; text,image; all".')
    ] = None,
    fuse: Annotated[
        str, typer.Option(help="Retrievers to mix with the first adapter on the level of decisions, as --against.")
    ] = "",
    against: Annotated[str, typer.Option(help="Baselines for the same table, comma-separated.")] = "",
    protocol: Annotated[
        str | None, typer.Option(help="What is asked, as in palate evaluate; by default the config's train.protocol.")
    ] = None,
    users: Annotated[int | None, typer.Option(min=1, help="A seeded draw of this many users; all if absent.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the evaluation; training is seeded by train.seed.")] = 1,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write FILE.md or FILE.json.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> int:
    """Train an adapter for each setting, everything else alike, and evaluate all on the same held-out lists.

    Runs go to runs/NAME-SETTING and resume: after an interruption the same command goes on.

    Example: palate compare configs/modalities.yaml --vary model.fusion=feature,model --fuse ease,dense:modality=image
    """
    from palate.apps.arms import arms
    from palate.apps.commands.evaluate import evaluate
    from palate.train import read_config, run
    from palate.train.prepare import open_dataset

    config = read_config(file, overrides or ())
    chosen = arms(file, overrides or (), vary or (), modalities)
    for place, arm in enumerate(chosen, 1):
        typer.echo(f"{place} of {len(chosen)}: {arm.name}", err=True)
        outcome = run(file, arm.overrides)
        if outcome.stopped:
            typer.echo(f"stopped at step {outcome.step} of {outcome.total}; the same command goes on", err=True)
            return 128 + outcome.stopped
    evaluate(
        open_dataset(config).folder,
        adapter=[arm.bundle for arm in chosen],
        against=against,
        protocol=protocol or config.train.protocol,
        fuse=fuse,
        users=users,
        seed=seed,
        output=output,
        as_json=as_json,
    )
    return 0
