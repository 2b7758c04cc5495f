"""What a server is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from palate.errors import ConfigError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Settings:
    """Limits and doors of one server. Times in seconds, sizes in bytes.

    keys: what `Authorization: Bearer` must carry, empty for none. hosts: names a request may call the server by (a page
    elsewhere that points its own name here is refused); empty allows any. queue: jobs that may wait for the model;
    batch: jobs, and candidates: candidates, taken into one batch; linger: how long a batch waits for company when the
    one before had some. timeout: how long a request may wait unless it says so itself; body: the longest request body;
    items: the longest candidate list or history; drain: how long running requests may take after a stop;
    sessions: conversations kept in memory. fused: offer mode `fused` too, its retrievers fitted at the start.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    queue: int = 256
    batch: int = 64
    candidates: int = 4096
    linger: float = 0.003
    timeout: float = 30.0
    body: int = 1 << 20
    items: int = 2000
    drain: float = 30.0
    sessions: int = 512
    fused: bool = False

    def __post_init__(self) -> None:
        for name in ("queue", "batch", "candidates", "timeout", "body", "items", "drain", "sessions"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}: expected a number above 0, got {getattr(self, name)}")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"port: expected a number from 0 to 65535, got {self.port}")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        """Host names that are answered; empty for any. A loopback server answers to loopback names alone."""
        if self.hosts:
            return self.hosts
        return (*LOOPBACK_NAMES, self.host) if self.loopback else ()
