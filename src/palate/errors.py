"""The exception tree: every error Palate raises on purpose.

PalateError                 what was expected, what came, how to fix it; `palate` exits with code 2
├── ConfigError             a config or dataset.yaml key or value is wrong
│   └── TrainingDiverged    the loss is no longer a number
├── SourceError             a model or data source cannot be fetched, or its hash differs
├── DataError               a table, candidate file or data set folder is wrong
│   └── TooManyRejects      more bad rows than the stated limit
├── FeatureError            an encoder or a stored feature table does not fit
├── TemplateError           a prompt template is malformed or misses a variable
│   └── BudgetError         the prompt cannot be cut to the token budget
├── BundleError             an adapter bundle does not fit this base, template, encoder or data
├── SlotError               soft-token slots and vectors do not match
└── RequestError            a request names an unknown item, has no candidates, ...
    └── EmptyLegalSet       the filters leave nothing to generate or recommend
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PalateError(Exception):
    """A mistake a user can mend. Its text says what was expected, what came and how to fix it."""


class PalateWarning(UserWarning):
    """Something was left out and work went on, such as a picture that cannot be read."""


class ConfigError(PalateError):
    """A config or dataset.yaml key or value is wrong."""


class TrainingDiverged(ConfigError):
    """The loss of a training run is no longer a number."""


class SourceError(PalateError):
    """A model or data source cannot be fetched, or is not what its hash promises."""


class DataError(PalateError):
    """A table, candidate file or data set folder is wrong."""


class TooManyRejects(DataError):
    """More rows were rejected than the stated limit allows."""


class FeatureError(PalateError):
    """An encoder or a stored feature table does not fit."""


class TemplateError(PalateError):
    """A prompt template is malformed or misses a variable."""


class BudgetError(TemplateError):
    """A prompt stays over its token budget even with an empty history."""


class BundleError(PalateError):
    """An adapter bundle does not fit this base model, template, encoder or data set."""


class SlotError(PalateError):
    """Soft-token slots and the vectors meant for them do not match."""


class RequestError(PalateError):
    """A scoring or recommendation request is wrong."""


class EmptyLegalSet(RequestError):
    """The filters leave no item to recommend or generate."""


def spelt(text: str) -> str:
    """The text with half characters (lone surrogates), which JSON can spell and no file can hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def did_you_mean(word: str, known: Iterable[str], limit: int = 12) -> str:
    """A closing clause for an error text: the nearest known word, else the choices."""
    names = sorted(map(str, known))
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    shown = ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
    return f"choose one of: {shown}" if names else "there is nothing to choose from"
