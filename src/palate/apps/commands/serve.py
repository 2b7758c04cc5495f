"""palate serve: the HTTP service and the page."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from palate.apps.shared import Adapters, Data, Device, Precision, Quantize, load
from palate.errors import ConfigError

HELP = """Serve recommendations over HTTP, with a page at / for people.

OpenAI's clients work against /v1/chat/completions, those of SGLang and vLLM against /v1/score; /docs lists everything.
It listens on this machine alone. For other machines name a --host and give keys, one a line, in a file (--keys) or in
PALATE_API_KEYS, separated by commas.

Example: palate serve -a adapters/ml-100k --port 8000
"""

KEY = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""What a bearer token may hold (RFC 6750), and so a cookie too."""


def register(app: typer.Typer) -> None:
    app.command("serve", help=HELP)(serve)


def serve(
    adapters: Adapters,
    data: Data = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0: any free one.")] = 8000,
    store: Annotated[
        str | None, typer.Option("--store", help="Database of events and conversations: an SQLite file or a URL.")
    ] = None,
    keys: Annotated[Path | None, typer.Option("--keys", help="File of API keys, one a line.")] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Listen beyond this machine without keys.")] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", help="Host name to answer to; repeat. By default loopback names."),
    ] = None,
    fused: Annotated[
        bool, typer.Option("--fused", help="Offer mode fused too; its retrievers are fitted first, once for minutes.")
    ] = False,
    queue: Annotated[int, typer.Option("--queue", min=1, help="Requests that may wait; more get a 429.")] = 256,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Requests taken into one batch at most.")] = 64,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds a request may wait.")] = 30.0,
    drain: Annotated[float, typer.Option("--drain", help="Seconds running requests may take after a stop.")] = 30.0,
    body: Annotated[int, typer.Option("--max-body", min=1, help="Bytes of the longest request body.")] = 1 << 20,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Log each request's path, which may hold a user's id.")
    ] = False,
    quantization: Quantize = None,
    dtype: Precision = None,
    device: Device = "auto",
) -> None:
    from palate.apps.serve.settings import Settings

    known = read_keys(keys, os.environ.get("PALATE_API_KEYS", ""))
    settings = Settings(
        host=host, port=port, keys=known, hosts=tuple(allow_host or ()), queue=queue, batch=batch, timeout=timeout,
        drain=drain, body=body, fused=fused,
    )  # fmt: skip
    if not settings.loopback and not known and not no_keys:
        raise ConfigError(
            f"--host {host} can be reached from other machines: give API keys (--keys FILE or PALATE_API_KEYS), or say "
            "--no-keys if something else guards it"
        )
    from palate.apps.serve.run import run
    from palate.store import Store

    with Store.open(store) as kept:
        run(lambda: load(adapters, data, quantization, device, dtype), kept, settings, access_log)


def read_keys(file: Path | None, environment: str) -> tuple[str, ...]:
    """The keys of a file and of the environment. ConfigError where a file has none, or a key is easily guessed."""
    found = [k.strip() for k in environment.split(",") if k.strip()]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--keys {file}: expected a text file of keys, got {error}") from None
        listed = [k.strip() for k in lines if k.strip() and not k.startswith("#")]
        if not listed:
            raise ConfigError(f"--keys {file}: expected a key a line, got an empty file")
        found += listed
    if short := [k for k in found if len(k) < 16]:
        raise ConfigError(f"API keys: expected at least 16 characters each, got one of {len(short[0])}")
    if odd := [k for k in found if not KEY.fullmatch(k)]:
        sign = next(c for c in odd[0] if not KEY.fullmatch(c))
        raise ConfigError(f"API keys: expected letters, digits and - _ . ~ + / = alone, got one with {sign!r}")
    return tuple(dict.fromkeys(found))
