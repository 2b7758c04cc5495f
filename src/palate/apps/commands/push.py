"""`palate push`: a bundle to a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.apps import shared

if TYPE_CHECKING:
    from palate.apps.push import Plan


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("push")(push)


def push(
    bundle: Annotated[Path, typer.Argument(help="Adapter bundle folder.", metavar="BUNDLE")],
    repository: Annotated[str, typer.Argument(help="Where to: ORG/NAME.", metavar="ORG/NAME")],
    private: Annotated[bool, typer.Option("--private/--public", help="Who may see a repository that is made.")] = True,
    revision: Annotated[str, typer.Option("--revision", help="The branch to commit to.")] = "main",
    message: Annotated[str | None, typer.Option("-m", "--message", help="What the commit says.")] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="What to call the base there: hub:ORG/NAME, where it is a local path here."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be sent, and send nothing.")] = False,
    as_json: shared.AsJson = False,
) -> None:
    """Send a bundle to a model hub, from where `-a hub:ORG/NAME` loads it: weights and item vectors, nobody's history.

    Example: palate push adapters/ml-100k my-shop/films --dry-run
    """
    from palate.apps import push as pushing
    from palate.recommender import loading

    pushing.check_name(repository)
    folder = loading.resolve(bundle).bundle or bundle
    chosen = pushing.plan(folder, base)
    if dry_run:
        _show(chosen, repository, private, as_json)
        return
    with shared.spinner(f"pushing to {repository}"):
        done = pushing.push(chosen, repository, private=private, revision=revision, message=message)
    if as_json:
        shared.print_json({"source": done.source, "url": done.url, "commit": done.commit, "bytes": chosen.size})
        return
    typer.echo(f"{len(chosen.files)} files, {chosen.size / 1e6:,.1f} MB, to {done.url}")
    typer.echo(f"load it with -a {done.source}")


def _show(chosen: Plan, repository: str, private: bool, as_json: bool) -> None:
    files = {f.name: f.size for f in chosen.files}
    if as_json:
        shared.print_json(
            {"repository": repository, "private": private, "files": files, "left_out": list(chosen.left_out)}
        )
        return
    for name, size in files.items():
        typer.echo(f"{size:>13,}  {name}")
    for name in chosen.left_out:
        typer.echo(f"{'left out':>13}  {name}")
    kind = "private" if private else "public"
    typer.echo(f"{chosen.size:>13,}  bytes to {repository} ({kind} where it is made); nothing was sent")
