"""What the tests of export share: bundles whose LoRA counts, and engines that speak vLLM's and SGLang's wire formats.

`engine` is a real HTTP server over stock transformers. It reads bodies as vLLM 0.32.0 and SGLang 0.5.23 do (the fields
they know, torch.load with weights_only, placeholders counted), so a client that sends something else fails.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facade import toy_features
from palate import prompting
from palate.config import LoraConfig, ModelConfig
from palate.data import Dataset
from palate.model import Model, bundle

VLLM = {
    "/generative_scoring": {"model", "query", "items", "label_token_ids", "apply_softmax", "item_first"},
    "/v1/completions": {
        "model", "prompt_embeds", "max_tokens", "temperature", "logprobs", "logprob_token_ids",
        "return_tokens_as_token_ids",
    },
}  # fmt: skip
SGLANG = {
    "/v1/score": {
        "model", "query", "items", "label_token_ids", "apply_softmax", "item_first", "embed_override_token_id",
        "query_embed_overrides", "item_embed_overrides",
    },
    "/generate": {"input_embeds", "sampling_params", "return_logprob", "token_ids_logprob", "lora_path"},
    "/v1/embeddings": {"model", "input", "embed_override_token_id", "embed_overrides"},
}  # fmt: skip


def counting_bundle(folder: Path, base: Path, data: Path, **options: Any) -> Path:
    """A bundle over the tiny data set whose LoRA changes the logits; options go into the model's config."""
    dataset = Dataset.open(data)
    told = {"base": f"path:{base}", "dtype": "float32", "hidden": 16, "matching": 8, **options}
    config = ModelConfig.parse(told, "test").model_copy(update={"lora": LoraConfig(rank=4)})
    model = Model.create(config, toy_features(dataset), device="cpu", seed=3)
    count(model)
    meta = {
        "name": "counting",
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "encoders": {},
        "templates": {n: prompting.load(n, "en").hash for n in ("sequence", "yes_no")},
        "prompt": {"max_tokens": 700, "max_history": 20},
        "metrics": [],
    }
    return bundle.save(folder, model, meta)


def count(model: Model) -> Model:
    """Make a fresh LoRA, which starts as the identity, change what the model says."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, p in model.trainable().items():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    return model


def logits(lm: Any, ids: Sequence[int]) -> torch.Tensor:
    """Logits of stock transformers: [T, V] in float32."""
    with torch.inference_mode():
        found: torch.Tensor = lm(torch.tensor([list(ids)])).logits[0].float()
    return found


class Engine:
    """An engine's answers by stock transformers. asked: (path, body) of every request, in order."""

    def __init__(self, lm: Any) -> None:
        self.lm, self.asked, self.url = lm, list[tuple[str, dict[str, Any]]](), ""
        self.table = lm.get_input_embeddings().weight.detach().float()

    def answer(self, path: str, body: dict[str, Any]) -> Any:
        known = {**VLLM, **SGLANG}.get(path)
        if known is None or set(body) - known:
            raise ValueError(f"{path} does not know {sorted(set(body) - (known or set()))}")
        self.asked.append((path, body))
        return getattr(self, "_" + path.strip("/").replace("/", "_"))(body)

    def _next(self, embeds: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = self.lm(inputs_embeds=embeds[None]).logits[0, -1].double().log_softmax(-1)
        return out

    def _generative_scoring(self, body: dict[str, Any]) -> Any:
        labels, data = body["label_token_ids"], []
        for n, item in enumerate(body["items"]):
            row = self._next(self.table[body["query"] + item])[labels]
            data.append({"index": n, "object": "score", "score": float(row.softmax(-1)[0])})
        return {"object": "list", "model": body["model"], "data": data[::-1]}

    def _v1_completions(self, body: dict[str, Any]) -> Any:
        if body["logprobs"] is None or body["max_tokens"] != 1:
            raise ValueError("when using `logprob_token_ids`, `logprobs` must be set")
        choices = []
        for n, text in enumerate(body["prompt_embeds"]):
            payload = io.BytesIO(base64.b64decode(text, validate=True))
            embeds = torch.load(payload, weights_only=True, map_location="cpu")
            if embeds.dim() != 2 or embeds.shape[1] != self.table.shape[1]:
                raise ValueError(f"prompt_embeds: got shape {tuple(embeds.shape)}")
            row = self._next(embeds.float())
            told = {f"token_id:{t}": float(row[t]) for t in [int(row.argmax()), *body["logprob_token_ids"]]}
            choices.append({"index": n, "logprobs": {"top_logprobs": [told]}})
        return {"object": "text_completion", "choices": choices[::-1]}

    def _placed(self, ids: list[int], vectors: Any, token: int | None) -> torch.Tensor:
        embeds = self.table[ids].clone()
        if vectors is not None:
            places = [n for n, i in enumerate(ids) if i == token]
            if len(places) != len(vectors):
                raise ValueError(f"{len(places)} occurrences of the placeholder, but {len(vectors)} embeddings")
            embeds[places] = torch.tensor(vectors)
        return embeds

    def _v1_score(self, body: dict[str, Any]) -> Any:
        token = body.get("embed_override_token_id")
        query = self._placed(body["query"], body.get("query_embed_overrides"), token)
        items = body.get("item_embed_overrides") or [None] * len(body["items"])
        if len(items) != len(body["items"]):
            raise ValueError("item_embed_overrides length must match items length")
        rows = []
        for ids, vectors in zip(body["items"], items, strict=True):
            row = self._next(torch.cat([query, self._placed(ids, vectors, token)]))[body["label_token_ids"]]
            rows.append(row.exp().tolist())
        return {"object": "scoring", "scores": rows, "model": body["model"]}

    def _generate(self, body: dict[str, Any]) -> Any:
        out = []
        for embeds, labels in zip(body["input_embeds"], body["token_ids_logprob"], strict=True):
            row = self._next(torch.tensor(embeds))
            out.append({"meta_info": {"output_token_ids_logprobs": [[[float(row[t]), t, None] for t in labels]]}})
        return out

    def _v1_embeddings(self, body: dict[str, Any]) -> Any:
        overrides = body.get("embed_overrides")
        embeds = self._placed(body["input"], overrides and overrides[0], body.get("embed_override_token_id"))
        body_of = getattr(self.lm, self.lm.base_model_prefix)
        with torch.inference_mode():
            hidden = body_of(inputs_embeds=embeds[None]).last_hidden_state[0, -1]
        return {"data": [{"index": 0, "embedding": torch.nn.functional.normalize(hidden, dim=0).tolist()}]}


@contextmanager
def engine(lm: Any) -> Iterator[Engine]:
    """An `Engine` that listens on a free port of this machine."""
    found = Engine(lm)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, answer = 200, found.answer(self.path, body)
            except (ValueError, KeyError, AttributeError) as error:
                status, answer = 400, {"error": {"message": f"{type(error).__name__}: {error}"}}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def close(a: Any, b: Any) -> float:
    """Largest difference of two arrays."""
    return float(np.abs(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)).max())
