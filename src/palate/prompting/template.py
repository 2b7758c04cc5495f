"""Prompt templates: one YAML file of sandboxed Jinja pieces, checked when it is loaded.

    name: yes_no            mode: yes_no           language: en         chat: true
    system: ...             user: ... {{ history }} ...                 history_item: "- {{ item.title }}\\n"
    branch: ...             labels: ["Yes", "No"]

Shipped templates lie in `prompts/LANGUAGE/NAME.yaml`; any other file is loaded by its path.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jinja2
from jinja2 import meta
from jinja2.exceptions import SecurityError
from pydantic import Field

from palate.config import Config, PromptConfig, read_yaml
from palate.errors import ConfigError, TemplateError, did_you_mean
from palate.prompting import sandbox

Mode = Literal["likelihood", "yes_no", "letters", "rating", "rated", "explain", "chat", "embedding"]

_REQUEST = ("wording", "labels", "profile", "context", "query")
VARIABLES: dict[str, tuple[str, ...]] = {
    "system": (*_REQUEST, "history", "candidates", "facts"),
    "user": (*_REQUEST, "history", "candidates", "facts"),
    "history_item": ("wording", "item", "event", "gap", "media"),
    "candidate_item": ("wording", "item", "label", "media"),
    "branch": (*_REQUEST, "item", "media"),
    "answer": ("wording", "item"),
}
"""The variables each piece may use. Anything else is refused when the file is loaded."""

_NEEDS: dict[str, tuple[str, ...]] = {
    "likelihood": ("answer",),
    "yes_no": ("branch", "labels"),
    "rating": ("branch", "labels"),
    "rated": ("branch", "labels"),
    "letters": ("candidate_item", "labels"),
}
_MAY: dict[str, tuple[str, ...]] = {**_NEEDS, "explain": ("candidate_item",), "chat": ("candidate_item",)}
_OPTIONAL = ("answer", "branch", "labels", "candidate_item", "max_candidates")
_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U0010ffff]")


class _File(Config):
    """The keys of a template file."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    mode: Mode
    language: str = "en"
    chat: bool = True
    system: str = ""
    user: str
    history_item: str
    candidate_item: str = ""
    branch: str = ""
    answer: str = ""
    labels: tuple[str, ...] = ()
    max_candidates: int | None = Field(None, ge=1)


@dataclass(frozen=True)
class Template:
    """A checked template. `hash`: sha256 of its content, whatever the YAML's layout; `source`: its file."""

    name: str
    mode: Mode
    language: str
    chat: bool
    labels: tuple[str, ...]
    max_candidates: int | None
    hash: str
    source: str = field(compare=False)
    pieces: Mapping[str, str] = field(repr=False, compare=False)
    _compiled: Mapping[str, jinja2.Template] = field(repr=False, compare=False)
    _uses: Mapping[str, frozenset[str]] = field(repr=False, compare=False)

    def has(self, piece: str) -> bool:
        """Whether the file fills this piece."""
        return bool(self.pieces[piece])

    def uses(self, piece: str) -> frozenset[str]:
        """The variables a piece mentions."""
        return self._uses[piece]

    @property
    def branching(self) -> bool:
        """Whether a candidate's branch goes on inside the user's turn (yes/no, rating)."""
        return self.has("branch")

    @property
    def dense(self) -> bool:
        """Whether the history is one packed sequence read at every item: long, and no answer is asked for in words."""
        return self.mode in ("embedding", "rated")

    @property
    def lists_candidates(self) -> bool:
        """Whether the prompt itself lists candidates (letters, explain, chat)."""
        return "candidates" in self.uses("user") | self.uses("system")

    def render(self, piece: str, values: Mapping[str, object]) -> str:
        """Fill one piece. Raises TemplateError naming the file, the piece, the variable and the choices."""
        try:
            return sandbox.filled(self._compiled[piece], values)
        except jinja2.UndefinedError as error:
            raise TemplateError(
                f"{self.source}: `{piece}`: {error.message}; available variables: "
                + ", ".join(VARIABLES[piece])
                + ". Test a field that may be absent with `{% if NAME is defined %}`"
            ) from None
        except SecurityError as error:
            raise TemplateError(f"{self.source}: `{piece}` is refused by the sandbox: {error}") from None
        except (
            jinja2.TemplateError,
            ArithmeticError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            raise TemplateError(f"{self.source}: `{piece}` cannot be filled: {type(error).__name__}: {error}") from None


def _compile(piece: str, text: str, source: str) -> tuple[jinja2.Template, frozenset[str]]:
    """Compile one piece; an unknown variable is an error now, not in the middle of a run."""
    try:
        tree, compiled = sandbox.compiled(text)
        used = frozenset(meta.find_undeclared_variables(tree))
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(
            f"{source}: `{piece}`, line {error.lineno} of the piece: not valid Jinja: {error.message}"
        ) from None
    except (jinja2.TemplateError, sandbox.Refused) as error:
        raise TemplateError(f"{source}: `{piece}`: {error}") from None
    unknown = sorted(used - set(VARIABLES[piece]))
    if unknown:
        raise TemplateError(
            f"{source}: `{piece}` uses the variable {unknown[0]!r}, which it does not have; "
            f"{did_you_mean(unknown[0], VARIABLES[piece])} (available: {', '.join(VARIABLES[piece])})"
        )
    return compiled, used


def _check(file: _File, uses: Mapping[str, frozenset[str]], source: str) -> None:
    """Rules that span several keys."""
    for key in _NEEDS.get(file.mode, ()):
        if not getattr(file, key):
            raise TemplateError(f"{source}: mode {file.mode!r} needs the key `{key}`; add it")
    for key in _OPTIONAL:
        extra = key == "max_candidates" and file.mode in ("letters", "chat", "explain")
        if getattr(file, key) and key not in _MAY.get(file.mode, ()) and not extra:
            raise TemplateError(f"{source}: mode {file.mode!r} has no use for the key `{key}`; remove it")
    shown = uses["user"] | uses["system"]
    if "history" not in shown:
        raise TemplateError(f"{source}: `user` must hold the placeholder {{{{ history }}}}; it is missing")
    if file.mode == "letters" and "candidates" not in shown:
        raise TemplateError(f"{source}: `user` must hold the placeholder {{{{ candidates }}}}; it is missing")
    if "candidates" in shown and not file.candidate_item:
        raise TemplateError(f"{source}: {{{{ candidates }}}} needs the key `candidate_item`; add it")
    if len(set(file.labels)) != len(file.labels) or not all(file.labels):
        raise TemplateError(f"{source}: `labels` must be different and not empty, got {list(file.labels)}")
    if file.mode == "yes_no" and len(file.labels) != 2:
        raise TemplateError(f"{source}: mode 'yes_no' needs two `labels`, yes first, got {len(file.labels)}")
    if file.mode == "letters" and (file.max_candidates or 0) > len(file.labels):
        raise TemplateError(
            f"{source}: `max_candidates` is {file.max_candidates}, but there are {len(file.labels)} labels"
        )


def parse(values: Any, source: str) -> Template:
    """A Template from the mapping a YAML file holds. `source` is named in errors. Raises TemplateError."""
    try:
        file = _File.parse(values, source)
    except ConfigError as error:
        hint = "; quote the labels: YAML reads Yes, No and 1 as other than text" if "labels" in str(error) else ""
        raise TemplateError(f"{error}{hint}") from None
    pieces = {p: str(getattr(file, p)) for p in VARIABLES}
    for piece, text in [*pieces.items(), *(("labels", label) for label in file.labels)]:
        if _PRIVATE_USE.search(text):
            raise TemplateError(
                f"{source}: `{piece}` holds a private-use character, which Palate keeps for itself; remove it"
            )
    built = {p: _compile(p, text, source) for p, text in pieces.items()}
    uses = {p: used for p, (_, used) in built.items()}
    _check(file, uses, source)
    canonical = json.dumps(file.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
    try:
        digest = hashlib.sha256(canonical.encode()).hexdigest()
    except UnicodeEncodeError:
        raise TemplateError(f"{source}: expected text, a value holds half of a character (a lone surrogate)") from None
    return Template(
        name=file.name, mode=file.mode, language=file.language, chat=file.chat, labels=file.labels,
        max_candidates=file.max_candidates, hash=digest,
        source=source, pieces=pieces, _compiled={p: t for p, (t, _) in built.items()}, _uses=uses,
    )  # fmt: skip


def folder() -> Path:
    """The shipped templates: `palate/prompts` in a wheel, the repository's `prompts` when editable."""
    here = Path(__file__).resolve()
    for place in (here.parents[1] / "prompts", here.parents[3] / "prompts"):
        if (place / "en").is_dir():
            return place
    raise TemplateError(f"expected the prompt templates in {here.parents[1] / 'prompts'}; reinstall palate")


def languages(where: str | Path | None = None) -> list[str]:
    """The languages templates are there for."""
    return sorted(p.name for p in Path(where or folder()).iterdir() if p.is_dir())


def names(language: str = "en", where: str | Path | None = None) -> list[str]:
    """The names of the templates in one language."""
    return sorted(p.stem for p in (Path(where or folder()) / language).glob("*.yaml"))


def load(name: str | Path, language: str = "en", where: str | Path | None = None) -> Template:
    """A template by name (`next_item`) or by the path of a YAML file.

    where: folder with LANGUAGE/NAME.yaml files; None takes the shipped ones. Raises TemplateError.
    """
    if isinstance(name, Path) or name.endswith((".yaml", ".yml")):
        path = Path(name)
    else:
        known = languages(where)
        if language not in known:
            raise TemplateError(f"no templates in the language {language!r}; {did_you_mean(language, known)}")
        if name not in names(language, where):
            choices = did_you_mean(name, names(language, where))
            raise TemplateError(f"no template is called {name!r} in language {language!r}; {choices}")
        path = Path(where or folder()) / language / f"{name}.yaml"
    try:
        values = read_yaml(path)
    except ConfigError as error:
        raise TemplateError(str(error)) from None
    return parse(values, str(path))


def chosen(name: str, config: PromptConfig) -> Template:
    """The template that a config uses where the shipped one is called `name`, in its language.

    Raises ConfigError where the config replaces a template there is not, or by one of another mode; TemplateError.
    """
    known = names(config.language)
    for replaced in config.templates:
        if known and replaced not in known:
            raise ConfigError(f"prompt.templates: no template is called {replaced!r}; {did_you_mean(replaced, known)}")
    found = load(config.template(name), config.language)
    if name in config.templates and found.mode != (own := load(name, config.language).mode):
        raise ConfigError(
            f"prompt.templates: expected a template of mode {own!r} in the place of {name!r}, got "
            f"{config.templates[name]!r} of mode {found.mode!r}"
        )
    return found
