"""Run the service until it is told to stop."""

from __future__ import annotations

import ctypes
import gc
import logging
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import typer
import uvicorn

from palate.apps.serve import problems
from palate.apps.serve.app import create_app
from palate.apps.serve.settings import Settings
from palate.apps.serve.worker import Batch, Worker
from palate.errors import ConfigError, PalateError
from palate.recommender import Recommender
from palate.recommender.fused import FUSED
from palate.store import Store

TRIM = 10.0
"""Seconds between two looks at memory that is held free."""
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
    app = create_app(rec, store, settings, threaded=False)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=access_log,
        timeout_graceful_shutdown=max(1, round(settings.drain)),
        server_header=False,
    )
    logging.getLogger("uvicorn.error").addFilter(problems.Wordless())
    sock.listen(2048)  # who reads the line below may connect at once
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    typer.echo(f"palate: {', '.join(rec.adapters)} at http://{shown}:{port}  (documentation at /docs, Ctrl-C to stop)")
    sys.stdout.flush()
    _serve(uvicorn.Server(config), sock, app.state.service.worker)


def _serve(server: uvicorn.Server, sock: socket.socket, worker: Worker) -> None:
    """Sockets on a thread of their own, the model on this one (see `worker`), until a signal or the sockets' end."""

    def sockets() -> None:
        try:
            server.run(sockets=[sock])
        finally:
            worker.stop(0)

    def stop(number: int, frame: object) -> None:
        server.force_exit = server.should_exit  # a second signal waits for nobody
        server.should_exit = True

    _trim(worker)
    thread = threading.Thread(target=sockets, name="palate-http")
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        thread.start()
        worker.work()
        thread.join()
        if not server.started:
            raise PalateError("the HTTP server did not start; what it logged above says why")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _trim(worker: Worker) -> None:
    """Give what malloc holds free back to the system after a batch, once in TRIM seconds.

    Packs of ever other sizes leave holes: without this the resident size was half as large again as what is used, and
    took a thousand requests to settle.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; others need none
    if trim is None:
        return
    observe, last = worker.observe, time.monotonic()

    def after(batch: Batch) -> None:
        nonlocal last
        observe(batch)
        if time.monotonic() - last > TRIM:
            trim(0)
            last = time.monotonic()

    worker.observe = after


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
