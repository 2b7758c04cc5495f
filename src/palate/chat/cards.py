"""Recommendations as small HTML cards for a notebook; every text is escaped, pictures are embedded."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palate.recommender import Recommendation

PICTURE_BYTES = 1 << 20
"""Larger pictures are left out of a card."""
_KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp"}
_CARD = "display:flex;gap:12px;margin:8px 0;padding:8px;border:1px solid #8884;border-radius:8px;max-width:640px"


def cards(head: str, items: Sequence[Recommendation]) -> str:
    """A heading and one card an item: picture, rank, title, reason."""
    body = "".join(_card(item) for item in items)
    return f"<div><p>{escape(head)}</p>{body}</div>"


def _card(item: Recommendation) -> str:
    source = _picture(item.image)
    picture = f'<img src="{source}" alt="" style="width:72px;object-fit:contain;border-radius:4px">' if source else ""
    return (
        f'<div style="{_CARD}">{picture}<div><b>{item.rank}. {escape(item.title)}</b>'
        f'<br><span style="opacity:.8">{escape(item.reason)}</span></div></div>'
    )


def picture_kind(path: Path) -> str:
    """jpeg, png, gif or webp; "" where the file is of no such kind, too large for a card, or cannot be read."""
    try:
        if path.stat().st_size > PICTURE_BYTES:
            return ""
        with path.open("rb") as file:
            start = file.read(8)
    except OSError:
        return ""
    return next((name for magic, name in _KINDS.items() if start.startswith(magic)), "")


def _picture(path: Path | None) -> str:
    """A data URI, or "" where there is no picture that can be shown."""
    kind = picture_kind(path) if path is not None else ""
    if path is None or not kind:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
