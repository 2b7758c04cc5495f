"""Counts for Prometheus. Labels are routes and kinds, never anything a person wrote."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from palate.apps.serve.worker import Batch

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
JOBS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One server's counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = self.registry
        self.requests = Counter("palate_requests", "Requests answered.", ["route", "status"], registry=own)
        self.seconds = Histogram(
            "palate_request_seconds", "Time to the last byte.", ["route"], buckets=SECONDS, registry=own
        )
        self.open = Gauge("palate_requests_open", "Requests being answered.", registry=own)
        self.batch_jobs = Histogram("palate_batch_jobs", "Jobs in a batch.", ["work"], buckets=JOBS, registry=own)
        self.batch_seconds = Histogram(
            "palate_batch_seconds", "Time of a batch.", ["work"], buckets=SECONDS, registry=own
        )
        self.first = Histogram(
            "palate_chat_first_item_seconds", "Time to a chat's first item.", buckets=SECONDS, registry=own
        )
        self.waiting = Gauge("palate_queue_jobs", "Jobs that wait for the model.", registry=own)
        self.tokens = Gauge("palate_tokens_run", "Prompt positions the model has run.", registry=own)
        self.hits = Gauge("palate_prefix_hit_rate", "Share of prompt positions found in memory.", registry=own)
        self.held = Gauge("palate_prefix_bytes", "Bytes of kept keys and values.", registry=own)

    def batch(self, batch: Batch) -> None:
        """Count one batch of the worker."""
        self.batch_jobs.labels(batch.name).observe(batch.jobs)
        self.batch_seconds.labels(batch.name).observe(batch.seconds)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
