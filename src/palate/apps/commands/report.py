"""palate report: results of `palate evaluate` as one page, as Markdown, or as numbers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palate.apps.shared import command_line
from palate.errors import ConfigError

if TYPE_CHECKING:
    from palate.apps.report.build import Material

HELP = """Write a report of results: tables with intervals, differences, curves, slices, ablations, examples.

Several files may be of several protocols, seeds and systems, all on one data set. -o FILE.html writes one page that
opens by itself, FILE.md the same as Markdown, FILE.json its numbers without users, items and ranks (which `palate
report` reads as well); a folder gets report.html and report.md. --into puts the main table between two markers of a
text file. --data adds slices and examples with pictures; who makes a page of pictures answers for their licence.

Example: palate report loo-full.json loo-20.json --data data/ml-100k -o report.html
"""
SUFFIXES = (".html", ".md", ".json")


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("report", help=HELP)(report)


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS.json...", help="Written by palate evaluate -o.")],
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="FILE.html, FILE.md, FILE.json or a folder; repeat it for several."),
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(help="Put the main table between the markers <!-- report:begin --> and end of a file."),
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Data set folder of the results.")] = None,
    adapter: Annotated[Path | None, typer.Option("-a", "--adapter", help="Adapter bundle, for its facts.")] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="Run folder, for its learning curve; repeatable.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="SYSTEM=NAME to call it by; systems that share a name are averaged. Repeatable."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The system that others are subtracted from; the first if absent.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
    examples: Annotated[int, typer.Option(min=0, max=50, help="How many users to show.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seeds the draw of those users.")] = 1,
) -> None:
    paths = _outputs(output or [])
    if not paths and into is None:
        raise ConfigError(
            "there is nothing to write; name a file or folder with -o, or a file with markers with --into"
        )
    from palate.apps.report import build, markdown
    from palate.apps.report.build import Asked

    asked = Asked(
        results, data, adapter, runs or (), name or (), reference, title, examples, seed, command_line()
    )  # fmt: skip
    found = build.gather(asked)
    if into is not None:
        markdown.put_into(into, found.main)
        typer.echo(f"wrote the main table into {into}")
    for path, text in _texts(paths, found):
        _write(path, text)
        typer.echo(f"wrote {path} ({len(text.encode('utf-8', 'replace')):,} bytes)")


def _outputs(given: list[Path]) -> list[Path]:
    """The files to write; ConfigError, before anything is read, where one cannot be."""
    found: list[Path] = []
    for path in given:
        if path.is_dir() or not path.suffix:
            found += [path / "report.html", path / "report.md"]
            continue
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigError(
                f"--output: expected a folder or a file that ends in .html, .md or .json, got {str(path)!r}"
            )
        if not path.parent.is_dir():
            raise ConfigError(f"--output: expected an existing folder, got {str(path.parent)!r}; make it first")
        found.append(path)
    return found


def _texts(paths: list[Path], found: Material) -> list[tuple[Path, str]]:
    from palate.apps.report import build
    from palate.apps.report.markdown import markdown
    from palate.apps.report.page import page
    from palate.apps.report.summary import summary

    whole = build.report(found) if any(p.suffix.lower() != ".json" for p in paths) else None
    made = []
    for path in paths:
        if whole is None or path.suffix.lower() == ".json":
            made.append((path, summary(found.columns, found.ratings, found.reference, command_line())))
        else:
            made.append((path, page(whole) if path.suffix.lower() == ".html" else markdown(whole)))
    return made


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(f"--output: cannot write {path}: {error.strerror or error}") from None
