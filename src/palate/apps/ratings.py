"""`palate evaluate --protocol rating`: predicted ratings, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from palate.errors import ConfigError

if TYPE_CHECKING:
    from palate.evaluate import Protocol
    from palate.evaluate.rating import RatingResult

Bars = Callable[[str, int, int], None]
DEFAULT_AGAINST = "popularity"
"""What --against holds where nobody gave it."""


def check_options(against: str, others: Mapping[str, object]) -> None:
    """ConfigError where options are given that mean nothing to the rating protocol."""
    given = [name for name, value in {"--against": against not in ("", DEFAULT_AGAINST), **others}.items() if value]
    if given:
        raise ConfigError(
            f"the protocol 'rating' does not go with {' or '.join(given)}: it has baselines of its own (means, biases, "
            "matrix factorisation); use -a, --mode, --users, --seed, -o, --record and --json"
        )


def rate(
    folder: Path,
    protocol: Protocol,
    adapters: Sequence[Path],
    modes: Sequence[str],
    *,
    users: int | None,
    seed: int,
    record: bool,
    bars: Bars,
) -> RatingResult:
    """Load the adapters and run the protocol; with `record` the numbers go onto the first adapter's card."""
    from palate.data import Dataset
    from palate.evaluate.rating import rate as run

    if record and (not adapters or users is not None):
        raise ConfigError("--record puts the numbers of all users onto an adapter's card; use -a and leave out --users")
    data = Dataset.open(folder)
    loaded = {}
    for path in adapters:
        from palate.recommender import Recommender

        loaded[path.name] = Recommender.load(path, data=data)
    result = run(data, protocol, loaded, modes, users=users, seed=seed, progress=bars)
    if record:
        from palate.evaluate.report import card_rows
        from palate.model import bundle

        bundle.record(adapters[0], card_rows(result), None)
    return result
