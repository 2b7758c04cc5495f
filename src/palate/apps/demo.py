"""The demo: seven steps on MovieLens-100K, each with real weights and real data, each saying what it wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from palate import sources
from palate.apps import plots, scoring, shared
from palate.config import RunConfig, read_yaml
from palate.data import Dataset, import_dataset, stats
from palate.errors import ConfigError
from palate.evaluate import System, evaluate, protocol
from palate.evaluate.baselines import RecommenderSystem, baseline
from palate.evaluate.report import to_markdown, to_table
from palate.recommender import Recommender

DATA = "ml-100k"
NEW_USER = ("Alien", "Blade Runner", "The Terminator", "2001: A Space Odyssey")
WISH = "something scary from the 80s, but not a comedy"
REQUESTS = 100
"""Requests in the candidate file of the scoring step; 20 candidates each."""


class Demo:
    """Runs the steps in order; parts that several steps need are loaded once."""

    def __init__(self, out: Path, adapter: Path, users: int) -> None:
        self.out, self.adapter, self.users = out, adapter, users
        self.console = Console()
        self.written: list[tuple[Path, str]] = []

    def run(self) -> None:
        """All steps. Raises PalateError where one cannot be done, saying why."""
        if not (self.adapter / "palate.json").is_file():
            raise ConfigError(
                f"the demo shows a shipped adapter, and there is none at {self.adapter}; run it from the "
                "repository's root, or name one with -a"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        steps: list[tuple[str, Callable[[], None]]] = [
            ("Fetch the base model, the encoders and the data", self.fetch),
            ("The data: MovieLens-100K", self.show_data),
            ("A new user, known by four titles", self.recommend),
            ("Score a candidate file", self.score),
            ("Talk to it", self.chat),
            (f"Held-out films of {self.users} users: untuned base, shipped adapter, popularity", self.compare),
            ("Fine-tune an adapter for two minutes", self.tune),
        ]
        began = time.perf_counter()
        for number, (title, step) in enumerate(steps, 1):
            self.console.print()
            self.console.rule(f"[bold]{number}/{len(steps)}  {title}", align="left")
            start = time.perf_counter()
            step()
            self.console.print(f"[dim]{time.perf_counter() - start:.0f} s[/]")
        self.close(time.perf_counter() - began)

    # --- steps --------------------------------------------------------------------------------------

    def fetch(self) -> None:
        for name in sources.ALIASES:
            with shared.spinner(f"fetching {name}"):
                path = sources.fetch(name)
            self.console.print(f"  {name:24} {path.name}")
        with shared.spinner("converting the base model, once"):
            sources.base_model("smollm2-135m-instruct")

    @cached_property
    def dataset(self) -> Dataset:
        folder = self.out / "data" / DATA
        if (folder / "dataset.yaml").is_file():
            return Dataset.open(folder)
        return import_dataset(DATA, folder)

    def show_data(self) -> None:
        facts = stats(self.dataset)
        table = Table(box=None, show_header=False, pad_edge=False)
        for key, value in facts.items():
            if key in ("first", "last"):
                table.add_row(f"  {key} event", f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d}")
            elif isinstance(value, int | float | str):
                shown = (
                    f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else value
                )
                table.add_row(f"  {key}", escape(shown))
        self.console.print(table)
        user = self.dataset.histories.interactions.user_ids[0]
        events = self.dataset.histories.events(user)
        titles = ", ".join(self.dataset.catalog[e.item_id].title for e in events[-6:])
        self.console.print(f"  the last films user {user} watched: [italic]{escape(titles)}[/]")
        self.note(self.out / "data" / DATA, "the data set folder: dataset.yaml and Parquet tables")

    @cached_property
    def rec(self) -> Recommender:
        with shared.spinner("loading the adapter"):
            return Recommender.load(self.adapter, data=self.dataset)

    def recommend(self) -> None:
        self.console.print(f"  history: [italic]{escape(', '.join(NEW_USER))}[/]")
        found = self.rec.recommend(history=list(NEW_USER), k=10)
        shared.print_list(found, "")
        path = self.out / "recommendations.json"
        path.write_text(json.dumps(shared.plain(found), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        self.note(path, "ten recommendations for the new user, with reasons")

    def score(self) -> None:
        events = self.dataset.histories.interactions
        cases = protocol("loo-20").cases(events, seed=1, part="test", users=REQUESTS)
        asked = [case.request(events) for case in cases]
        rows: dict[str, list[Any]] = {
            "request_id": [r.request_id for r in asked],
            "history": [[e.item_id for e in r.history] for r in asked],
            "candidates": [list(r.candidates) for r in asked],
        }
        candidates, scored = self.out / "candidates.parquet", self.out / "scores.parquet"
        pq.write_table(pa.table(rows), candidates)
        with shared.spinner("scoring"):
            summary = scoring.score_file(self.rec, scoring.Job(candidates, scored))
        self.console.print(
            f"  {summary.requests} requests, {summary.rows:,} rows in {summary.seconds:.1f} s; best of the first:"
        )
        first = [r for r in pq.read_table(scored).to_pylist() if r["request_id"] == rows["request_id"][0]]
        table = Table(box=None, pad_edge=False)
        for name in ("  request_id", "item_id", "score", "rank"):
            table.add_column(name, justify="right")
        for row in sorted(first, key=lambda r: r["rank"])[:3]:
            table.add_row(row["request_id"], row["item_id"], f"{row['score']:.3f}", str(row["rank"]))
        self.console.print(table)
        self.note(candidates, f"{REQUESTS} requests, each with its own history and 20 candidates")
        self.note(scored, "their scores and ranks")

    def chat(self) -> None:
        answer = self.rec.chat(history=list(NEW_USER)).ask(WISH)
        self.console.print(f"  [bold]you[/]     {escape(WISH)}")
        self.console.print("  [bold]palate[/]  " + escape(str(answer)).replace("\n", "\n          "))

    def compare(self) -> None:
        named = protocol("loo-20")
        train = named.split(self.dataset.histories.interactions).train
        with shared.spinner("loading the untuned base"):
            base = Recommender.load(self.rec.model.config.base, data=self.dataset)
        systems: list[System] = [
            RecommenderSystem(self.rec, self.dataset, None, "shipped adapter"),
            baseline("popularity", train),
            RecommenderSystem(base, self.dataset, "likelihood", "untuned base"),
        ]
        with shared.spinner("scoring held-out lists"):
            result = evaluate(self.dataset, systems, named, users=self.users)
        self.console.print(to_table(result))
        table, picture = self.out / "comparison.md", self.out / "comparison.png"
        table.write_text(to_markdown(result), encoding="utf-8")
        plots.system_bars(picture, result)
        self.note(table, "the comparison, with intervals, seed and candidate hash")
        self.note(picture, "the same as a picture")

    def tune(self) -> None:
        from palate.train.loop import train

        values = read_yaml(_config("demo.yaml"))
        values["data"] = str(self.out / "data" / DATA)
        values["train"] |= {"output": str(self.out / "adapter"), "run": str(self.out / "run")}
        outcome = train(RunConfig.parse(values, "configs/demo.yaml"), resume=False, console=self.console)
        losses, scores = _curve(outcome.run / "metrics.jsonl")
        picture = plots.learning_curve(
            self.out / "learning.png", losses, scores, title="A two-minute fine-tune",
            caption=f"{DATA}, {outcome.step} steps on the train split, seed {values['train']['seed']}; "
            f"validation on {values['train']['validate_users']} users",
        )  # fmt: skip
        tenth = max(1, len(losses) // 10)
        first, last = (float(np.mean([v for _, v in part])) for part in (losses[:tenth], losses[-tenth:]))
        self.console.print(f"  loss {first:.2f} -> {last:.2f} in {outcome.step} steps")
        for step, value in scores:
            self.console.print(f"  validation NDCG@10 at step {step:.0f}: {value:.3f}")
        self.note(picture, "the learning curve")
        self.note(self.out / "adapter", "the adapter it trained: loads like the shipped one")

    # --- closing ------------------------------------------------------------------------------------

    def note(self, path: Path, what: str) -> None:
        self.written.append((path, what))

    def close(self, seconds: float) -> None:
        table = Table(box=None, show_header=False, pad_edge=False)
        for path, what in self.written:
            table.add_row(f"  {path}", f"[dim]{what}[/]")
        self.console.print()
        self.console.rule(f"[bold]Done in {seconds / 60:.1f} minutes. Written", align="left")
        self.console.print(table)
        data = self.out / "data" / DATA
        lines = [
            f".venv/bin/palate recommend --data {data} -a {self.adapter} --history 'Toy Story' --history 'Babe'",
            f".venv/bin/palate chat --data {data} -a {self.adapter} --user 42",
            f".venv/bin/palate explain 'Aliens' --data {data} -a {self.adapter} --history 'Alien' --history 'Heat'",
            f".venv/bin/palate evaluate {data} -a {self.adapter} --against popularity,ease",
            ".venv/bin/palate data import --help   # your own catalogue next",
        ]
        self.console.print(Panel("\n".join(escape(line) for line in lines), title="Type next", title_align="left"))


def _config(name: str) -> Path:
    """A config of the repository's `configs/` folder, from the root or from an editable install."""
    for folder in (Path("configs"), Path(__file__).resolve().parents[3] / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"expected configs/{name}; run the demo from the repository's root")


def _curve(path: Path) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Losses and validation scores of a run's metrics.jsonl as (step, value) pairs."""
    losses: list[tuple[float, float]] = []
    scores: list[tuple[float, float]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        if "loss/embedding" in row:
            losses.append((row["step"], row["loss/embedding"]))
        if "valid/NDCG@10" in row:
            scores.append((row["step"], row["valid/NDCG@10"]))
    return losses, scores
