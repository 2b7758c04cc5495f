"""`hub:` sources: a snapshot of a model repository; safetensors and text files only, never code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from palate.errors import SourceError
from palate.sources.cache import Manifest, files_under, record_payload
from palate.sources.spec import Spec

ALLOWED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"]
IGNORED = ["onnx/*", "openvino/*", "original/*"]


def fill(folder: Path, spec: Spec, progress: bool, offline: bool) -> Manifest:
    """Take a snapshot into the hub's own cache (shared with other tools) and point to it.

    No code is fetched: nothing here ever sets `trust_remote_code`.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    quiet = not progress and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        snapshot = Path(
            huggingface_hub.snapshot_download(
                spec.path,
                revision=spec.revision,
                allow_patterns=ALLOWED,
                ignore_patterns=IGNORED,
                local_files_only=offline,
            )
        )
    except LocalEntryNotFoundError as error:
        raise SourceError(f"{spec.text} is not cached and cannot be downloaded: {_first(error)}") from None
    except Exception as error:
        # the hub client raises httpx, OS and validation errors alike; each means "no snapshot"
        raise SourceError(
            f"{spec.text} cannot be fetched: {_first(error)}; check the name, the revision, your access "
            "(`hf auth login`) and the network"
        ) from None
    finally:
        if quiet:
            enable_progress_bars()
    check_complete(snapshot, spec.text)
    return Manifest(source=spec.text, payload=str(snapshot), files=record_payload(snapshot, _known(snapshot)))


def check_complete(snapshot: Path, label: str) -> None:
    """A SourceError unless there are safetensors weights, with every shard that the index names."""
    names = {name for name, _ in files_under(snapshot)}
    index = snapshot / "model.safetensors.index.json"
    needed = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    missing = sorted(needed - names)
    if missing:
        raise SourceError(f"{label}: the snapshot misses {', '.join(missing[:3])}; fetch it again with a network")
    if not any(name.endswith(".safetensors") for name in names):
        raise SourceError(
            f"{label}: no safetensors weights there (pickled weights are refused); "
            "choose a repository or revision that has them"
        )


def _known(snapshot: Path) -> dict[str, str]:
    """Large files are stored under their sha256 as name; no need to read them again."""
    known = {}
    for name, file in files_under(snapshot):
        blob = file.resolve()
        if blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name):
            known[name] = blob.name
    return known


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
