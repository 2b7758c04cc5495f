"""palate recommend: a ranked list with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from palate.apps.shared import (
    Adapter,
    AsJson,
    Data,
    Device,
    History,
    Mode,
    Precision,
    Quantize,
    User,
    context,
    load,
    note_stranger,
    plain,
    print_json,
    print_list,
    titles,
)  # fmt: skip

HELP = """Recommend items for a user of the data set, or for anyone from a few titles.

Filters name a field: genres=Comedy, genres!=War, year=1980..1995, year>=1980, genres=Comedy|Drama; all must
hold.

Example: palate recommend --history "Alien" --history "Heat" -k 5 --filter "year=1980..1995" -a
adapters/ml-100k
"""


def register(app: typer.Typer) -> None:
    app.command("recommend", help=HELP)(recommend)


def recommend(
    adapter: Adapter,
    user: User = None,
    history: History = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    filters: Annotated[list[str] | None, typer.Option("--filter", "-f", help="A filter; repeat for more.")] = None,
    contexts: Annotated[list[str] | None, typer.Option("--context", help="NAME=VALUE, such as time=evening.")] = None,
    pool: Annotated[int, typer.Option("--pool", min=1, help="Retrieved candidates the slower modes rerank.")] = 50,
    diversity: Annotated[
        float, typer.Option("--diversity", help="0: the best first; up to 1: the more unlike one another.")
    ] = 0.0,
    rerank: Annotated[
        Literal["mmr", "dpp"], typer.Option("--rerank", help="How --diversity reorders: mmr or dpp.")
    ] = "mmr",
    new_items: Annotated[
        Path | None, typer.Option("--new-items", help="Table of items added after training, as for score.")
    ] = None,
    data: Data = None,
    mode: Mode = None,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    from palate.recommender.filters import parse_filters
    from palate.recommender.rerank import check

    check(diversity, rerank)
    wanted = parse_filters(filters or [])
    around = context(contexts)
    rec = load(adapter, data, quantization, device, dtype)
    if new_items is not None:
        from palate.apps.scoring import add_new_items

        add_new_items(rec, new_items)
    chosen = titles(history)
    note_stranger(rec, user, chosen)
    found = rec.recommend(
        user,
        chosen,
        k=k,
        context=around,
        filters=wanted,
        mode=mode,
        pool=pool,
        diversity=diversity,
        rerank=rerank,
    )
    if as_json:
        how = {"diversity": diversity, "rerank": rerank} if diversity else {}
        print_json({"user": user, "mode": rec.mode(mode).name, **how, "recommendations": plain(found)})
        return
    whom = f"user {user}" if user else f"someone who {rec.dataset.wording.verb} {', '.join(chosen or ['nothing yet'])}"
    print_list(found, f"{len(found)} {rec.dataset.wording.items} for {whom}")
