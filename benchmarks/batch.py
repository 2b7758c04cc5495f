"""Bulk scoring: a million rows by a tiny random model, SIGKILL again and again, and real rows beside `datasets.map`.

    python -m benchmarks.batch --json FILE

Sections (`--only`): `million`, `kills` and `disk` measure the job itself (reading, cutting, writing, what is kept) with
a random model of 2 layers in mode embedding, so that the model is not what takes the time; `real` is the shipped
adapter on real MovieLens rows. Every run is a `palate score` in a process of its own, its memory read from outside.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.measure import fresh, machine
from benchmarks.options import sections
from palate.data import Dataset

SECTIONS = ("million", "kills", "disk", "real")
EVERY = 0.5
"""Seconds between looks at a process' memory."""


# --- what is scored ---------------------------------------------------------------------------------


def candidates(data: Dataset, path: Path, requests: int, each: int, seed: int) -> Path:
    """`requests` requests of real users, each with a history of its own and `each` unseen items, in row form."""
    rng = np.random.default_rng(seed)
    interactions = data.histories.interactions
    ids = np.array(data.catalog.item_ids, dtype=object)
    rows: dict[str, list[Any]] = {"request_id": [], "user_id": [], "history": [], "candidates": []}
    for n in range(requests):
        user = n % len(interactions)
        whole = interactions.sequence(user)
        kept = whole[: max(1, len(whole) - 1 - n // len(interactions))]  # another history each time a user comes
        unseen = np.setdiff1d(np.arange(len(ids)), whole)
        rows["request_id"].append(f"r{n}")
        rows["user_id"].append(interactions.user_ids[user])
        rows["history"].append(ids[kept].tolist())
        rows["candidates"].append(ids[rng.choice(unseen, each, replace=False)].tolist())
    pq.write_table(pa.table(rows), path)
    return path


def random_bundle(folder: Path, data: Dataset) -> Path:
    """A bundle with random weights: a Llama of 2 layers, 32 wide, SmolLM2's tokenizer, one soft token an item."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from palate import prompting, sources
    from palate.config import ModelConfig
    from palate.model import Model, bundle
    from palate.schema import Features

    base = folder / "base"
    tokenizer = AutoTokenizer.from_pretrained(sources.base_model("smollm2-135m-instruct"))
    tokenizer.save_pretrained(base)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(base)
    ids = data.catalog.item_ids
    vectors = np.random.default_rng(0).standard_normal((len(ids), 16)).astype(np.float32)
    tables = {"behaviour": Features("behaviour", ids, vectors, np.ones(len(ids), dtype=bool), "random")}
    config = ModelConfig.parse({"base": f"path:{base}", "dtype": "float32", "hidden": 16, "matching": 8}, "tiny")
    meta = {
        "name": "tiny",
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "encoders": {},
        "templates": {"sequence": prompting.load("sequence", "en").hash},
        "prompt": {"max_tokens": 700, "max_history": 20},
        "metrics": {},
    }
    return bundle.save(folder / "tiny", Model.create(config, tables, device="cpu"), meta)


# --- running it -------------------------------------------------------------------------------------


class Scoring:
    """`palate score` in a process of its own."""

    def __init__(self, source: Path, adapter: Path, data: str, output: Path, *more: str) -> None:
        where = [str(source), "-a", str(adapter), "--data", data, "-o", str(output), "--device", "cpu", "--json"]
        self.output = output
        self.process = subprocess.Popen(
            [sys.executable, "-m", "palate", "score", *where, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    @property
    def parts(self) -> int:
        """How many parts are kept so far."""
        return sum(1 for _ in Path(f"{self.output}.parts").glob("part-*.json"))

    def resident(self) -> int:
        """MiB in memory now; 0 once it is gone."""
        try:
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii"))
        except OSError:
            return 0
        return int(found[1]) // 1024 if found else 0

    def wait(self) -> tuple[dict[str, Any], list[int], str]:
        """The summary ({} where it failed), MiB resident every EVERY seconds while it scored, and its last words."""
        seen = []
        while self.process.poll() is None:
            time.sleep(EVERY)
            if self.parts:
                seen.append(self.resident())
        out, err = self.process.communicate()
        summary: dict[str, Any] = json.loads(out) if self.process.returncode == 0 else {}
        return summary, [s for s in seen if s], err.strip()


def million(source: Path, adapter: Path, data: str, folder: Path) -> dict[str, Any]:
    """One run, start to end."""
    began = time.perf_counter()
    summary, seen, _ = Scoring(source, adapter, data, folder / "whole.parquet").wait()
    quarter = max(1, len(seen) // 4)
    return {
        "rows": summary["rows"], "seconds_scoring": summary["seconds"], "rows_per_second": summary["rows_per_second"],
        "seconds_with_start": time.perf_counter() - began, "parts": summary["parts"], "tokens": summary["tokens"],
        "mib_peak": max(seen), "mib_first_quarter": max(seen[:quarter]), "mib_last_quarter": max(seen[-quarter:]),
        "output_bytes": (folder / "whole.parquet").stat().st_size,
    }  # fmt: skip


def kills(source: Path, adapter: Path, data: str, folder: Path, count: int, seed: int) -> dict[str, Any]:
    """SIGKILL `count` times at random moments of the work, then to the end."""
    rng, killed, kept = random.Random(seed), 0, []
    output = folder / "killed.parquet"
    while killed < count:
        run = Scoring(source, adapter, data, output, "--resume")
        before = run.parts
        # from the moment work is seen to go on, a random while: in the middle of a chunk, of a write, or between
        while run.process.poll() is None and run.parts == before and killed:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.8) if killed else rng.uniform(3, 8))
        run.process.send_signal(signal.SIGKILL)
        if run.process.wait() != -signal.SIGKILL:
            break
        killed += 1
        kept.append(run.parts)
    summary, _, _ = Scoring(source, adapter, data, output, "--resume").wait()
    whole, again = (pq.read_table(folder / f"{n}.parquet").to_pandas() for n in ("whole", "killed"))
    keys = ["request_id", "item_id"]
    return {
        "kills": killed, "parts_kept_after_each": kept, "rows": summary["rows"],
        "resumed_rows": summary["resumed_rows"],
        "same_bytes": (folder / "whole.parquet").read_bytes() == output.read_bytes(),
        "same_rows_sorted": bool(whole.sort_values(keys).reset_index(drop=True).equals(
            again.sort_values(keys).reset_index(drop=True))),
        "rows_lost_or_doubled": abs(len(whole) - len(again)) + int(again.duplicated(keys).sum()),
    }  # fmt: skip


def disk(source: Path, adapter: Path, data: str, folder: Path) -> dict[str, Any]:
    """A tmpfs that fills up, then grows; then one that may not be written. Needs the right to mount."""
    place = folder / "disk"
    place.mkdir()
    told: dict[str, Any] = {}
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=True)
    try:
        run = Scoring(source, adapter, data, place / "o.parquet")
        _, _, told["full"] = run.wait()
        told["full_exit"], told["parts_kept"], told["output_there"] = (
            run.process.returncode,
            run.parts,
            (place / "o.parquet").exists(),
        )
        subprocess.run(["mount", "-o", "remount,size=200m", str(place)], check=True)
        summary, _, _ = Scoring(source, adapter, data, place / "o.parquet", "--resume").wait()
        told["resumed_rows"] = summary["resumed_rows"]
        told["same_bytes"] = (place / "o.parquet").read_bytes() == (folder / "whole.parquet").read_bytes()
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        run = Scoring(source, adapter, data, place / "p.parquet")
        _, _, told["read_only"] = run.wait()
        told["read_only_exit"] = run.process.returncode
    finally:
        subprocess.run(["umount", str(place)], check=True)
    return {k: v.replace(str(folder), "") if isinstance(v, str) else v for k, v in told.items()}


# --- beside datasets.map ----------------------------------------------------------------------------


def real(data: Dataset, where: str, adapter: Path, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Real rows in two modes, and a sample of them by `benchmarks.hf_batch`."""
    source = candidates(data, folder / "real.parquet", given.requests, given.candidates, given.seed)
    found: dict[str, Any] = {"rows": given.requests * given.candidates}
    for mode in given.modes.split(","):
        output = folder / f"{mode}.parquet"
        summary, seen, _ = Scoring(source, adapter, where, output, "--mode", mode).wait()
        ours = pq.read_table(output)
        mine = dict(zip(zip(*(ours[c].to_pylist() for c in ("request_id", "item_id")), strict=True),
                        ours["score"].to_pylist(), strict=True))  # fmt: skip
        told = {
            "rows_per_second": summary["rows_per_second"], "seconds": summary["seconds"], "tokens": summary["tokens"],
            "tokens_per_row": summary["tokens"] / summary["rows"], "mib_peak": max(seen, default=0),
        }  # fmt: skip
        for batch in given.batches:
            way = [str(source), "-a", str(adapter), "--data", where, "--mode", mode, "--batch", str(batch)]
            count = max(batch, given.sample // (8 if batch == 1 else 1))
            other = fresh("the datasets.map script", ["benchmarks.hf_batch", *way, "--rows", str(count)])
            pairs = np.array([(mine[r, i], s) for r, i, s in other.pop("scores")])
            told[f"datasets_map_batch_{batch}"] = {
                **other,
                "ratio": summary["rows_per_second"] / other["rows_per_second"],
                "scores_differ_mean": float(np.abs(pairs[:, 0] - pairs[:, 1]).mean()),
                "scores_mean": float(pairs[:, 0].mean()),
                "scores_correlation": float(np.corrcoef(pairs.T)[0, 1]),
            }
        found[mode] = told
        print(f"real, {mode}: {json.dumps(told)}", file=sys.stderr, flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--only", default="", help=f"sections out of {', '.join(SECTIONS)}")
    flags.add_argument("--data", default="data/ml-100k")
    flags.add_argument("--adapter", type=Path, default=Path("adapters/ml-100k"))
    flags.add_argument("--rows", type=int, default=1_000_000, help="candidate rows of million, kills and disk")
    flags.add_argument("--kills", type=int, default=20)
    flags.add_argument("--requests", type=int, default=1000, help="requests of real")
    flags.add_argument("--candidates", type=int, default=100)
    flags.add_argument("--modes", default="likelihood,embedding")
    flags.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    flags.add_argument("--sample", type=int, default=320, help="rows that the datasets.map script scores")
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--json", type=Path)
    given = flags.parse_args(arguments)
    wanted = sections(given.only, SECTIONS)
    data = Dataset.open(given.data)
    results: dict[str, Any] = {"machine": machine(torch.device("cpu")), "data": data.name, "seed": given.seed}
    folder = Path(tempfile.mkdtemp(prefix="palate-batch-"))
    try:
        if wanted - {"real"}:
            bundle = random_bundle(folder, data)
            source = candidates(data, folder / "million.parquet", given.rows // 100, 100, given.seed)
            results["million"] = million(source, bundle, given.data, folder)
            print(f"million: {json.dumps(results['million'])}", file=sys.stderr, flush=True)
            if "kills" in wanted:
                results["kills"] = kills(source, bundle, given.data, folder, given.kills, given.seed)
                print(f"kills: {json.dumps(results['kills'])}", file=sys.stderr, flush=True)
            if "disk" in wanted:
                results["disk"] = disk(source, bundle, given.data, folder)
                print(f"disk: {json.dumps(results['disk'])}", file=sys.stderr, flush=True)
        if "real" in wanted:
            results["real"] = real(data, given.data, given.adapter, folder, given)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(results, indent=1))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
