"""Export: a bundle in, a folder out, with a note that says what it is, what is lost, and the hash of every file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import palate
from palate import prompting
from palate.apps.export import folder as folders
from palate.apps.export.targets import Export, Options, target
from palate.errors import BundleError, ConfigError, TemplateError
from palate.model import bundle as bundles
from palate.recommender import loading
from palate.sources.cache import files_under, sha256_file

FORMAT = 1
ASKED = ("yes_no", "rating", "letters", "next_item")
"""Templates whose answers an engine can score; they are noted whether or not the adapter was trained on them."""


def export(path: str, to: str, out: Path, options: Options, force: bool = False) -> dict[str, Any]:
    """Write the bundle at `path` as the target `to` into the folder `out`; returns the note.

    Raises ConfigError where `out` may not be written or an option does not go with the target, BundleError where the
    bundle is none or damaged.
    """
    chosen = target(to)
    _check_options(to, chosen.takes, options)
    found = loading.resolve(path)
    if found.bundle is None:
        raise BundleError(f"{path}: expected an adapter bundle to export, got a base model; it is served as it is")
    bundle = found.bundle
    meta = loading.read_meta(found)
    folders.check(out, force)
    if bundle.resolve() in (out.resolve(), *out.resolve().parents):
        raise ConfigError(f"-o {out}: expected a folder outside the bundle {bundle}")
    with folders.whole(out) as new:
        made = chosen.write(bundle, new, options)
        note = _note(to, found.name or bundle.resolve().name, bundle, meta, made)
        _write(new, out, note, made)
    return note


def read_note(folder: str | Path) -> dict[str, Any]:
    """palate-export.json of an export. Raises BundleError where there is none."""
    file = Path(folder) / folders.NOTE
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        if note["format"] != FORMAT:
            raise ValueError(f"format {note['format']!r}, expected {FORMAT}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BundleError(f"{folder}: expected a folder that `palate export` wrote, cannot read it: {error}") from None
    return dict(note)


def _check_options(to: str, takes: frozenset[str], options: Options) -> None:
    default = Options()
    for name in ("merge", "converter", "outtype"):
        if getattr(options, name) != getattr(default, name) and name not in takes:
            raise ConfigError(f"--{name} does not go with --to {to}; leave it out")


def _note(to: str, name: str, bundle: Path, meta: dict[str, Any], made: Export) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "palate": palate.__version__,
        "target": to,
        "bundle": {
            "name": name,
            "base": meta["base"],
            "base_sha256": meta["base_sha256"],
            "sha256": {f: sha256_file(bundle / f) for f in bundles.FILES},
        },
        "data": meta.get("data", {}),
        "captions": meta.get("captions", {}),
        "prompt": meta.get("prompt", {}),
        "trained_templates": meta.get("templates", {}),
        "templates": _templates(meta),
        "model": made.model,
        **made.more,
        "lost": list(made.lost),
    }


def _templates(meta: dict[str, Any]) -> dict[str, Any]:
    """Hash and labels of the templates an engine can answer, in the bundle's language."""
    config = loading.prompt_config(meta)
    found = {}
    for name in ASKED:
        try:
            template = prompting.chosen(name, config)
        except TemplateError:
            continue  # not written in this language
        found[name] = {"file": template.name, "hash": template.hash, "labels": list(template.labels)}
    return found


def _write(folder: Path, out: Path, note: dict[str, Any], made: Export) -> None:
    note["files"] = {name: sha256_file(file) for name, file in files_under(folder)}
    (folder / "README.md").write_text(_readme(out, note, made), encoding="utf-8")
    (folder / folders.NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _readme(out: Path, note: dict[str, Any], made: Export) -> str:
    model, bundle = note["model"], note["bundle"]
    held = {"merged": "with the adapter's LoRA added in", "adapter": "as it was, the LoRA beside it in `adapter/`"}
    lines = [
        f"# {bundle['name']} for {note['target']}",
        "",
        f"`palate export --to {note['target']}`, Palate {note['palate']}. Base `{bundle['base']}` (sha256 "
        f"`{bundle['base_sha256'][:16]}`), {model['layers']} layers, {model['dtype']}, {held[model['lora']]}.",
        "",
        "Lost on the way:",
        "",
        *(f"- {line}" for line in note["lost"]),
        "",
        "The adapter was trained on the templates "
        + (", ".join(f"`{t}`" for t in note["trained_templates"]) or "of no record")
        + "; what others make it answer is the base's guess.",
        "",
        made.use.replace("DIR", out.name).rstrip(),
        "",
        "`palate-export.json` has the hashes of these files, the templates with their labels, and the prompt's limits.",
        "",
    ]
    return "\n".join(lines)
