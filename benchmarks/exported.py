"""An exported adapter behind another engine against Palate's own model: how far answers to the same questions differ.

    palate export adapters/ml-100k --to vllm --merge --dtype float32 -o exports/vllm
    vllm serve exports/vllm/model --served-model-name palate --enable-prompt-embeds --dtype float32 --max-model-len 1024
    python -m benchmarks.exported exports/vllm --engine vllm --url http://localhost:8000

Results and how they were run: docs/exporting.md.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from palate import Recommender
from palate.apps.export.client import ENGINES, Server
from palate.apps.export.prompts import Asker
from palate.engine.modes.yes_no import YesNo
from palate.schema import Request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="vllm")
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--model", default="palate", help="what the engine calls the model or the adapter")
    parser.add_argument("--adapter", default="adapters/ml-100k")
    parser.add_argument("--data", default=None, help="data set folder; by default the adapter's")
    parser.add_argument("--user", default="42")
    parser.add_argument("--items", type=int, default=30)
    parser.add_argument("--dtype", default="float32", help="of Palate's own model")
    parser.add_argument("--text", action="store_true", help="without soft tokens")
    told = parser.parse_args()
    rec = Recommender.load(told.adapter, data=told.data, dtype=told.dtype)
    asker = Asker(told.export, rec.dataset, soft=not told.text)
    history = tuple(rec.dataset.histories.events(told.user)[:30])
    items = rec.shelf.item_ids[:: max(1, len(rec.shelf) // told.items)][: told.items]
    question = asker.question(items, history)
    request = Request("r", history=history, candidates=items)
    mine = YesNo().scores(rec.runner, asker.serializer, [request])[0].scores.astype(np.float64)
    start = time.perf_counter()
    found = ENGINES[told.engine](Server(told.url, told.model), asker, question)
    apart = np.abs(found - mine)
    facts = {
        "engine": told.engine,
        "items": len(items),
        "prompt tokens": len(question.prompt),
        "soft tokens in the prompt": sum(s.length for s in question.slots),
        "largest difference": float(apart.max()),
        "root mean square": float(np.sqrt((apart**2).mean())),
        "spread of the scores": float(np.ptp(mine)),
        "same order": bool((np.argsort(-found, kind="stable") == np.argsort(-mine, kind="stable")).all()),
        "seconds": round(time.perf_counter() - start, 2),
    }
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
