"""The command line: finds the commands, runs one, and turns errors into one clear line and an exit code.

Exit codes: 0 done, 2 a mistake the user can mend, 130 interrupted, 1 anything unexpected.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

import palate
from palate.apps import commands
from palate.errors import PalateError, PalateWarning

ORDER = (
    "demo", "data", "features", "neighbours", "train", "score", "recommend", "chat", "evaluate", "report", "tune",
    "explain", "serve", "export", "push", "user-data", "forget", "models", "doctor",
)  # fmt: skip
"""The order of `palate --help`: as a newcomer meets them. Commands not named here follow by name."""

HELP = """A multimodal recommender that lives inside a language model you own.

Example: palate recommend --history "Alien" --history "Heat" -a adapters/ml-100k
"""


def build(package: Any = commands) -> typer.Typer:
    """The app with every command module of `package`.

    A module that cannot be imported becomes a command that says so when it is run: the others keep working.
    """
    app = typer.Typer(
        name="palate",
        help=HELP,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    app.callback(invoke_without_command=True)(_root)
    names = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    for name in sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n)):
        try:
            import_module(f"{package.__name__}.{name}").register(app)
        except Exception as error:
            _placeholder(app, name, error)
    return app


def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the whole traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    if version:
        typer.echo(f"palate {palate.__version__}")
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _placeholder(app: typer.Typer, name: str, error: Exception) -> None:
    reason = f"{type(error).__name__}: {error}"

    @app.command(name, help=f"Not available here ({reason}).\n\nExample: palate doctor")
    def broken() -> None:
        raise PalateError(f"command {name!r} cannot be loaded: {reason}; `palate doctor` shows what is missing")


def run(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code; errors become one line on stderr."""
    args, debug = _take_debug(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", PalateWarning)
            warnings.showwarning = _show_warning
            result = build()(args=args, prog_name="palate", standalone_mode=False)
        sys.stdout.flush()
    except PalateError as error:
        return _report(error, 2, debug)
    except typer.TyperException as error:
        return _usage(error, debug)
    except typer.Abort:
        return 130
    except KeyboardInterrupt:
        typer.echo("palate: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # the reader has gone (`palate ... | head`): say nothing, and keep the final flush from complaining
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())
        typer.echo(
            f"palate: unexpected {type(error).__name__}: {text}; run again with --debug for the traceback",
            err=True,
        )
        return 1
    return result if isinstance(result, int) else 0


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Our own warnings as one line; those of libraries only where PYTHONWARNINGS asks for them."""
    if issubclass(category, PalateWarning) or issubclass(category, UserWarning):
        typer.echo(f"palate: warning: {' '.join(str(message).split())}", err=True)
    elif sys.warnoptions:
        typer.echo(warnings.formatwarning(message, category, *where[:2]), err=True)


def _take_debug(argv: Sequence[str]) -> tuple[list[str], bool]:
    """Take --debug from anywhere before a bare `--`."""
    args = list(argv)
    end = args.index("--") if "--" in args else len(args)
    kept = [a for a in args[:end] if a != "--debug"]
    return kept + args[end:], len(kept) < end


def _report(error: PalateError, code: int, debug: bool) -> int:
    if debug:
        raise error
    typer.echo(f"palate: {error}", err=True)
    return code


def _usage(error: typer.TyperException, debug: bool) -> int:
    if debug:
        raise error
    ctx = getattr(error, "ctx", None)
    where = ctx.command_path if ctx is not None else "palate"
    text = " ".join(error.format_message().split()).rstrip(".")
    typer.echo(f"palate: {text}; see `{where} --help`", err=True)
    return 2


def main() -> NoReturn:
    """The `palate` program."""
    sys.exit(run(sys.argv[1:]))
