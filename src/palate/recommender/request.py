"""Requests made ready: filled with what the data set knows, and checked against the shelf."""

from __future__ import annotations

from dataclasses import replace

from palate.data import Dataset
from palate.errors import RequestError
from palate.recommender.shelf import Shelf
from palate.schema import Request


def complete(request: Request, dataset: Dataset, shelf: Shelf) -> Request:
    """The request with its user's history and profile where it brings none itself.

    Raises RequestError for unknown items in its own history.
    """
    user = request.user_id
    history = request.history
    if not history and user is not None and user in dataset.histories:
        history = dataset.histories.events(user)
    profile = request.profile or (dataset.users.get(user, {}) if user is not None else {})
    for event in request.history:
        shelf.check(event.item_id, f"history item in request {request.request_id!r}:")
    return replace(request, history=history, profile=profile)


def check_candidates(request: Request, shelf: Shelf) -> None:
    """RequestError where candidates are missing, unknown or listed twice."""
    if not request.candidates:
        raise RequestError(f"request {request.request_id!r}: expected candidates to score, got none")
    for item_id in request.candidates:
        shelf.check(item_id, f"candidate in request {request.request_id!r}:")
    if len(set(request.candidates)) < len(request.candidates):
        twice = next(i for n, i in enumerate(request.candidates) if i in request.candidates[:n])
        raise RequestError(f"request {request.request_id!r}: the candidate {twice!r} is listed twice")
