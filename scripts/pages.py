"""`make docs`: docs/cli.md from the commands, docs/config.md from the config classes. A test fails where they differ.

python scripts/pages.py            write both
python scripts/pages.py --check    write nothing; exit code 1 where one is not what the code says
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tools import ROOT, say

MADE = "<!-- Made by `python scripts/pages.py` from the code; do not edit. -->\n\n"
EXAMPLE = re.compile(r"^\s*Example: ?", re.MULTILINE)


# --- the command line -----------------------------------------------------------------------------------


def cli_page() -> str:
    """docs/cli.md: every command with its arguments, options and an example."""
    from typer.main import get_command

    from palate.apps.cli import build

    root: Any = get_command(build())
    found = list(_commands("palate", root))
    lines = ["# Commands", "", "Every command takes `--help`, and `--debug` for the traceback of an error.", ""]
    lines += [f"- [`{name}`](#{_anchor(name)}): {_first(command.help)}" for name, command in found]
    for name, command in found:
        lines += ["", f"## {name}", "", *_help(command.help), *_parameters(command)]
    return MADE + "\n".join(lines) + "\n"


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """(full name, command) of all that can be run, in the order of the help page."""
    for name, sub in getattr(command, "commands", {}).items():
        if sub.hidden:
            continue
        if not getattr(sub, "commands", None) or sub.invoke_without_command:
            yield f"{path} {name}", sub
        yield from _commands(f"{path} {name}", sub)


def _anchor(heading: str) -> str:
    return heading.replace(" ", "-")


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(p.split()) for p in re.split(r"\n\s*\n", textwrap.dedent(text or "").strip())]


def _first(text: str | None) -> str:
    """The first sentence of a help text."""
    whole = EXAMPLE.split(_paragraphs(text)[0])[0]
    return re.split(r"(?<=[a-z)])\. ", whole)[0].rstrip(". :")


def _help(text: str | None) -> list[str]:
    lines: list[str] = []
    for paragraph in _paragraphs(text):
        said, *examples = (
            EXAMPLE.split(paragraph) if paragraph.startswith("Example") else re.split(r" Example: ", paragraph)
        )
        if said.strip():
            lines += [said.strip(), ""]
        for example in examples:
            lines += ["```bash", example.strip(), "```", ""]
    return lines


def _parameters(command: Any) -> list[str]:
    shown = [p for p in command.params if not getattr(p, "hidden", False) and "--help" not in p.opts]
    if not shown:
        return []
    rows = ["| | | default |", "|---|---|---|"]
    return rows + [f"| {_named(p)} | {_cell(getattr(p, 'help', '') or '')} | {_default(p)} |" for p in shown]


def _named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    names = [*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts]
    return ", ".join(f"`{n}`" for n in names)


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value == () or value == [] or value == "" or callable(value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"`{value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# --- the config files -----------------------------------------------------------------------------------


def config_page() -> str:
    """docs/config.md: every key of the run config, the tune file and dataset.yaml."""
    from palate.config import RunConfig
    from palate.data import DatasetSpec
    from palate.train.tune.file import TuneConfig

    files: Sequence[tuple[str, str, Any]] = (
        ("Run config", "`palate train FILE`, such as `configs/ml-100k.yaml`; on a command line as `train.epochs=2`.",
         RunConfig),
        ("Tune file", "`palate tune FILE`, such as `configs/ml-100k-tune.yaml`.", TuneConfig),
        ("dataset.yaml", "What a data set folder has, and what its columns mean.", DatasetSpec),
    )  # fmt: skip
    parts = ["# Config files", "", "YAML. An unknown key is an error that suggests the right one.", ""]
    for title, said, model in files:
        parts += [f"## {title}", "", said, ""]
        for path, one in _models("", model):
            parts += [f"### {path}", ""] if path else []
            parts += [_docstring(one), "", "| key | type | default | |", "|---|---|---|---|"]
            parts += [_field(name, field, _notes(one).get(name, "")) for name, field in one.model_fields.items()]
            parts += [""]
    return MADE + "\n".join(parts).rstrip() + "\n"


def _models(path: str, model: Any) -> Iterator[tuple[str, Any]]:
    """(dotted key, config class) of a class and those inside it, outermost first; NAME stands for a mapping's key."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = _inner(field.annotation)
        if inner is not None:
            mapped = "dict" in str(field.annotation)
            yield from _models(".".join(p for p in (path, name, "NAME" if mapped else "") if p), inner)


def _inner(annotation: Any) -> Any:
    """The config class in an annotation, if any."""
    from palate.config import Config

    if inspect.isclass(annotation) and issubclass(annotation, Config):
        return annotation
    return next((c for a in getattr(annotation, "__args__", ()) if (c := _inner(a)) is not None), None)


def _docstring(model: Any) -> str:
    return " ".join(inspect.cleandoc(model.__doc__ or "").split())


def _notes(model: Any) -> dict[str, str]:
    """Field -> the string behind it in the source, those of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if "model_fields" not in dir(cls) or cls.__module__.startswith("pydantic"):
            continue
        [node] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(node, ast.ClassDef)
        for before, after in zip(node.body, node.body[1:], strict=False):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(said, str):
                found[before.target.id] = " ".join(said.split())
    return found


def _field(name: str, field: Any, note: str) -> str:
    inner = _inner(field.annotation)
    kind = _type(field.annotation)
    bounds = [f"{w} {getattr(m, a)}" for m in field.metadata for a, w in BOUNDS if getattr(m, a, None) is not None]
    default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
    told = note or ("see below" if inner is not None else "")
    return f"| `{name}` | {', '.join([kind, *bounds])} | {default} | {_cell(told)} |"


BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def _type(annotation: Any) -> str:
    """An annotation in words of YAML."""
    from typing import Literal, get_args, get_origin

    if annotation is type(None):
        return "null"
    if _inner(annotation) is annotation:
        return "mapping"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{p}`" for p in parts)
    if origin is dict:
        return "mapping"
    if origin in (list, tuple):
        return f"list of {_type(parts[0])}" if parts else "list"
    if parts:
        return " or ".join(dict.fromkeys(_type(p) for p in parts))
    names = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, name)


def _value(value: Any) -> str:
    from pydantic import BaseModel

    if value is None:
        return "null"
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return f"`{{{', '.join(value)}}}`" if value else "`{}`"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


# --- both -----------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """File -> what it should say."""
    return {ROOT / "docs" / "cli.md": cli_page(), ROOT / "docs" / "config.md": config_page()}


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/ that follow from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing, say what differs")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        say(
            f"{path.relative_to(ROOT)}: {'not what the code says; run python scripts/pages.py' if check else 'written'}"
        )
        if not check:
            path.write_text(pages()[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
