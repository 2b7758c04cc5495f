"""What generators of inputs share: odd texts and values, and damage to bytes and to JSON-like structures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

TEXTS = (
    "", " ", "a", "0", "-1", "1e999", "NaN", "nan", "inf", "null", "None", "true", "12345678901234567890", "1.0", "0x10",
    "1_000", "1e400", "\x00", "a\x00b", "\n", "a\nb", "\r\n", "\t", "\ufeff", "\u200b", "\u202eabc", "\ud800", "a\udfffb",
    "é", "é", "日本語", "😀", "\U0010ffff", "İ", "ß", "<|im_start|>system\n", "{{ 7*7 }}", "{% raw %}", "../../etc/passwd",
    "/etc/passwd", "C:\\x", "\\\\host\\x", "file:///etc/passwd", "http://localhost/", "~root", "$HOME", "%s%n", "'; --",
    '"', '""', "'", ",", "|", "a,b", 'a"b', "[", "]", "{", "[]", "{}", '["1", "2"]', '{"a": 1}', "[" * 3000,
    '{"a":' * 2000, "9" * 5000, "1" + "0" * 400, "=1+1", "#", "!!python/object:os.system", "&a", "*a", "<<", "---",
    "2020-13-45", "2020-02-30T25:61", "0000-00-00", "9999-12-31T23:59:59.999999+23:59", "0001-01-01T00:00:00+14:00",
    "12:30:45", "x" * 10_000, "a\u0301" * 50, "\x1b[31m", "\x7f", "\x85", "\u2028",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 10**400, 0.0,
    -0.0, 0.1, 1.5, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 881250949, 1e15, 1e18,
)  # fmt: skip


def text(rng: Random) -> str:
    """A text: mostly an odd one, sometimes odd ones joined or random characters."""
    roll = rng.random()
    if roll < 0.6:
        return rng.choice(TEXTS)
    if roll < 0.8:
        return rng.choice(TEXTS[:60]) + rng.choice(TEXTS[:60])
    return "".join(
        chr(rng.choice((rng.randrange(32, 127), rng.randrange(0x110000)))) for _ in range(rng.randint(1, 12))
    )


def value(rng: Random, depth: int = 0) -> Any:
    """Any JSON-like value, odd ones more often than not."""
    roll = rng.random()
    if roll < 0.35:
        return text(rng)
    if roll < 0.6:
        return rng.choice(NUMBERS)
    if roll < 0.7:
        return rng.choice((None, True, False))
    if depth > 3:
        return {}
    if roll < 0.85:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 4))]
    if roll < 0.97:
        return {text(rng): value(rng, depth + 1) for _ in range(rng.randint(0, 4))}
    return nested(rng.choice((50, 400, 900)))


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


def flat(value: Any) -> Any:
    """The value with lone surrogates in texts made question marks, for writers that know only Unicode."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {flat(k): flat(v) for k, v in value.items()}
    return [flat(v) for v in value] if isinstance(value, list) else value


def places(tree: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a structure of dicts and lists."""
    found, waiting = [], [tree]
    while waiting:
        here = waiting.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            found.append((here, key))
            waiting.append(here[key])
    return found


def structure(rng: Random, tree: Any, made: Callable[[Random], Any] = value) -> Any:
    """A copy with one to four places changed: a value replaced, removed, renamed, doubled or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        known = places(tree)
        if not known:
            return made(rng)
        here, key = rng.choice(known)
        roll = rng.random()
        if roll < 0.55:
            here[key] = made(rng)
        elif roll < 0.7:
            del here[key]
        elif roll < 0.8 and isinstance(here, dict):
            here[text(rng)] = here.pop(key)
        elif roll < 0.9 and isinstance(here, dict):
            here[text(rng)] = made(rng)
        else:
            other, place = rng.choice(known)
            if isinstance(other, list) or place in other:
                here[key] = copy.deepcopy(other[place]) if not isinstance(other, list) or place < len(other) else None
    return tree


def damaged(rng: Random, data: bytes, words: Sequence[bytes] = ()) -> bytes:
    """Bytes with one to eight damages: bits flipped, bytes set, cut, doubled, inserted; words are dropped in too."""
    held = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not held:
            held += bytes([rng.randrange(256)])
        at = rng.randrange(len(held)) if rng.random() < 0.6 else rng.randrange(min(64, len(held)))
        roll = rng.random()
        if roll < 0.35:
            held[at] ^= 1 << rng.randrange(8)
        elif roll < 0.5:
            held[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif roll < 0.6:
            width = rng.choice((2, 4, 8))
            held[at : at + width] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**16)).to_bytes(8, rng.choice(("big", "little")))[-width:]  # fmt: skip
        elif roll < 0.72:
            del held[at : at + rng.choice((1, 4, 100, len(held)))]
        elif roll < 0.8:
            held[at:at] = held[at : at + rng.choice((1, 8, 200))]
        elif roll < 0.9 and words:
            held[at:at] = rng.choice(words)
        else:
            held[at:at] = rng.randbytes(rng.choice((1, 4, 32)))
    return bytes(held)
