"""Pushing a bundle to a model hub: what may leave the machine, checked, in one commit.

A bundle is weights, item vectors and a description. What else lies in its folder is not sent, and a bundle that names
people or places of this machine is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palate.errors import BundleError, ConfigError, PalateError, SourceError
from palate.model import bundle as bundles
from palate.model.card import card

FILES = (*bundles.FILES, "features.safetensors", "README.md")
KEYS = {
    "format", "name", "base", "base_sha256", "model", "fingerprints", "data", "encoders", "captions", "templates",
    "prompt", "config", "training", "metrics", "decision", "news", "manifest",
}  # fmt: skip
"""What palate.json may say. Another key is a reason to look before anything is sent."""
DATA = {"name", "fingerprint", "users", "items", "interactions"}
TABLES = {"format", "item_ids", "tokens"}
"""Keys in the headers of safetensors files."""
_PATH = re.compile(r"(^|path:)(/|~|[A-Za-z]:\\)")


@dataclass(frozen=True)
class File:
    """One file of a push: its name in the repository and its bytes, of a file here or written for the push."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Plan:
    """What is sent, and what of the folder is left out."""

    files: tuple[File, ...]
    left_out: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


@dataclass(frozen=True)
class Pushed:
    """Where a bundle went: `source` is what `Recommender.load` takes, pinned to the commit."""

    source: str
    url: str
    commit: str


def plan(bundle: Path, base: str | None = None) -> Plan:
    """The files of a push, checked.

    base: what the pushed bundle calls its base, in the place of its own name for it (its hash stays, and is checked by
    whoever loads it). Raises BundleError where the folder holds what does not belong to a bundle, a link, people, or
    places of this machine.
    """
    meta = bundles.read_meta(bundle)
    found = sorted(p for p in bundle.rglob("*") if not p.is_dir())
    hidden = tuple(str(p.relative_to(bundle)) for p in found if p.relative_to(bundle).parts[0].startswith("."))
    names = {str(p.relative_to(bundle)): p for p in found}
    strange = [n for n in names if n not in FILES and n not in hidden]
    if strange:
        raise BundleError(
            f"{bundle}: expected the files of a bundle alone ({', '.join(FILES)}), it also holds "
            f"{', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}; move them away, nothing was sent"
        )
    links = [n for n in FILES if n in names and names[n].is_symlink()]
    if links:
        raise BundleError(f"{bundle}/{links[0]}: expected a file, got a link; copy the bundle to a folder of its own")
    rewritten = {} if base is None else _rebased(bundle, meta, base)
    if base is not None:
        meta = json.loads(rewritten["palate.json"])
    _check_meta(bundle, meta)
    for name in names:
        if name.endswith(".safetensors") and name in FILES:
            _check_tensors(bundle / name, meta)
    return Plan(tuple(File(n, rewritten.get(n, names[n])) for n in FILES if n in names), hidden)


def _rebased(bundle: Path, meta: dict[str, Any], base: str) -> dict[str, bytes]:
    """The files that name the base, naming it otherwise."""
    from palate.sources.spec import parse

    parse(base)
    changed = {**meta, "base": base, "model": {**meta["model"], "base": base}}
    if isinstance(meta.get("config"), dict) and "model" in meta["config"]:
        changed["config"] = {**meta["config"], "model": {**meta["config"]["model"], "base": base}}
    adapter = json.loads((bundle / "adapter_config.json").read_text(encoding="utf-8"))
    adapter["base_model_name_or_path"] = base
    return {
        "palate.json": (json.dumps(changed, indent=2, sort_keys=True) + "\n").encode(),
        "adapter_config.json": (json.dumps(adapter, indent=2, sort_keys=True) + "\n").encode(),
        "README.md": card(str(meta.get("name") or bundle.name), changed).encode(),
    }


def _check_meta(bundle: Path, meta: dict[str, Any]) -> None:
    where = f"{bundle}/palate.json"
    if unknown := sorted(set(meta) - KEYS):
        raise BundleError(f"{where}: expected what training writes, got the key {unknown[0]!r}; take it out to push")
    data = meta.get("data", {})
    odd = (
        [k for k, v in data.items() if k not in DATA or not isinstance(v, str | int)] if isinstance(data, dict) else []
    )
    if odd:
        raise BundleError(
            f"{where}: data.{odd[0]}: expected the data set's name and numbers alone; take it out to push"
        )
    for key, value in _leaves(meta):
        if isinstance(value, str) and _PATH.search(value):
            hint = "push with --base hub:ORG/NAME" if key.endswith("base") else "train with a source others can fetch"
            raise BundleError(f"{where}: {key} is {value!r}, a place of this machine that nobody else has; {hint}")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for n, part in enumerate(value):
            yield from _leaves(part, f"{key}.{n}")
    else:
        yield key, value


def _check_tensors(file: Path, meta: dict[str, Any]) -> None:
    """BundleError where a file is no safetensors or holds tables that are not of items."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            names, facts = list(opened.keys()), opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{file}: expected safetensors: {error}") from None
    if unknown := sorted(set(facts) - TABLES):
        raise BundleError(f"{file}: its header says {unknown[0]!r}, which no bundle does; take it out to push")
    expected = {f"{m}.{part}" for m in meta.get("fingerprints", {}) for part in ("vectors", "present")}
    if file.name == "features.safetensors" and (strange := sorted(set(names) - expected)):
        raise BundleError(f"{file}: expected vectors of items alone, got the table {strange[0]!r}; take it out to push")


def push(
    chosen: Plan, repository: str, *, private: bool = True, revision: str = "main", message: str | None = None
) -> Pushed:
    """Send the files in one commit; the repository is made where there is none.

    The key is huggingface_hub's own (HF_TOKEN, or `hf auth login`), the hub that of HF_ENDPOINT. Raises SourceError
    without a network or a key that may write, ConfigError for a public repository where private was asked for.
    """
    from palate.sources import offline

    check_name(repository)
    if offline():
        raise SourceError("PALATE_OFFLINE forbids the network; unset it to push")
    import huggingface_hub as hub
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    api = hub.HfApi(library_name="palate")
    with _telling(repository):
        try:
            public = not api.repo_info(repository).private
        except RepositoryNotFoundError:
            public = False
            api.create_repo(repository, private=private)
    if private and public:
        raise ConfigError(f"{repository} is public; push there with --public, or choose another name")
    disable_progress_bars()
    try:
        with _telling(repository):
            if revision != "main":
                api.create_branch(repository, branch=revision, exist_ok=True)
            done = api.create_commit(
                repository,
                [hub.CommitOperationAdd(f.name, f.content) for f in chosen.files],
                commit_message=message or "Palate adapter bundle",
                revision=revision,
            )
    finally:
        enable_progress_bars()
    return Pushed(f"hub:{repository}@{done.oid}", str(done.repo_url), str(done.oid))


def check_name(repository: str) -> None:
    """ConfigError unless it is ORG/NAME."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"expected a repository as ORG/NAME, got {repository!r}")


@contextmanager
def _telling(repository: str) -> Iterator[None]:
    """Errors of the hub's client as one SourceError that says what to do. The key is never in it."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except PalateError:
        raise
    except LocalTokenNotFoundError:
        raise SourceError(f"pushing to {repository} needs a key: run `hf auth login`, or set HF_TOKEN") from None
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status == 401:
            hint = "no key, or one the hub does not know: run `hf auth login`, or set HF_TOKEN"
        elif status == 403:
            hint = "the key may not write there: use one with write access, or another name"
        else:
            hint = "try again later"
        raise SourceError(f"the hub refused {repository} ({status}: {_first(error, get_token())}); {hint}") from None
    except Exception as error:
        # the client raises httpx, OS and value errors alike where it reaches nobody
        raise SourceError(
            f"cannot push to {repository}: {_first(error, get_token())}; check the network and HF_ENDPOINT"
        ) from None


def _first(error: BaseException, token: str | None) -> str:
    cause = error.__cause__ or error  # the client wraps what went wrong with one file in an error that names it alone
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[0] if lines else type(cause).__name__
    return text.replace(token, "***") if token else text
