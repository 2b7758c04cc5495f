"""Bulk scoring as one would write it with `datasets.map` and stock transformers: a forward over each row.

One map. It does the same job as `palate score`: the same base cut to the same depth, LoRA merged by peft, soft tokens
put into the prompt's embeddings, and as the score the mean log-probability of the title, or the product of the matching
query and the item's vector. Prompts and soft tokens come from Palate, built once a request (a script that builds them
for every row would be slower still).

    python -m benchmarks.hf_batch CANDIDATES.parquet -a adapters/ml-100k --data DIR --rows 200 --batch 16

Prints JSON: rows a second, and the scores, to be compared with Palate's.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate import Recommender, sources
from palate.engine.pack import concat
from palate.schema import Event, Prompt, Request


def stock(adapter: Path, layers: int | None, base: str, dtype: torch.dtype) -> Any:
    """The base by transformers alone, LoRA merged by peft."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(sources.base_model(base), dtype=dtype, attn_implementation="sdpa")
    if layers is not None:
        lm.model.layers = lm.model.layers[:layers]
        lm.config.num_hidden_layers = layers
    return PeftModel.from_pretrained(lm, adapter).merge_and_unload().eval()


class Script:
    """What the map calls."""

    def __init__(self, adapter: Path, data: Path, mode: str) -> None:
        self.rec = Recommender.load(adapter, data=data, device="cpu")
        self.mode = self.rec.mode(mode)
        config = self.rec.model.config
        self.lm = stock(adapter, config.layers, config.base, self.rec.model.dtype)
        self.template = self.mode.template(self.rec.serializer)
        self.prompt = lru_cache(4)(self._prompt)

    def _prompt(self, history: tuple[str, ...]) -> tuple[Prompt, Tensor]:
        request = Request("r", None, tuple(map(Event, history)))
        args = () if self.mode.name == "likelihood" else ((),)
        prompt = self.rec.serializer.prompt(self.template, request, *args)
        return prompt, self.rec.model.embed(concat([prompt]))

    @torch.inference_mode()
    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[float]]:
        """Scores of a batch of rows (history, item_id): one padded forward."""
        asked = [self.prompt(tuple(h)) for h in batch["history"]]
        embed = self.lm.get_input_embeddings()
        rows, titles = [], []
        for (prompt, embeds), item in zip(asked, batch["item_id"], strict=True):
            title = np.empty(0, dtype=np.int64)
            if self.mode.name == "likelihood":
                request = Request("r", None, tuple(map(Event, prompt.history)), (item,))
                (branch,) = self.rec.serializer.branches(self.template, request, [item])
                title = branch.token_ids
            titles.append(torch.from_numpy(title))
            rows.append(torch.cat([embeds, embed(titles[-1])]))
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # on the right: a causal row sees none of it
        hidden = self.lm.model(inputs_embeds=padded, use_cache=False).last_hidden_state
        scores = []
        for n, ((prompt, _), item, title) in enumerate(zip(asked, batch["item_id"], titles, strict=True)):
            if self.mode.name == "likelihood":
                at = hidden[n, len(prompt) - 1 : len(prompt) - 1 + len(title)]
                told = self.lm.lm_head(at).float().log_softmax(-1).gather(1, title[:, None])
                scores.append(float(told.mean()))
            else:
                end = prompt.item_ends[-1] if prompt.item_ends else prompt.start
                query = self.rec.model.queries(hidden[n, end : end + 1])[0]
                scores.append(float(self._vectors()[self.rec.shelf.index(item)] @ query))
        return {"score": scores}

    @lru_cache(1)  # noqa: B019 - one script a process
    def _vectors(self) -> Tensor:
        return self.rec.model.item_vectors().float()


def rows(path: Path, count: int) -> list[dict[str, Any]]:
    """The first `count` (request, item) rows of a row-form candidate file."""
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    for request in pq.read_table(path).to_pylist():
        for item in request["candidates"]:
            if len(found) == count:
                return found
            found.append({"request_id": request["request_id"], "history": request["history"], "item_id": item})
    return found


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("candidates", type=Path)
    flags.add_argument("-a", "--adapter", type=Path, required=True)
    flags.add_argument("--data", type=Path, required=True)
    flags.add_argument("--mode", choices=("likelihood", "embedding"), default="likelihood")
    flags.add_argument("--rows", type=int, default=200)
    flags.add_argument("--batch", type=int, default=16)
    given = flags.parse_args()
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    script = Script(given.adapter, given.data, given.mode)
    table = Dataset.from_list(rows(given.candidates, given.rows))
    warm = Dataset.from_list(rows(given.candidates, given.batch))
    warm.map(script, batched=True, batch_size=given.batch, load_from_cache_file=False, new_fingerprint="warm")
    began = time.perf_counter()
    done = table.map(
        script, batched=True, batch_size=given.batch, load_from_cache_file=False, new_fingerprint=f"b{given.batch}"
    )
    seconds = time.perf_counter() - began
    told = {"rows": len(done), "batch": given.batch, "seconds": seconds, "rows_per_second": len(done) / seconds}
    print(json.dumps({**told, "scores": [[r["request_id"], r["item_id"], r["score"]] for r in done]}))


if __name__ == "__main__":
    main()
