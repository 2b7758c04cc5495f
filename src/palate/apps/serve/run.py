"""Run the service until it is told to stop."""

from __future__ import annotations

import gc
import socket
import sys
from collections.abc import Callable

import typer
import uvicorn

from palate.apps.serve.app import create_app
from palate.apps.serve.settings import Settings
from palate.errors import ConfigError
from palate.recommender import Recommender
from palate.recommender.fused import FUSED
from palate.store import Store

SWITCH = 0.001
"""Seconds a thread may hold the interpreter while another waits: the worker's Python must not keep the sockets."""


def run(load: Callable[[], Recommender], store: Store, settings: Settings, access_log: bool = False) -> None:
    """Take the port, load the model, warm it up and serve. On SIGTERM or Ctrl-C running requests are finished first.

    Raises ConfigError where the port cannot be had, or `fused` is asked of an adapter without weights for it.
    """
    sock = _bound(settings)
    rec = load()
    _warm(rec, settings)
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not walk the catalogue in the middle of a request
    config = uvicorn.Config(
        create_app(rec, store, settings),
        log_level="warning",
        access_log=access_log,
        timeout_graceful_shutdown=max(1, round(settings.drain)),
        server_header=False,
        h11_max_incomplete_event_size=64 << 10,
    )
    sock.listen(2048)  # who reads the line below may connect at once
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"palate: {', '.join(rec.adapters)} at http://{shown}:{port}  (documentation at /docs, Ctrl-C to stop)")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[sock])


def _warm(rec: Recommender, settings: Settings) -> None:
    """Load and compute what is made when first asked, so that no client waits for it."""
    for one in rec.adapters.values():
        one.recommend(k=1)
        if settings.fused:
            one.recommend(k=1, mode=FUSED)
        one.chat().ask("something unusual")


def _bound(settings: Settings) -> socket.socket:
    """A socket on the port: taken before the model is loaded into memory, so that a taken port is told at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only on sockets that say they are TCP; others wait 40 ms to be acknowledged
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"expected to listen on {settings.host}, port {settings.port}, got: {error.strerror}; choose another --port"
        ) from None
    return sock
