"""Load on `palate serve` over loopback, by wrk: throughput at several concurrencies, then more than it can take.

    python -m benchmarks.serve --json FILE

Needs wrk (Debian's package of that name) and, for the numbers it is known by, MovieLens-100K. Each workload asks
`/v1/score` for 20 candidates and (but for `shards`) another real user's history each time, so that no prompt is in the
prefix cache:

    history-5    the adapter's own mode: the user's last 5 items as soft tokens, one product with the candidates
    history-20   the same with 20 items
    embedding    the same with the user's whole history, of which the adapter reads the newest items
    shards       the same, each user's 160 candidates as eight requests in a row, as a service asks that cuts its lists
    likelihood   the history as text, 20 titles behind it
    raw          a query of `--prefix` tokens and 20 items with one label each, as clients of SGLang send it

The same workload runs against a server whose batches hold one request (`--batch 1`), which shows what batching itself
brings beside overlapping sockets with the model.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.measure import machine, median
from palate.errors import ConfigError

SCRIPT = """
local bodies = {}
for line in io.lines(os.getenv("PALATE_BODIES")) do bodies[#bodies + 1] = line end
local at, threads = tonumber(os.getenv("PALATE_FROM")), {}
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
answered, refused, failed = 0, 0, 0
function setup(thread) threads[#threads + 1] = thread end
function request()
  at = at % #bodies + 1
  return wrk.format(nil, "/v1/score", nil, bodies[at])
end
function response(status)
  if status == 200 then answered = answered + 1
  elseif status == 429 then refused = refused + 1
  else failed = failed + 1 end
end
function done(summary, latency)
  local e = summary.errors
  local a, r, f = threads[1]:get("answered"), threads[1]:get("refused"), threads[1]:get("failed")
  print(string.format('JSON {"answered": %d, "refused": %d, "failed": %d, "seconds": %.3f, "p50_ms": %.2f, ' ..
    '"p99_ms": %.2f}', a, r, f + e.connect + e.read + e.write + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
WORKLOADS = "history-5,history-20,embedding,shards,likelihood,raw"
STARTED = 180.0
"""Seconds a server may take to answer first."""


@dataclass
class Server:
    """A running `palate serve`."""

    url: str
    process: subprocess.Popen[str]

    def resident(self) -> int:
        """MiB of memory it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        found = re.search(r"VmRSS:\s+(\d+)", status)
        return int(found[1]) // 1024 if found else 0

    def batches(self) -> dict[str, float]:
        """Mean jobs a batch, by kind of work, since it started."""
        text = httpx.get(f"{self.url}/metrics").text
        total = dict(re.findall(r'palate_batch_jobs_sum\{work="(\w+)"\} (\S+)', text))
        count = dict(re.findall(r'palate_batch_jobs_count\{work="(\w+)"\} (\S+)', text))
        return {work: float(total[work]) / float(count[work]) for work in total}


@contextmanager
def serving(adapter: str, data: str, store: Path, *more: str) -> Iterator[Server]:
    """A server on a free port, stopped at the end."""
    command = [sys.executable, "-m", "palate", "serve", "-a", adapter, "--data", data, "--port", "0"]
    process = subprocess.Popen(
        [*command, "--store", str(store), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        until, told = time.monotonic() + STARTED, ""
        while not (found := re.search(r"http://\S+:\d+", told)):
            told = process.stdout.readline()
            if process.poll() is not None or time.monotonic() > until:
                raise ConfigError(f"the server did not start: {told}")
        yield Server(found[0], process)
    finally:
        process.terminate()
        process.wait(60)


def bodies(workload: str, data: str, prefix: int, seed: int) -> list[str]:
    """Request bodies of one workload: a real user's history each, candidates the user has not chosen."""
    from palate.data import Dataset

    dataset = Dataset.open(data)
    rng = random.Random(seed)
    ids = list(dataset.catalog.item_ids)
    users = list(dataset.histories)
    rng.shuffle(users)
    made = []
    for user in users:
        chosen = {e.item_id for e in dataset.histories.events(user)}
        items = rng.sample([i for i in ids if i not in chosen], 160 if workload == "shards" else 20)
        if workload == "raw":
            plots = [dataset.catalog[i].text.get("plot") or dataset.catalog[i].title for i in rng.sample(ids, 30)]
            words = " ".join(plots).split()[: prefix * 3 // 4]
            titles = [f" {dataset.catalog[i].title}" for i in items]
            body: dict[str, Any] = {"query": " ".join(words), "label_token_ids": [28]}
            items = titles
        elif workload.startswith("history-"):
            last = [e.item_id for e in dataset.histories.events(user)][-int(workload.removeprefix("history-")) :]
            body = {"history": last, "items": items, "mode": "embedding"}
        else:
            body = {"user": user, "items": items, "mode": "embedding" if workload == "shards" else workload}
        made += [json.dumps({**body, "items": items[at : at + 20]}) for at in range(0, len(items), 20)]
    return made


def load(server: Server, lines: Sequence[str], concurrency: int, seconds: int, start: int) -> dict[str, Any]:
    """What wrk counts: answered, refused (429), failed (anything else), requests/s of the answered, P50, P99."""
    with tempfile.TemporaryDirectory() as folder:
        script, texts = Path(folder) / "post.lua", Path(folder) / "bodies.jsonl"
        script.write_text(SCRIPT, encoding="utf-8")
        texts.write_text("\n".join(lines), encoding="utf-8")
        command = ["wrk", "-t1", f"-c{concurrency}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script), server.url]
        env = {"PALATE_BODIES": str(texts), "PALATE_FROM": str(start), "PATH": "/usr/bin:/bin:/usr/local/bin"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found = re.search(r"JSON (\{.*\})", done.stdout)
    if not found:
        raise ConfigError(f"wrk printed no summary: {done.stdout[-300:]} {done.stderr[-300:]}")
    counts: dict[str, Any] = json.loads(found[1])
    return {**counts, "requests_per_s": counts["answered"] / counts["seconds"]}


def throughput(server: Server, lines: Sequence[str], concurrencies: Sequence[int], flags: argparse.Namespace) -> Any:
    """Medians over rounds in which every concurrency has its turn."""
    load(server, lines, max(concurrencies), 2, 0)
    rounds: dict[int, list[dict[str, Any]]] = {c: [] for c in concurrencies}
    at = 100
    for _ in range(flags.repeats):
        for c in concurrencies:
            rounds[c].append(load(server, lines, c, flags.seconds, at))
            at += rounds[c][-1]["answered"]
    rows = {}
    for c, runs in rounds.items():
        rows[str(c)] = {
            **{k: median([r[k] for r in runs]) for k in ("requests_per_s", "p50_ms", "p99_ms")},
            **{k: sum(r[k] for r in runs) for k in ("answered", "refused", "failed")},
        }
    first = rows[str(concurrencies[0])]["requests_per_s"]
    return {"at": rows, "ratio": {c: row["requests_per_s"] / first for c, row in rows.items()}}


def overload(adapter: str, data: str, folder: Path, lines: Sequence[str], seconds: int) -> dict[str, Any]:
    """A queue of 8 and 64 clients: who is refused, how, and whether the server is as before afterwards."""
    with serving(adapter, data, folder / "overload.db", "--queue", "8", "--batch", "8") as server:
        load(server, lines, 8, seconds, 0)
        before = server.resident()
        quiet = load(server, lines, 4, seconds, 0)
        during = load(server, lines, 64, seconds, 0)
        refusal = _refusal(server, lines)
        held = server.resident()
        after = load(server, lines, 4, seconds, 0)
        return {
            "before": quiet,
            "beyond": during,
            "after": after,
            "refusal": refusal,
            "resident_mib": {"before": before, "beyond": held, "after": server.resident()},
        }


def _refusal(server: Server, lines: Sequence[str]) -> dict[str, Any]:
    """What one refused client is told while others fill the queue."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(line: str) -> httpx.Response:
        return httpx.post(
            f"{server.url}/v1/score", content=line, headers={"content-type": "application/json"}, timeout=60
        )

    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(ask, lines[:96]))
    refused = [a for a in answers if a.status_code == 429]
    if not refused:
        return {"seen": 0}
    return {"seen": len(refused), "retry_after": refused[0].headers.get("retry-after"), "body": refused[0].json()}


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """All workloads, with batching and without, then the overload."""
    if shutil.which("wrk") is None:
        raise ConfigError("expected wrk on the PATH; on Debian: apt-get install wrk")
    result: dict[str, Any] = {"machine": machine(torch.device("cpu")), "workloads": {}}
    concurrencies = [int(c) for c in flags.concurrency.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for workload in flags.only.split(","):
            lines = bodies(workload, flags.data, flags.prefix, flags.seed)
            found = result["workloads"][workload] = {}
            for how, more in (("batched", ()), ("one_by_one", ("--batch", "1"))):
                with serving(flags.adapter, flags.data, folder / f"{workload}-{how}.db", *more) as server:
                    found[how] = throughput(server, lines, concurrencies, flags)
                    found[how]["jobs_a_batch"] = server.batches()
                    found[how]["resident_mib"] = server.resident()
                _tell(workload, how, found[how])
        if flags.overload:
            result["overload"] = overload(flags.adapter, flags.data, folder, lines, flags.seconds)
            print(json.dumps(result["overload"], indent=1))
    return result


def _tell(workload: str, how: str, found: dict[str, Any]) -> None:
    for c, row in found["at"].items():
        print(
            f"{workload:11} {how:11} concurrency {c:>3}: {row['requests_per_s']:7.1f} requests/s  "
            f"x{found['ratio'][c]:.2f}  p50 {row['p50_ms']:7.1f} ms  p99 {row['p99_ms']:7.1f} ms  "
            f"refused {row['refused']}, failed {row['failed']}",
            flush=True,
        )


def main() -> None:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--adapter", default="adapters/ml-100k")
    flags.add_argument("--data", default="data/ml-100k")
    flags.add_argument(
        "--only", default="history-5,history-20,embedding,likelihood,raw", help="workloads, separated by commas"
    )
    flags.add_argument("--concurrency", default="1,8,32")
    flags.add_argument("--seconds", type=int, default=10, help="of each measurement")
    flags.add_argument("--repeats", type=int, default=3)
    flags.add_argument("--prefix", type=int, default=300, help="tokens of a raw query, roughly")
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--no-overload", dest="overload", action="store_false")
    flags.add_argument("--json", type=Path)
    options = flags.parse_args()
    result = run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
