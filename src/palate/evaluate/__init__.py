"""Evaluation that can be trusted: named protocols, fair ranks, intervals, and reports that repeat."""

from palate.evaluate.metrics import Interval, Paired, intervals, paired, per_user, ratings
from palate.evaluate.protocol import PROTOCOLS, EvalCase, Protocol, protocol
from palate.evaluate.run import Result, System, SystemResult, evaluate

__all__ = [
    "PROTOCOLS",
    "EvalCase",
    "Interval",
    "Paired",
    "Protocol",
    "Result",
    "System",
    "SystemResult",
    "evaluate",
    "intervals",
    "paired",
    "per_user",
    "protocol",
    "ratings",
]
